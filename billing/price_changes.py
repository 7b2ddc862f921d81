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
from django.db.models import QuerySet

from billing import accounts, catalogue, providers, rating, terms
from billing.models import Invoice, PlanVersion, PriceChange, PriceMove, Subscription
from billing.providers import Change
from billing.terms import NO_PROVIDER, Standing
from gateway import usage
from gateway.usage import PricedUnits

log = structlog.get_logger(__name__)

NOTICE = timedelta(days=30)
# How long before the period's end its provider is told.
_TELL_BEFORE = timedelta(days=3)

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
    """Subscriptions that live on an older version than this one, at the same rhythm."""
    return (
        Subscription.objects.exclude(state=Subscription.State.ENDED)
        .filter(
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

    Raises `ProviderUnavailable`: what was withdrawn before stays so, and it may be asked again.
    """
    for move in change.moves.filter(state=Moving.PLANNED):
        _call_off(move, Moving.WITHDRAWN, now)
    PriceChange.objects.filter(pk=change.pk).update(state=State.WITHDRAWN)
    log.info("price_change.withdrawn", change=change.pk)


def keep_old_price(move: PriceMove, now: datetime) -> None:
    """Leaves this customer on its version for good. Raises `ProviderUnavailable`."""
    _call_off(move, Moving.KEPT, now)


def unannounced() -> QuerySet[PriceMove]:
    """Moves whose customers are still to be told: that they come, or that they don't."""
    told = (Moving.PLANNED, Moving.KEPT, Moving.WITHDRAWN)
    return (
        PriceMove.objects.filter(announced_at=None, state__in=told)
        .select_related("change__to_version__plan", "from_version", "subscription__account")
        .order_by("pk")
    )


# ------------------------------------------------------------------ what time does


def due_to_advance(now: datetime) -> list[int]:
    """Moves that `advance` has something to do for: ask every few minutes."""
    planned = PriceMove.objects.filter(
        state=Moving.PLANNED, change__state=State.ANNOUNCED
    ).select_related("change", "subscription")
    return [move.pk for move in planned.iterator() if _is_over(move) or _to_tell(move, now)]


def advance(move_id: int, now: datetime) -> None:
    """Tells the provider when the time has come, and notes what has become of the move.

    Raises `ProviderUnavailable`.
    """
    move = _planned(move_id)
    if move is None:
        return
    if _is_over(move):
        _note(move, now)
    elif _to_tell(move, now):
        _plan(move, now)


def _is_over(move: PriceMove) -> bool:
    subscription = move.subscription
    ended = subscription.state == Subscription.State.ENDED
    return ended or subscription.version_id != move.from_version_id


def _to_tell(move: PriceMove, now: datetime) -> bool:
    """Whether the next period is the first that begins at the date or later, and is near."""
    subscription = move.subscription
    return (
        move.scheduled_at is None
        and subscription.period_end >= move.change.effective_at
        and subscription.period_end - now <= _TELL_BEFORE
        and not subscription.cancel_at_period_end
        and subscription.next_version_id in (None, move.change.to_version_id)
    )


def _note(move: PriceMove, now: datetime) -> None:
    moved = move.subscription.version_id == move.change.to_version_id
    state = Moving.MOVED if moved else Moving.LEFT
    PriceMove.objects.filter(pk=move.pk, state=Moving.PLANNED).update(
        state=state, moved_at=now if moved else None
    )
    log.info("price_change.moved" if moved else "price_change.left", move=move.pk)
    if not move.change.moves.filter(state=Moving.PLANNED).exists():
        PriceChange.objects.filter(pk=move.change_id, state=State.ANNOUNCED).update(
            state=State.DONE
        )


def _plan(move: PriceMove, now: datetime) -> None:
    """Writes down what is wanted, then asks: a process killed in between asks again."""
    to_version = move.change.to_version
    _set_next(move, to_version)
    _ask(move, to_version, now)
    PriceMove.objects.filter(pk=move.pk).update(scheduled_at=now)


def _call_off(move: PriceMove, state: PriceMove.State, now: datetime) -> None:
    held = _planned(move.pk)
    if held is None:
        return
    if held.subscription.next_version_id == held.change.to_version_id:
        _ask(held, held.from_version, now)
        _set_next(held, None)
    told = held.announced_at is not None
    PriceMove.objects.filter(pk=held.pk, state=Moving.PLANNED).update(
        state=state, announced_at=None if told else now
    )


def _planned(move_id: int) -> PriceMove | None:
    return (
        PriceMove.objects.filter(pk=move_id, state=Moving.PLANNED)
        .select_related("change__to_version__plan", "subscription", "from_version__plan")
        .first()
    )


def _set_next(move: PriceMove, version: PlanVersion | None) -> None:
    with transaction.atomic():
        accounts.locked(move.subscription.account_id)
        Subscription.objects.filter(
            pk=move.subscription_id, version_id=move.from_version_id
        ).update(next_version=version)


def _ask(move: PriceMove, version: PlanVersion, now: datetime) -> None:
    subscription = move.subscription
    if subscription.provider == NO_PROVIDER:
        return
    providers.get(subscription.provider).change(
        subscription.provider_subscription_id,
        Change(
            reference=f"price-move/{move.pk}/{version.pk}",
            items=catalogue.items(version, _has(subscription, now).add_ons),
            currency=version.currency,
            interval=catalogue.interval_of(version),
            at="period_end",
        ),
    )


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
    ids = (version.pk, *(add_on.pk for add_on in has.add_ons))
    price = terms.price_of(terms.OF_VERSION + "+".join(map(str, ids)))
    lines = rating.rate(price, used)[1:] if price else ()
    base_minor = version.base_price_minor + sum(one.price_minor for one in has.add_ons)
    months = terms.months_of(version)
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
