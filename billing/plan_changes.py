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
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID, uuid5

import structlog
from django.db import transaction
from django.db.models import QuerySet

from billing import (
    accounts,
    add_ons,
    catalogue,
    contents,
    history,
    pricing,
    providers,
    subscriptions,
    tickets,
)
from billing.accounts import Account
from billing.models import AddOn, BillingEvent, Plan, PlanVersion, Subscription
from billing.providers import Change, Changed, Declined, Interval, Item, ProviderUnavailable
from billing.states import State
from billing.subscriptions import NoSubscription
from billing.terms import NO_PROVIDER

log = structlog.get_logger(__name__)

Kind = BillingEvent.Kind

# A price shown longer ago is worked out and shown again before it is taken.
QUOTED_FOR = timedelta(minutes=15)


class Obstacle(StrEnum):
    """Why nothing can be changed at the moment."""

    FREE = "free"  # a paid plan is bought in a checkout
    ENDING = "ending"
    UNPAID = "unpaid"
    PAUSED = "paused"
    UNDER_WAY = "under way"  # of what would hold at once: another change has been asked for
    PLANNED = "planned"  # of what would hold at once: something is planned that must go first


class NotOffered(Exception):
    """This version or add-on can't be had with this subscription."""


class Hindered(Exception):
    """`obstacle` says why nothing can be changed at the moment."""

    def __init__(self, obstacle: Obstacle):
        super().__init__(obstacle)
        self.obstacle = obstacle


class OutOfDate(Exception):
    """The price was shown too long ago."""


@dataclass(frozen=True)
class Wish:
    """What a subscription shall consist of, all of it, and since when.

    lost: add-ons that it has and that can't go along
    """

    version: PlanVersion
    add_ons: tuple[AddOn, ...]
    at: Literal["now", "period_end"]
    lost: tuple[AddOn, ...] = ()

    @property
    def items(self) -> tuple[Item, ...]:
        return catalogue.items(self.version, self.add_ons)

    @property
    def then_minor(self) -> int:
        """What is paid for each period from then on, before usage and tax."""
        return sum(item.amount_minor for item in self.items)


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


# ------------------------------------------------------------------ what may be wished for


def choices(subscription: Subscription) -> list[Wish]:
    """Paid plans on sale in the subscription's currency, each as it would be changed to."""
    on_sale = (
        PlanVersion.objects.filter(
            plan__kind=Plan.Kind.PAID,
            plan__listed=True,
            currency=subscription.version.currency,
            published_at__isnull=False,
        )
        .order_by("plan__position", "plan_id", "interval", "-number")
        .select_related("plan")
        .distinct("plan__position", "plan_id", "interval")
    )
    has = (subscription.version_id, subscription.next_version_id)
    return [to_version(subscription, version) for version in on_sale if version.pk not in has]


def to_version(subscription: Subscription, version: PlanVersion) -> Wish:
    """The wish for another plan, with the add-ons that it can have."""
    kept, lost = _fitting(_add_ons(subscription), version)
    upgrade = contents.is_upgrade(subscription.version, version)
    return Wish(version, kept, "now" if upgrade else "period_end", lost)


def choice(subscription: Subscription, version_id: int) -> Wish:
    """Raises `NotOffered`."""
    for wish in choices(subscription):
        if wish.version.pk == version_id:
            return wish
    raise NotOffered


def add_ons_on_sale(subscription: Subscription) -> list[AddOn]:
    """Add-ons that the subscription could have and has not."""
    version = subscription.version
    on_sale = AddOn.objects.filter(
        published_at__isnull=False,
        retired_at=None,
        currency=version.currency,
        interval=version.interval,
    ).exclude(pk__in=contents.alive(subscription).values("add_on"))
    held = _add_ons(subscription)
    return [
        add_on
        for add_on in on_sale
        if add_ons.is_for(add_on, version) and pricing.has_room_for(version, (*held, add_on))
    ]


def with_add_on(subscription: Subscription, add_on_id: int) -> Wish:
    """The wish for one more. Raises `NotOffered`."""
    for add_on in add_ons_on_sale(subscription):
        if add_on.pk == add_on_id:
            held = _add_ons(subscription)
            return Wish(subscription.version, (*held, add_on), "now")
    raise NotOffered


