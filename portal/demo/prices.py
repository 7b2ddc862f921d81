"""The demo's price list: four plans, put on sale through the product's own functions.

`seed` offers the plans themselves, `seed_choices` what there is beside them: yearly prices, euros,
plans that cost what is used, add-ons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from billing import add_ons, catalogue
from billing.models import AddOn, CreditPack, PastIncluded, Plan, PlanMeter, PlanVersion
from gateway.models import CALLS, Meter


@dataclass(frozen=True)
class DemoPlan:
    slug: str
    name: str
    tagline: str
    kind: str
    highlights: tuple[str, ...]
    base_price_minor: int = 0
    included_calls: int = 0
    rate_per_second: int = 0
    price_per_1000: str = ""
    key_limit: int = 10
    recommended: bool = False
    credits_per_call: int = 0
    currency: str = "USD"
    interval: str = PlanVersion.Interval.MONTH
    trial_days: int = 0


PLANS = (
    DemoPlan(
        "free", "Free", "To try it out", Plan.Kind.FREE, ("Test keys",),
        included_calls=500, rate_per_second=5, key_limit=3,
    ),
    DemoPlan(
        "basic", "Basic", "For a product with users", Plan.Kind.PAID,
        ("Test keys, key rotation with overlap",),
        base_price_minor=50_00, included_calls=10_000, rate_per_second=20, price_per_1000="6.00",
    ),
    DemoPlan(
        "pro", "Pro", "For a business that relies on it", Plan.Kind.PAID,
        ("Room for a whole team’s keys",),
        base_price_minor=200_00, included_calls=100_000, rate_per_second=100,
        price_per_1000="2.00", key_limit=50, recommended=True,
    ),
    DemoPlan(
        "enterprise", "Enterprise", "Your terms", Plan.Kind.ENTERPRISE,
        ("Own limits and prices", "Service level in writing", "Invoice, dedicated support"),
    ),
)  # fmt: skip

BY_USE = (
    DemoPlan(
        "pay-as-you-go", "Pay as you go", "For what comes and goes", Plan.Kind.PAID,
        ("No price of its own, no calls included",),
        rate_per_second=20, price_per_1000="9.00",
    ),
    DemoPlan(
        "credits", "Credits", "Paid ahead, used when needed", Plan.Kind.PAID,
        ("Never more than what was bought",),
        rate_per_second=20, credits_per_call=1,
    ),
)  # fmt: skip
MONTHS_OF_A_YEAR = 10
"""A year is sold at the price of so many months."""
IN_EUROS = {"basic": 45_00, "pro": 180_00}


@dataclass(frozen=True)
class DemoAddOn:
    """Prices are by the month."""

    slug: str
    name: str
    tagline: str
    dollars_minor: int
    euros_minor: int
    further_calls: int = 0
    scopes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()


ADD_ONS = (
    DemoAddOn("more-calls", "Extra calls", "For a busy month", 80_00, 72_00, 50_000),
    DemoAddOn(
        "history", "Historical data", "What was, as far back as it goes", 30_00, 27_00,
        scopes=("history",),
    ),
    DemoAddOn(
        "support", "Priority support", "When it can’t wait", 40_00, 36_00,
        features=("An answer within four working hours", "A named engineer"),
    ),
)  # fmt: skip


def seed(now: datetime) -> None:
    """Puts the plans on sale, once: those that exist already are left alone."""
    calls, _ = Meter.objects.get_or_create(name=CALLS, defaults={"label": "calls"})
    _seed_plans(PLANS, calls, now)


def seed_choices(now: datetime) -> None:
    """Puts on sale, once, what the plans of `seed` are offered with."""
    calls = Meter.objects.get(name=CALLS)
    _seed_plans(BY_USE, calls, now, after=len(PLANS))
    for demo in PLANS:
        if demo.kind == Plan.Kind.PAID:
            euros = replace(demo, currency="EUR", base_price_minor=IN_EUROS[demo.slug])
            for one in (_yearly(replace(demo, trial_days=14)), euros, _yearly(euros)):
                _seed_version(one, calls, now)
    for position, extra in enumerate(ADD_ONS):
        _seed_add_on(extra, calls, position, now)


def _seed_add_on(demo: DemoAddOn, calls: Meter, position: int, now: datetime) -> None:
    for currency, price_minor in (("USD", demo.dollars_minor), ("EUR", demo.euros_minor)):
        for interval, months in (("month", 1), ("year", MONTHS_OF_A_YEAR)):
            add_on, new = AddOn.objects.get_or_create(
                slug=demo.slug,
                currency=currency,
                interval=interval,
                defaults={
                    "name": demo.name,
                    "tagline": demo.tagline,
                    "price_minor": price_minor * months,
                    "meter": calls if demo.further_calls else None,
                    "included_units": demo.further_calls,
                    "scopes": list(demo.scopes),
                    "features": list(demo.features),
                    "position": position,
                },
            )
            if new:
                add_ons.publish(add_on, now)


def _yearly(demo: DemoPlan) -> DemoPlan:
    price_minor = demo.base_price_minor * MONTHS_OF_A_YEAR
    return replace(demo, interval=PlanVersion.Interval.YEAR, base_price_minor=price_minor)


def _seed_version(demo: DemoPlan, calls: Meter, now: datetime) -> None:
    plan = Plan.objects.get(slug=demo.slug)
    if not plan.versions.filter(currency=demo.currency, interval=demo.interval).exists():
        publish(plan, demo, calls, now)


def _seed_plans(plans: Sequence[DemoPlan], calls: Meter, now: datetime, *, after: int = 0) -> None:
    for position, demo in enumerate(plans, after):
        plan, new = Plan.objects.get_or_create(
            slug=demo.slug,
            defaults={
                "name": demo.name,
                "tagline": demo.tagline,
                "kind": demo.kind,
                "highlights": list(demo.highlights),
                "recommended": demo.recommended,
                "position": position,
            },
        )
        if new and demo.kind != Plan.Kind.ENTERPRISE:
            publish(plan, demo, calls, now)


def seed_packs() -> None:
    """Credits to buy, for plans that take them."""
    if not CreditPack.objects.exists():
        CreditPack.objects.create(name="1,000 credits", credits=1_000, price_minor=10_00)
        CreditPack.objects.create(
            name="10,000 credits",
            credits=10_000,
            price_minor=80_00,
            any_amount=True,
            expires_after_days=365,
            position=1,
        )


def publish(plan: Plan, demo: DemoPlan, calls: Meter, now: datetime) -> None:
    version = PlanVersion.objects.create(
        plan=plan,
        number=plan.versions.count() + 1,
        currency=demo.currency,
        interval=demo.interval,
        trial_days=demo.trial_days,
        base_price_minor=demo.base_price_minor,
        rate_per_second=demo.rate_per_second,
        burst=demo.rate_per_second,
        key_limit=demo.key_limit,
    )
    tier = {"up_to": None, "price": demo.price_per_1000, "per": 1000}
    past = PastIncluded.BILL if demo.price_per_1000 else PastIncluded.REFUSE
    PlanMeter.objects.create(
        version=version,
        meter=calls,
        included_units=demo.included_calls,
        past_included=PastIncluded.CREDITS if demo.credits_per_call else past,
        credits_per_unit=demo.credits_per_call,
        tiers=[tier] if demo.price_per_1000 else [],
    )
    catalogue.publish(version, now)
