"""The demo's price list: four plans, put on sale through the product's own functions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from billing import catalogue
from billing.models import CreditPack, PastIncluded, Plan, PlanMeter, PlanVersion
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


def seed(now: datetime) -> None:
    """Puts the plans on sale, once: those that exist already are left alone."""
    calls, _ = Meter.objects.get_or_create(name=CALLS, defaults={"label": "calls"})
    for position, demo in enumerate(PLANS):
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
        number=1,
        base_price_minor=demo.base_price_minor,
        rate_per_second=demo.rate_per_second,
        burst=demo.rate_per_second,
        key_limit=demo.key_limit,
    )
    tier = {"up_to": None, "price": demo.price_per_1000, "per": 1000}
    PlanMeter.objects.create(
        version=version,
        meter=calls,
        included_units=demo.included_calls,
        past_included=PastIncluded.BILL if demo.price_per_1000 else PastIncluded.REFUSE,
        tiers=[tier] if demo.price_per_1000 else [],
    )
    catalogue.publish(version, now)
