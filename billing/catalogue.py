"""The price list: which plan versions are on sale, what they promise, how one is published.

A plan's current version is its newest published one of an interval and currency. Older ones
live on under the customers who bought them. Nothing here changes a published version.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction

from billing import money, rating
from billing.models import PastIncluded, Plan, PlanVersion
from billing.providers import Item
from gateway.models import CALLS


@dataclass(frozen=True)
class Offer:
    """A plan as visitors see it; an enterprise plan has no version, a form takes its place."""

    plan: Plan
    version: PlanVersion | None
    price: str
    lines: tuple[str, ...]

    @property
    def per(self) -> str:
        """What follows the price: “a month”, “a year”, or nothing."""
        if self.version is None or self.version.base_price_minor == 0:
            return ""
        return f"a {self.version.interval}"


def offers() -> list[Offer]:
    """The listed plans in the price list's order, each with its current monthly version.

    A plan that should have a version and has none published yet is left out.
    """
    listed = Plan.objects.filter(listed=True)
    found = [(plan, current(plan.slug)) for plan in listed]
    return [
        Offer(plan, version, _price(version), (*promises(version), *plan.highlights))
        for plan, version in found
        if version is not None or plan.kind == Plan.Kind.ENTERPRISE
    ]


def current(
    slug: str, *, interval: str = PlanVersion.Interval.MONTH, currency: str = "USD"
) -> PlanVersion | None:
    """The version that somebody who buys this plan now would get."""
    return (
        PlanVersion.objects.filter(
            plan__slug=slug,
            interval=interval,
            currency=currency,
            published_at__isnull=False,
        )
        .select_related("plan")
        .order_by("-number")
        .first()
    )


def for_sale(version: PlanVersion) -> bool:
    """Whether a visitor may buy exactly this version in a checkout."""
    plan = version.plan
    newest = current(plan.slug, interval=version.interval, currency=version.currency)
    return plan.kind == Plan.Kind.PAID and plan.listed and version == newest


def item_of(version: PlanVersion) -> Item:
    """What a provider is asked to sell."""
    key = f"version:{version.pk}"
    return Item(key, f"{version.plan.name} plan", version.base_price_minor)


def promises(version: PlanVersion | None) -> tuple[str, ...]:
    """What a version grants, in the price list's words: “10,000 calls a month”, …"""
    if version is None:
        return ()
    quantities: list[str] = []
    beyond: list[str] = []
    for meter in version.meters.select_related("meter"):
        label = meter.meter.label
        quantities.append(f"{meter.included_units:,} {label} a month")
        if meter.past_included == PastIncluded.BILL:
            of = "" if meter.meter.name == CALLS else f" {label}"
            price = _first_price(meter.tiers, meter.tier_mode, version.currency)
            beyond.append(f"Then {price}{of}, or stop")
            for special in meter.special_prices:
                price = _first_price(special["tiers"], meter.tier_mode, version.currency)
                beyond.append(f"{rating.parse_filter(special).text}: {price}{of}")
        elif meter.past_included == PastIncluded.CREDITS:
            beyond.append(f"Then {meter.credits_per_unit:,} prepaid credits each")
    rates = [f"{version.rate_per_second:,} calls a second"]
    if version.concurrency:
        rates.append(f"{version.concurrency:,} calls at the same time")
    return (*quantities, *rates, *beyond)


def _first_price(tiers: Any, mode: str, currency: str) -> str:
    first = rating.parse_tiers(tiers, mode)[0]
    return f"{money.decimal_text(first.price, currency, short=True)} per {first.per:,}"


def publish(version: PlanVersion, now: datetime) -> None:
    """Freezes a version and puts it on sale; a version published before stays as it is.

    ValidationError when it says nothing of calls, or has prices that can't be rated.
    """
    with transaction.atomic():
        draft = PlanVersion.objects.select_for_update().get(pk=version.pk)
        if draft.published_at is None:
            meters = list(draft.meters.select_related("meter"))
            if CALLS not in {meter.meter.name for meter in meters}:
                raise ValidationError("A version says how many calls it includes.")
            for meter in meters:
                meter.full_clean()
            PlanVersion.objects.filter(pk=draft.pk).update(published_at=now)
    version.refresh_from_db(fields=["published_at"])


def _price(version: PlanVersion | None) -> str:
    if version is None:
        return "Custom"
    return money.text(version.base_price_minor, version.currency, short=True)
