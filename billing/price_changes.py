"""A new price for customers who have an old one: previewed, announced, dated, applied, recorded.

A price seen is a price kept, until a change that was announced at least `NOTICE` before. Who has
an older version of the plan, in the same currency and rhythm, moves with the first period that
begins at the date or later; who is told to keep the old price never does. Usage goes on, keys
stay. The provider is asked shortly before that period, as for any change at a period's end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet

from billing import accounts, pricing, rating, terms
from billing.models import Invoice, PlanVersion, PriceChange, PriceMove, Subscription
from billing.terms import NO_PROVIDER, Standing
from gateway import usage
from gateway.usage import PricedUnits

log = structlog.get_logger(__name__)

NOTICE = timedelta(days=30)
# How long before the period's end it is planned; from then on nothing else can be bought for now.
_PLAN_BEFORE = timedelta(days=1)
# What the provider refused, or the customer's own plans undid, is planned again after that.
_PLAN_AGAIN = timedelta(hours=1)

State = PriceChange.State
Moving = PriceMove.State


class TooSoon(Exception):
    """The date leaves less than the notice."""


class NothingToMove(Exception):
    """Nobody has an older version."""


@dataclass(frozen=True)
class Effect:
    """What a change means for one customer, on its usage of the last period that is over.

    Where none is over yet: of the running one so far. Yearly base prices count a twelfth.
    """

    subscription: Subscription
    old_minor: int
    new_minor: int
    currency: str
    period_start: datetime
    period_end: datetime

    @property
    def difference_minor(self) -> int:
        return self.new_minor - self.old_minor


def affected(version: PlanVersion) -> QuerySet[Subscription]:
    """Subscriptions that live on an older version than this one, at the same rhythm.

    Not those that were told to keep its price.
    """
    kept = PriceMove.objects.filter(
        subscription=OuterRef("pk"), from_version=OuterRef("version"), state=Moving.KEPT
    )
    return (
        Subscription.objects.exclude(state=Subscription.State.ENDED)
        .filter(
            ~Exists(kept),
            version__plan_id=version.plan_id,
            version__currency=version.currency,
            version__interval=version.interval,
            version__number__lt=version.number,
        )
        .select_related("account", "version__plan")
        .order_by("account__name", "pk")
    )


def preview(version: PlanVersion, now: datetime) -> Iterator[Effect]:
    """What moving everybody to this version means for each, as things stand."""
    for subscription in affected(version):
        yield _effect(subscription, version, now)


def announce(change: PriceChange, now: datetime) -> int:
    """Fixes whom the change is for and lets them be told; how many those are.

    Raises `TooSoon`, `NothingToMove`; a change that is announced already stays as it is.
    """
    with transaction.atomic():
        row = PriceChange.objects.select_for_update().get(pk=change.pk)
        if row.state != State.DRAFT:
            return row.moves.count()
        if row.effective_at < now + NOTICE:
            raise TooSoon
        moves = [
            PriceMove(
                change=row,
                subscription=effect.subscription,
                from_version=effect.subscription.version,
                old_minor=effect.old_minor,
                new_minor=effect.new_minor,
                currency=effect.currency,
            )
            for effect in preview(row.to_version, now)
        ]
        if not moves:
            raise NothingToMove
        PriceMove.objects.bulk_create(moves)
        row.state, row.announced_at = State.ANNOUNCED, now
        row.save(update_fields=["state", "announced_at"])
    log.info("price_change.announced", change=row.pk, customers=len(moves))
    return len(moves)


def withdraw(change: PriceChange, now: datetime) -> None:
    """Calls off what has not been done; who was told is told that, too.

    Does nothing to a change that is done. Killed in between, `advance` goes on with it.
    """
    with transaction.atomic():
        row = PriceChange.objects.select_for_update().get(pk=change.pk)
        if row.state not in (State.DRAFT, State.ANNOUNCED):
            return
        row.state = State.WITHDRAWN
        row.save(update_fields=["state"])
    for move in change.moves.filter(state=Moving.PLANNED):
        _call_off(move, Moving.WITHDRAWN, now)
    log.info("price_change.withdrawn", change=change.pk)


def keep_old_price(move: PriceMove, now: datetime) -> None:
    """Leaves this customer on its version for good."""
    _call_off(move, Moving.KEPT, now)


def unannounced() -> QuerySet[PriceMove]:
    """Moves whose customers are still to be told: that they come, or that they don't."""
    told = (Moving.PLANNED, Moving.KEPT, Moving.WITHDRAWN)
    return (
        PriceMove.objects.filter(announced_at=None, state__in=told)
        .exclude(state=Moving.PLANNED, change__state=State.WITHDRAWN)
        .select_related("change__to_version__plan", "from_version", "subscription__account")
        .order_by("pk")
    )


# ------------------------------------------------------------------ what time does


def due_to_advance(now: datetime) -> list[int]:
    """Moves that `advance` has something to do for: ask every few minutes."""
    planned = PriceMove.objects.filter(state=Moving.PLANNED).select_related(
        "change", "subscription"
    )
    return [
        move.pk
        for move in planned.iterator()
        if _is_called_off(move) or _is_over(move) or _is_near(move, now)
    ]


