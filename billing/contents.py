"""What a subscription consists of, as its provider says: its plan version and its add-ons.

What is planned for the period's end some providers show at once. It holds here from the period
that begins with it: until then the customer has what was paid for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Any

import structlog

from billing import pricing
from billing.models import AddOn, BillingEvent, PlanVersion, Subscription, SubscriptionAddOn

log = structlog.get_logger(__name__)

Kind = BillingEvent.Kind


@dataclass(frozen=True)
class Happened:
    """A row of history to be written once all rows say so."""

    kind: BillingEvent.Kind
    data: dict[str, Any] = field(default_factory=dict)


def follow(
    row: Subscription, items: tuple[str, ...], *, renewed: bool, now: datetime
) -> list[Happened]:
    """Makes the subscription consist of these items, under the account's lock.

    Sets `version` and `next_version`, which the caller saves; writes the add-ons. Without a plan
    among the items nothing is known and nothing changes.

    renewed: a new period begins, so that what was planned holds
    """
    version = _version(row, items)
    if version is None:
        return []
    return [*_follow_version(row, version, renewed), *_follow_add_ons(row, items, renewed, now)]


def end(row: Subscription, now: datetime) -> None:
    """Nothing of an ended subscription goes on, or is still to come."""
    row.next_version = None
    alive(row).update(ended_at=now)


def alive(row: Subscription) -> Any:
    """The add-ons that the subscription has now, as a queryset."""
    return SubscriptionAddOn.objects.filter(subscription=row, ended_at=None)


def is_upgrade(held: PlanVersion, wanted: PlanVersion) -> bool:
    """Whether this change holds at once and is paid for, rather than at the period's end.

    It costs more by the month; or is the same plan, paid by the year instead of the month. What
    was paid for a year is used up first.
    """
    held_months, months = pricing.months_of(held), pricing.months_of(wanted)
    if months < held_months:
        return False
    if months > held_months and held.plan_id == wanted.plan_id:
        return True
    return Fraction(wanted.base_price_minor, months) > Fraction(held.base_price_minor, held_months)


def _version(row: Subscription, items: tuple[str, ...]) -> PlanVersion | None:
    for pk in _pks(items, "version"):
        if pk == row.version_id:
            return row.version
        found = PlanVersion.objects.filter(pk=pk).select_related("plan").first()
        if found is not None:
            return found
        log.warning("subscription.unknown_item", subscription=str(row.pk), version=pk)
    return None


def _follow_version(row: Subscription, version: PlanVersion, renewed: bool) -> list[Happened]:
    held, planned = row.version, row.next_version
    if version == held:
        if renewed and planned is not None and row.next_told:
            # Its provider knew of the plan and went on with the old one.
            row.next_version = None
            return [Happened(Kind.CHANGE_WITHDRAWN, {"wanted_plan": planned.plan.name})]
        return []
    if version == planned and not renewed:
        return []
    row.version, row.next_version = version, None
    return [
        Happened(
            Kind.PLAN_CHANGED,
            {
                "previous_plan": held.plan.name,
                "previous_version": held.pk,
                "direction": "up" if is_upgrade(held, version) else "down",
            },
        )
    ]


def _follow_add_ons(
    row: Subscription, items: tuple[str, ...], renewed: bool, now: datetime
) -> list[Happened]:
    held = list(alive(row).select_related("add_on"))
    planned = row.next_version_id is not None or any(one.ends_at_period_end for one in held)
    if planned and not renewed:
        return []
    happened = []
    said = set(_pks(items, "addon"))
    for one in held:
        if one.add_on_id not in said:
            one.ended_at = now
            one.save(update_fields=["ended_at"])
            happened.append(Happened(Kind.ADD_ON_ENDED, {"add_on": one.add_on.name}))
        elif one.ends_at_period_end and row.next_told:
            one.ends_at_period_end = False
            one.save(update_fields=["ends_at_period_end"])
    said -= {one.add_on_id for one in held}
    for add_on in AddOn.objects.filter(pk__in=said):
        SubscriptionAddOn.objects.create(subscription=row, add_on=add_on, started_at=now)
        happened.append(Happened(Kind.ADD_ON_STARTED, {"add_on": add_on.name}))
    return happened


def _pks(items: tuple[str, ...], kind: str) -> list[int]:
    found = [item.partition(":") for item in items]
    return [int(pk) for its_kind, _, pk in found if its_kind == kind and pk.isdecimal()]
