"""What a customer may wish for: another plan, or an add-on more or less. Changes nothing.

What costs more holds at once, what costs less from the next period on; `plan_changes` does both.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from billing import add_ons, catalogue, contents, pricing
from billing.models import AddOn, Plan, PlanVersion, Subscription
from billing.providers import Item
from billing.states import State
from billing.terms import NO_PROVIDER


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
    kept, lost = _fitting(add_ons_of(subscription), version)
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
    held = add_ons_of(subscription)
    return [
        add_on
        for add_on in on_sale
        if add_ons.is_for(add_on, version) and pricing.has_room_for(version, (*held, add_on))
    ]


def with_add_on(subscription: Subscription, add_on_id: int) -> Wish:
    """The wish for one more. Raises `NotOffered`."""
    for add_on in add_ons_on_sale(subscription):
        if add_on.pk == add_on_id:
            held = add_ons_of(subscription)
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


def is_new_price(row: Subscription) -> bool:
    """Whether what is planned is the plan that it has, at another price."""
    planned, held = row.next_version, row.version
    return planned is not None and (planned.plan_id, planned.interval) == (
        held.plan_id,
        held.interval,
    )


def planned(row: Subscription) -> Wish:
    """What the subscription shall consist of from its next period on."""
    version = row.next_version or row.version
    kept, lost = _fitting(add_ons_of(row, ends_at_period_end=False), version)
    return Wish(version, kept, "period_end", lost)


# ------------------------------------------------------------------ add-ons beside a plan


def add_ons_of(row: Subscription, **which: bool) -> tuple[AddOn, ...]:
    """Those that it has now; `which` as in a query of `SubscriptionAddOn`."""
    held = contents.alive(row).filter(**which).select_related("add_on")
    return tuple(one.add_on for one in held)


def _fitting(
    held: tuple[AddOn, ...], version: PlanVersion
) -> tuple[tuple[AddOn, ...], tuple[AddOn, ...]]:
    """Those that go along to a version, each at its rhythm; and those that can't."""
    kept, lost = [], []
    for add_on in held:
        its_like = _at_rhythm(add_on, version)
        if its_like is not None and add_ons.is_for(its_like, version):
            kept.append(its_like)
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