def advance(move_id: int, now: datetime) -> None:
    """Plans the new version when the time has come, and notes what has become of the move."""
    with transaction.atomic():
        move = _planned(move_id)
        if move is None:
            return
        if _is_called_off(move):
            _call_off(move, Moving.WITHDRAWN, now)
        elif _is_over(move):
            _note(move, now)
        elif _is_near(move, now):
            _set_next(move.subscription, move.change.to_version)
            move.scheduled_at = now
            move.save(update_fields=["scheduled_at"])


def _is_called_off(move: PriceMove) -> bool:
    """Whether whoever withdrew its change was killed before the move's turn came."""
    return move.change.state == State.WITHDRAWN


def _is_over(move: PriceMove) -> bool:
    subscription = move.subscription
    ended = subscription.state == Subscription.State.ENDED
    return ended or subscription.version_id != move.from_version_id


def _is_near(move: PriceMove, now: datetime) -> bool:
    """Whether the next period is the first that begins at the date or later, and is near.

    What the customer has planned meanwhile goes first.
    """
    subscription = move.subscription
    return (
        subscription.next_version_id is None
        and subscription.period_end >= move.change.effective_at
        and subscription.period_end - now <= _PLAN_BEFORE
        and not subscription.cancel_at_period_end
        and (move.scheduled_at is None or move.scheduled_at <= now - _PLAN_AGAIN)
    )


def _note(move: PriceMove, now: datetime) -> None:
    moved = move.subscription.version_id == move.change.to_version_id
    move.state = Moving.MOVED if moved else Moving.LEFT
    move.moved_at = now if moved else None
    move.save(update_fields=["state", "moved_at"])
    log.info(f"price_change.{move.state}", move=move.pk)
    if not move.change.moves.filter(state=Moving.PLANNED).exists():
        PriceChange.objects.filter(pk=move.change_id, state=State.ANNOUNCED).update(
            state=State.DONE
        )


def _call_off(move: PriceMove, state: PriceMove.State, now: datetime) -> None:
    with transaction.atomic():
        held = _planned(move.pk)
        if held is None:
            return
        if held.subscription.next_version_id == held.change.to_version_id:
            _set_next(held.subscription, None)
        # Who was told before is told that it doesn't come; the others nothing.
        held.announced_at = None if held.announced_at else now
        held.state = state
        held.save(update_fields=["state", "announced_at"])


def _planned(move_id: int) -> PriceMove | None:
    """The move with its subscription as it is now, under the account's lock."""
    moves = PriceMove.objects.select_related("change__to_version", "subscription")
    account_id = moves.get(pk=move_id).subscription.account_id
    accounts.locked(account_id)
    return moves.filter(pk=move_id, state=Moving.PLANNED).first()


def _set_next(subscription: Subscription, version: PlanVersion | None) -> None:
    """What the next period begins with; `plan_changes.tell` tells a provider."""
    subscription.next_version = version
    subscription.next_told = subscription.provider == NO_PROVIDER
    subscription.save(update_fields=["next_version", "next_told"])


# ------------------------------------------------------------------ old and new bills


def _effect(subscription: Subscription, version: PlanVersion, now: datetime) -> Effect:
    has = _has(subscription, now)
    start, end = _last_period(subscription, has, now)
    used = usage.priced_units(subscription.account_id, start, end)
    old_minor, new_minor = (_bill(one, has, used) for one in (subscription.version, version))
    return Effect(subscription, old_minor, new_minor, version.currency, start, end)


def _has(subscription: Subscription, now: datetime) -> Standing:
    """What the account would have without a contract, which takes no plan's price."""
    return replace(terms.standing(subscription.account_id, now), contract=None)


def _last_period(
    subscription: Subscription, has: Standing, now: datetime
) -> tuple[datetime, datetime]:
    closed = Invoice.objects.filter(
        account_id=subscription.account_id,
        state=Invoice.State.CLOSED,
        period_start__gte=subscription.started_at.replace(microsecond=0),
    ).first()
    if closed:
        return closed.period_start, closed.period_end
    start, end = terms.usage_periods(has, now)[:2]
    return start, end


def _bill(version: PlanVersion, has: Standing, used: list[PricedUnits]) -> int:
    """Of a month on this version, with the add-ons that the account has."""
    lines = rating.rate(pricing.version_price(version, has.add_ons), used)[1:]
    base_minor = version.base_price_minor + sum(one.price_minor for one in has.add_ons)
    months = pricing.months_of(version)
    return (2 * base_minor + months) // (2 * months) + sum(line.amount_minor for line in lines)


def of_account(account_id: UUID) -> PriceMove | None:
    """The change that the account is to expect, if there is one."""
    return (
        PriceMove.objects.filter(
            subscription__account_id=account_id,
            state=Moving.PLANNED,
            change__state=State.ANNOUNCED,
        )
        .select_related("change__to_version__plan", "from_version")
        .order_by("change__effective_at")
        .first()
    )