def obstacle(subscription: Subscription, wish: Wish | None = None) -> Obstacle | None:
    """Why nothing, or not this, can be changed at the moment; None: it can."""
    if subscription.provider == NO_PROVIDER:
        return Obstacle.FREE
    if subscription.cancel_at_period_end:
        return Obstacle.ENDING
    if subscription.state == State.PAST_DUE:
        return Obstacle.UNPAID
    if subscription.state == State.PAUSED:
        return Obstacle.PAUSED
    if wish is not None and wish.at == "now" and is_planned(subscription):
        return Obstacle.PLANNED
    return None


def is_planned(subscription: Subscription) -> bool:
    """Whether something changes with the next period, or its provider may think so."""
    return (
        subscription.next_version_id is not None
        or not subscription.next_told
        or contents.alive(subscription).filter(ends_at_period_end=True).exists()
    )


def quote(subscription: Subscription, wish: Wish, now: datetime) -> Quote:
    """Asks the provider what a wish takes now.

    Raises `ProviderUnavailable`, `Hindered`, `Declined` where the provider won't do it.
    """
    if hindrance := obstacle(subscription, wish):
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
        if hindrance := obstacle(row, wish):
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
        return set(_add_ons(row)) <= set(wish.add_ons)
    return wish == to_version(row, wish.version)


# ------------------------------------------------------------------ at the period's end


def plan(account: Account, version: PlanVersion, now: datetime) -> Changed:
    """Lets another plan take the place of today's when the period ends.

    Raises `Hindered`, `NoSubscription`; `ProviderUnavailable`: it is noted, and beat tells the
    provider.
    """
    with transaction.atomic():
        row = _held(account.pk)
        if hindrance := obstacle(row):
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
        if planned is not None and is_new_price(row):
            raise NotOffered
        if planned is not None:
            row.next_version = None
            _note(row, Kind.CHANGE_WITHDRAWN, now, wanted_plan=planned.plan.name)
    return tell(row.pk, now)


def is_new_price(row: Subscription) -> bool:
    """Whether what is planned is the plan that it has, at another price."""
    planned, held = row.next_version, row.version
    return planned is not None and (planned.plan_id, planned.interval) == (
        held.plan_id,
        held.interval,
    )


def drop(account: Account, add_on_id: int, now: datetime) -> Changed:
    """Lets an add-on end with the period. Raises as `plan`; `NotOffered` for one it hasn't."""
    return _mark(account, add_on_id, True, now)


def keep(account: Account, add_on_id: int, now: datetime) -> Changed:
    """Withdraws that."""
    return _mark(account, add_on_id, False, now)


def _mark(account: Account, add_on_id: int, ends: bool, now: datetime) -> Changed:
    with transaction.atomic():
        row = _held(account.pk)
        if hindrance := obstacle(row):
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
    planned = _next(row)
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
        if _next(row).items != planned.items:
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
    of_staff = is_new_price(row)
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


def _next(row: Subscription) -> Wish:
    """What the subscription shall consist of from its next period on."""
    version = row.next_version or row.version
    kept, lost = _fitting(_add_ons(row, ends_at_period_end=False), version)
    return Wish(version, kept, "period_end", lost)


# ------------------------------------------------------------------ add-ons beside a plan


def _add_ons(row: Subscription, **which: bool) -> tuple[AddOn, ...]:
    held = contents.alive(row).filter(**which).select_related("add_on")
    return tuple(one.add_on for one in held)


def _fitting(
    held: tuple[AddOn, ...], version: PlanVersion
) -> tuple[tuple[AddOn, ...], tuple[AddOn, ...]]:
    """Those that go along to a version, each at its rhythm; and those that can't."""
    kept, lost = [], []
    for add_on in held:
        fitting = _at_rhythm(add_on, version)
        if fitting is not None and add_ons.is_for(fitting, version):
            kept.append(fitting)
        else:
            lost.append(add_on)
    return tuple(kept), tuple(lost)


def _at_rhythm(add_on: AddOn, version: PlanVersion) -> AddOn | None:
    if add_on.interval == version.interval:
        return add_on
    return AddOn.objects.filter(
        slug=add_on.slug,
        currency=add_on.currency,
        interval=version.interval,
        published_at__isnull=False,
        retired_at=None,
    ).first()


# ------------------------------------------------------------------


def _change(wish: Wish, reference: str, as_of: datetime | None) -> Change:
    version = wish.version
    interval: Interval = "year" if version.interval == PlanVersion.Interval.YEAR else "month"
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
