"""The price list's add-ons: which are on sale, what they grant, how one is published and retired.

Buying and dropping one is `plan_changes`', what a subscription has is `contents`'.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db import transaction

from billing import money
from billing.models import AddOn, PlanVersion
from billing.providers import Interval
from gateway.models import Operation


@dataclass(frozen=True)
class Offer:
    """An add-on as visitors see it. plans: names of those it is for; none: all paid ones"""

    add_on: AddOn
    price: str
    lines: tuple[str, ...]
    plans: tuple[str, ...]


def offers(interval: Interval, currency: str) -> list[Offer]:
    """The add-ons that may be bought in this rhythm and currency, in the price list's order."""
    on_sale = AddOn.objects.filter(
        published_at__isnull=False, retired_at=None, interval=interval, currency=currency
    )
    return [
        Offer(
            add_on,
            money.text(add_on.price_minor, currency, short=True),
            grants(add_on),
            tuple(plan.name for plan in add_on.plans.all()),
        )
        for add_on in on_sale.select_related("meter").prefetch_related("plans")
    ]


def is_for(add_on: AddOn, version: PlanVersion) -> bool:
    """Whether a subscription to the version can have it: it is for the plan, and grants something
    that the version counts.
    """
    plans = set(add_on.plans.values_list("pk", flat=True))
    counted = add_on.meter is None or version.meters.filter(meter=add_on.meter).exists()
    return counted and (not plans or version.plan_id in plans)


def grants(add_on: AddOn) -> tuple[str, ...]:
    """What an add-on grants, in the price list's words: “50,000 more calls a month”, …"""
    lines = []
    if add_on.meter:
        lines.append(f"{add_on.included_units:,} more {add_on.meter.label} a month")
    if add_on.rate_per_second:
        lines.append(f"{add_on.rate_per_second:,} more calls a second")
    opened = Operation.objects.filter(scope__in=add_on.scopes).order_by("pk")
    lines += [f"Opens {operation}" for operation in opened]
    return (*lines, *add_on.features)


def publish(add_on: AddOn, now: datetime) -> None:
    """Freezes an add-on and puts it on sale, in place of the one of the same kind before it.

    Whoever has that one keeps it. One that was published before stays as it is.
    """
    with transaction.atomic():
        draft = AddOn.objects.select_for_update().get(pk=add_on.pk)
        if draft.published_at is None:
            draft.full_clean()
            AddOn.objects.filter(
                slug=draft.slug, interval=draft.interval, currency=draft.currency, retired_at=None
            ).exclude(published_at=None).update(retired_at=now)
            AddOn.objects.filter(pk=draft.pk).update(published_at=now)
    add_on.refresh_from_db(fields=["published_at"])


def retire(add_on: AddOn, now: datetime) -> None:
    """Takes an add-on off sale; whoever has it keeps it."""
    AddOn.objects.filter(pk=add_on.pk, retired_at=None).exclude(published_at=None).update(
        retired_at=now
    )
    add_on.refresh_from_db(fields=["retired_at"])
