"""The price list: what is on sale, what it promises, how it is published.

A plan's current version is its newest published one of an interval and currency. Older ones
live on under the customers who bought them. Nothing here changes a published version.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Q

from billing import money, providers, rating
from billing.models import (
    AddOn,
    PastIncluded,
    Plan,
    PlanVersion,
    Subscription,
    SubscriptionAddOn,
)
from billing.providers import Interval, Item
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


def item_of(sold: PlanVersion | AddOn) -> Item:
    """What a provider is asked to sell."""
    if isinstance(sold, AddOn):
        return Item(f"addon:{sold.pk}", sold.name, sold.price_minor)
    return Item(f"version:{sold.pk}", f"{sold.plan.name} plan", sold.base_price_minor)


def items(version: PlanVersion, add_ons: Iterable[AddOn] = ()) -> tuple[Item, ...]:
    """What a subscription consists of: the plan first, then its add-ons by id."""
    return item_of(version), *map(item_of, sorted(add_ons, key=attrgetter("pk")))


def offers_on_sale() -> list[providers.Offer]:
    """What a provider must have a price for: paid versions and add-ons that somebody may buy,
    has, or gets when the period ends; the oldest first.
    """
    published = PlanVersion.objects.filter(plan__kind=Plan.Kind.PAID, published_at__isnull=False)
    alive = Subscription.objects.exclude(state=Subscription.State.ENDED)
    held = published.filter(
        Q(pk__in=alive.values("version"))
        | Q(pk__in=alive.exclude(next_version=None).values("next_version"))
    )
    newest = (
        published.filter(plan__listed=True)
        .order_by("plan_id", "interval", "currency", "-number")
        .distinct("plan_id", "interval", "currency")
    )
    versions = published.filter(Q(pk__in=held) | Q(pk__in=newest.values("pk")))
    had = SubscriptionAddOn.objects.filter(ended_at=None)
    add_ons = AddOn.objects.filter(published_at__isnull=False).filter(
        Q(retired_at=None) | Q(pk__in=had.values("add_on"))
    )
    return [
        *map(_offer, versions.select_related("plan").order_by("pk")),
        *map(_offer, add_ons.order_by("pk")),
    ]


def _offer(sold: PlanVersion | AddOn) -> providers.Offer:
    return providers.Offer(item_of(sold), sold.currency, interval_of(sold))


def interval_of(sold: PlanVersion | AddOn) -> Interval:
    return "year" if sold.interval == PlanVersion.Interval.YEAR else "month"


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
