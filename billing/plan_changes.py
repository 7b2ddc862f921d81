"""Another plan, or an add-on more or less, as the customer asks for it.

What costs more holds at once: the provider takes the difference for the rest of the period first,
and unpaid nothing has changed. What costs less holds from the next period on: the wish is written
here first (`next_version`, `ends_at_period_end`), then its provider is told of it, again and again
until it has heard (`next_told`), and until the period is over the wish can be withdrawn.
What a subscription consists of is always what its provider then says (`contents`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import structlog
from django.db import transaction
from django.db.models import QuerySet

from billing import (
    accounts,
    catalogue,
    contents,
    history,
    providers,
    subscriptions,
    tickets,
    wishes,
)
from billing.accounts import Account
from billing.models import BillingEvent, PlanVersion, Subscription
from billing.providers import Change, Changed, Declined, ProviderUnavailable
from billing.states import State
from billing.subscriptions import NoSubscription
from billing.wishes import NotOffered, Obstacle, Wish

log = structlog.get_logger(__name__)

Kind = BillingEvent.Kind

# A price shown longer ago is worked out and shown again before it is taken.
QUOTED_FOR = timedelta(minutes=15)


class Hindered(Exception):
    """`obstacle` says why nothing can be changed at the moment."""

    def __init__(self, obstacle: Obstacle):
        super().__init__(obstacle)
        self.obstacle = obstacle


class OutOfDate(Exception):
    """The price was shown too long ago."""


@dataclass(frozen=True)
class Quote:
    """What a wish costs, as of a moment at which it may be asked for for `QUOTED_FOR`."""

    wish: Wish
    due_now_minor: int
    currency: str
    as_of: datetime

    @property
    def credit_minor(self) -> int:
        """What is given back; 0 where something is taken."""
        return max(0, -self.due_now_minor)


# ------------------------------------------------------------------ what it takes


def quote(subscription: Subscription, wish: Wish, now: datetime) -> Quote:
    """Asks the provider what a wish takes now.

    Raises `ProviderUnavailable`, `Hindered`, `Declined` where the provider won't do it.
    """
    if hindrance := wishes.obstacle(subscription, wish):
        raise Hindered(hindrance)
    currency = wish.version.currency
    as_of = now.replace(microsecond=0)
    if wish.at == "period_end":
        return Quote(wish, 0, currency, as_of)
    provider = providers.get(subscription.provider)
    change = _change(wish, str(subscription.pk), as_of)
    shown = provider.preview(subscription.provider_subscription_id, change)
    return Quote(wish, shown.due_now_minor, shown.currency, as_of)


# ------------------------------------------------------------------ now


def change_now(account: Account, wish: Wish, as_of: datetime, now: datetime) -> Changed:
    """Asks the provider for what holds at once, and applies what it then says.

    Asked twice for the same quote, takes the money once. Raises `OutOfDate`, `Hindered`,
    `NotOffered` where the subscription is another meanwhile, `NoSubscription`;
    `ProviderUnavailable` where it isn't known whether it was done: beat asks.
    """
    if not now - QUOTED_FOR <= as_of <= now:
        raise OutOfDate
    with transaction.atomic():
        row = _held(account.pk)
        if hindrance := wishes.obstacle(row, wish):
            raise Hindered(hindrance)
        if row.synced_at is None:
            raise Hindered(Obstacle.UNDER_WAY)
        if not _still_offered(row, wish):
            raise NotOffered
        # Whoever is killed from here on: `subscriptions.due_for_sync` sees that it was asked for.
        Subscription.objects.filter(pk=row.pk).update(synced_at=None)
    items = " ".join(item.key for item in wish.items)
    reference = str(uuid5(row.pk, f"{as_of.isoformat()} {items}"))
    provider = providers.get(row.provider)
    try:
        outcome = provider.change(row.provider_subscription_id, _change(wish, reference, as_of))
    except Declined as error:
        outcome = Changed("unpaid", str(error))
    log.info("subscription.change", subscription=str(row.pk), items=items, outcome=outcome.kind)
    try:
        subscriptions.sync(row.pk, now)
    except ProviderUnavailable:
        log.warning("subscription.unanswered", subscription=str(row.pk))
    return outcome


def _still_offered(row: Subscription, wish: Wish) -> bool:
    """Whether the wish starts from what the subscription consists of now."""
    if wish.version == row.version:
        return set(wishes.add_ons_of(row)) <= set(wish.add_ons)
    return wish == wishes.to_version(row, wish.version)


# ------------------------------------------------------------------ at the period's end


def plan(account: Account, version: PlanVersion, now: datetime) -> Changed:
    """Lets another plan take the place of today's when the period ends.

    Raises `Hindered`, `NoSubscription`; `ProviderUnavailable`: it is noted, and beat tells the
    provider.
    """
    with transaction.atomic():
        row = _held(account.pk)
        if hindrance := wishes.obstacle(row):
            raise Hindered(hindrance)
        if row.next_version_id != version.pk:
            row.next_version = version
            _note(row, Kind.CHANGE_PLANNED, now, next_plan=version.plan.name)
    return tell(row.pk, now)


def withdraw(account: Account, now: datetime) -> Changed:
    """Stays on the plan, where another was to take its place. Raises as `plan`; `NotOffered`
    where it is the same plan at a new price, which staff have announced.
    """
    with transaction.atomic():
        row = _held(account.pk)
        planned = row.next_version
        if planned is not None and wishes.is_new_price(row):
            raise NotOffered
        if planned is not None:
            row.next_version = None
            _note(row, Kind.CHANGE_WITHDRAWN, now, wanted_plan=planned.plan.name)
    return tell(row.pk, now)


def drop(account: Account, add_on_id: int, now: datetime) -> Changed:
    """Lets an add-on end with the period. Raises as `plan`; `NotOffered` for one it hasn't."""
    return _mark(account, add_on_id, True, now)


