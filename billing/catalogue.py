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
from urllib.parse import urlencode
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Case, Q, When

from billing import money, providers, rating
from billing.models import (
    AddOn,
    PastIncluded,
    Plan,
    PlanVersion,
    Subscription,
    SubscriptionAddOn,
    TopUp,
)
from billing.providers import Interval, Item
from gateway.models import CALLS


@dataclass(frozen=True)
class Offer:
    """A plan as visitors see it; an enterprise plan has no version, a form takes its place."""

    plan: Plan
    version: PlanVersion | None
    price: str
    per: str
    lines: tuple[str, ...]

    @property
    def is_by_use(self) -> bool:
        """Whether it costs nothing but what is used: it stands in a row of its own."""
        paid = self.plan.kind == Plan.Kind.PAID
        return paid and self.version is not None and self.version.base_price_minor == 0

    @property
    def query(self) -> str:
        """What the address of the Buy page says of the version: “?interval=year&currency=EUR”."""
        return query_of(self.version) if self.version else ""

    @property
    def trial(self) -> str:
        """“14 days free, then $50 a month”; "" without a trial."""
        return trial_text(self.version, self.version.trial_days) if self.version else ""


def offers(interval: Interval = "month", currency: str = "") -> list[Offer]:
    """The listed plans in the price list's order, each with its current version.

    A plan that isn't sold yearly has its monthly version. A plan that should have a version and
    has none published in the currency (`""`: the seller's own) is left out.
    """
    currency = currency or own_currency()
    found = []
    for plan in Plan.objects.filter(listed=True):
        if plan.kind == Plan.Kind.ENTERPRISE:
            found.append(Offer(plan, None, "Custom", "", tuple(plan.highlights)))
        elif version := _shown(plan, interval, currency):
            price, per = _price(version, currency)
            found.append(Offer(plan, version, price, per, (*promises(version), *plan.highlights)))
    return found


def _shown(plan: Plan, interval: str, currency: str) -> PlanVersion | None:
    if plan.kind == Plan.Kind.FREE:
        return current(plan.slug)
    yearly = current(plan.slug, interval=interval, currency=currency)
    return yearly or current(plan.slug, currency=currency)


def sold() -> set[tuple[Interval, str]]:
    """Intervals and currencies in which a paid plan may be bought."""
    versions = PlanVersion.objects.filter(
        plan__kind=Plan.Kind.PAID, plan__listed=True, published_at__isnull=False
    )
    return {(interval_of(version), version.currency) for version in versions}


def own_currency() -> str:
    """The seller's: US dollars where anything is sold in them, else the first by code."""
    currencies = {currency for _, currency in sold()} or {"USD"}
    return "USD" if "USD" in currencies else min(currencies)


def current(
    slug: str, *, interval: str = PlanVersion.Interval.MONTH, currency: str = ""
) -> PlanVersion | None:
    """The version that somebody who buys this plan now would get; `""`: in any currency, in US
    dollars where there is a choice.
    """
    versions = PlanVersion.objects.filter(
        plan__slug=slug, interval=interval, published_at__isnull=False
    )
    if currency:
        versions = versions.filter(currency=currency)
    in_dollars = Case(When(currency="USD", then=0), default=1)
    return versions.select_related("plan").order_by(in_dollars, "currency", "-number").first()


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
        if meter.included_units:
            quantities.append(f"{meter.included_units:,} {label} a month")
        if meter.past_included == PastIncluded.BILL:
            of = "" if meter.meter.name == CALLS else f" {label}"
            price = _first_price(meter.tiers, meter.tier_mode, version.currency)
            then = f"Then {price}{of}, or stop"
            beyond.append(then if meter.included_units else f"{price} {label}")
            for special in meter.special_prices:
                price = _first_price(special["tiers"], meter.tier_mode, version.currency)
                beyond.append(f"{rating.parse_filter(special).text}: {price}{of}")
        elif meter.past_included == PastIncluded.CREDITS:
            price = _credits(meter.credits_per_unit)
            what = "Then" if meter.included_units else f"{label.capitalize()}:"
            beyond.append(f"{what} {price} each")
    if version.monthly_credits:
        quantities.append(f"{version.monthly_credits:,} credits a month")
    rates = [f"{version.rate_per_second:,} calls a second"]
    if version.concurrency:
        rates.append(f"{version.concurrency:,} calls at the same time")
    return (*quantities, *rates, *beyond)


def _credits(number: int) -> str:
    return "1 prepaid credit" if number == 1 else f"{number:,} prepaid credits"


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


def currency_of(account_id: UUID) -> str:
    """The currency in which the account pays: that of its first purchase; "" before it."""
    bought = Subscription.objects.filter(account_id=account_id)
    first = bought.exclude(version__plan__kind=Plan.Kind.FREE).order_by("started_at").first()
    if first is not None:
        return first.version.currency
    topped_up = TopUp.objects.filter(account_id=account_id, state=TopUp.State.COMPLETED)
    currencies = topped_up.order_by("created_at").values_list("currency", flat=True)
    return currencies.first() or ""


def trial_days(account_id: UUID, user_id: int | None, version: PlanVersion) -> int:
    """Days before the first payment for this buyer: a trial is for the first purchase only.

    Neither the account nor the person may have had a paid subscription, a trial's among them.
    """
    had = Subscription.objects.exclude(version__plan__kind=Plan.Kind.FREE)
    theirs = Q(account_id=account_id)
    if user_id is not None:
        theirs |= Q(started_by_id=user_id)
    return 0 if had.filter(theirs).exists() else version.trial_days


def trial_text(version: PlanVersion, days: int) -> str:
    """“14 days free, then $50 a month”; "" for no days."""
    price = " ".join(filter(None, _price(version, version.currency)))
    return f"{days} days free, then {price}" if days else ""


def _price(version: PlanVersion, currency: str) -> tuple[str, str]:
    """The price and what follows it: “$50”, “a month”; of a plan by use that of its calls."""
    if version.base_price_minor:
        price = money.text(version.base_price_minor, version.currency, short=True)
        return price, f"a {version.interval}"
    if version.plan.kind == Plan.Kind.PAID:
        calls = version.meters.filter(meter__name=CALLS).first()
        if calls and calls.past_included == PastIncluded.CREDITS:
            return "Prepaid", "with credits"
        if calls and calls.tiers:
            return _first_price(calls.tiers, calls.tier_mode, version.currency), "calls"
    return money.text(0, currency, short=True), ""


def query_of(version: PlanVersion) -> str:
    """What the address of a page says of the version where it says nothing of others."""
    said = {
        "interval": version.interval if version.interval != PlanVersion.Interval.MONTH else "",
        "currency": version.currency if version.currency != "USD" else "",
    }
    query = urlencode({name: value for name, value in said.items() if value})
    return f"?{query}" if query else ""