def keep(account: Account, add_on_id: int, now: datetime) -> Changed:
    """Withdraws that."""
    return _mark(account, add_on_id, False, now)


def _mark(account: Account, add_on_id: int, ends: bool, now: datetime) -> Changed:
    with transaction.atomic():
        row = _held(account.pk)
        if hindrance := wishes.obstacle(row):
            raise Hindered(hindrance)
        held = contents.alive(row).filter(add_on_id=add_on_id).select_related("add_on").first()
        if held is None:
            raise NotOffered
        if held.ends_at_period_end != ends:
            held.ends_at_period_end = ends
            held.save(update_fields=["ends_at_period_end"])
            kind = Kind.CHANGE_PLANNED if ends else Kind.CHANGE_WITHDRAWN
            _note(row, kind, now, add_on=held.add_on.name)
    return tell(row.pk, now)


def _note(row: Subscription, kind: BillingEvent.Kind, now: datetime, **data: Any) -> None:
    row.next_told = False
    row.save(update_fields=["next_version", "next_told"])
    at = row.period_end.isoformat()
    history.record(kind, row.account_id, now, subscription=row, at=at, **data)


def tell(subscription_id: UUID, now: datetime) -> Changed:
    """Tells the provider what the subscription consists of from its next period on.

    Does nothing where it knows. What the provider won't do is withdrawn here. Raises
    `ProviderUnavailable`: beat tells it again.
    """
    row = _paid().get(pk=subscription_id)
    if row.next_told or row.state == State.ENDED:
        return Changed("done")
    planned = wishes.planned(row)
    change = _change(planned, f"{row.pk}/{tickets.take()}", None)
    try:
        outcome = providers.get(row.provider).change(row.provider_subscription_id, change)
    except Declined as error:
        outcome = Changed("unpaid", str(error))
    with transaction.atomic():
        accounts.locked(row.account_id)
        row = _paid().get(pk=row.pk)
        if row.state == State.ENDED:
            return outcome
        if wishes.planned(row).items != planned.items:
            # Whoever told the newer wish may have been heard before this one.
            row.next_told = False
            row.save(update_fields=["next_told"])
            return outcome
        row.next_told = True
        row.save(update_fields=["next_told"])
        if outcome.kind != "done":
            _refused(row, outcome.reason, now)
    return outcome


def to_tell() -> QuerySet[Subscription]:
    """Subscriptions whose provider has not heard yet what is planned: ask once a minute."""
    return Subscription.objects.filter(next_told=False).exclude(state=State.ENDED)


def _refused(row: Subscription, reason: str, now: datetime) -> None:
    """Withdraws what was planned. The customer hears of it who wished for it: a new price comes
    from staff, and `price_changes` plans it again.
    """
    log.warning("subscription.change_refused", subscription=str(row.pk), reason=reason)
    wanted = row.next_version.plan.name if row.next_version else ""
    of_staff = wishes.is_new_price(row)
    row.next_version = None
    row.save(update_fields=["next_version"])
    kept = contents.alive(row).filter(ends_at_period_end=True).update(ends_at_period_end=False)
    if of_staff and not kept:
        return
    history.record(
        Kind.CHANGE_WITHDRAWN,
        row.account_id,
        now,
        subscription=row,
        wanted_plan=wanted,
        reason=reason[:200],
    )


# ------------------------------------------------------------------


def _change(wish: Wish, reference: str, as_of: datetime | None) -> Change:
    version = wish.version
    interval = catalogue.interval_of(version)
    return Change(reference, wish.items, version.currency, interval, wish.at, as_of)


def _paid() -> QuerySet[Subscription]:
    return Subscription.objects.select_related("version__plan", "next_version__plan")


def _held(account_id: UUID) -> Subscription:
    """The account's living subscription, under its lock."""
    accounts.locked(account_id)
    row = _paid().filter(account_id=account_id).exclude(state=State.ENDED).first()
    if row is None:
        raise NoSubscription
    return row
