"""A published price is a price kept, and the demo's price list is the contract's."""

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone

from billing import catalogue
from billing.models import PastIncluded, Plan, PlanMeter, PlanVersion
from gateway.models import Meter
from tests.factories import make_plans

pytestmark = pytest.mark.django_db


def draft_of(version: PlanVersion) -> PlanVersion:
    draft = PlanVersion.objects.create(plan=version.plan, number=2, base_price_minor=60_00)
    PlanMeter.objects.create(
        version=draft,
        meter=Meter.objects.get(name="calls"),
        included_units=20_000,
        past_included=PastIncluded.BILL,
        tiers=[{"up_to": None, "price": "5.00", "per": 1000}],
    )
    return draft


def test_the_demo_sells_the_plans_of_the_contract():
    make_plans()

    offers = {offer.plan.slug: offer for offer in catalogue.offers()}

    assert list(offers) == ["free", "basic", "pro", "enterprise"]
    assert [offer.price for offer in offers.values()] == ["$0", "$50", "$200", "Custom"]
    assert [offer.per for offer in offers.values()] == ["", "a month", "a month", ""]
    assert offers["free"].lines[:2] == ("500 calls a month", "5 calls a second")
    assert offers["basic"].lines[:3] == (
        "10,000 calls a month",
        "20 calls a second",
        "Then $6 per 1,000, or stop",
    )
    assert offers["pro"].lines[:3] == (
        "100,000 calls a month",
        "100 calls a second",
        "Then $2 per 1,000, or stop",
    )
    assert offers["enterprise"].version is None


def test_seeding_twice_changes_nothing():
    versions = make_plans()
    Plan.objects.filter(slug="basic").update(tagline="Edited by the seller")

    assert make_plans() == versions
    assert Plan.objects.get(slug="basic").tagline == "Edited by the seller"


def test_a_published_version_refuses_every_change():
    version = make_plans()["basic"]
    meter = version.meters.get()

    version.base_price_minor = 1
    meter.included_units = 1
    extra = PlanMeter(
        version=version,
        meter=Meter.objects.create(name="rows", label="rows"),
        included_units=5,
    )

    for change in (version.save, meter.save, extra.save):
        with pytest.raises(ValidationError, match="promise"):
            change()
    assert version.plan.versions.get().base_price_minor == 50_00


def test_the_database_refuses_what_gets_past_the_models():
    version = make_plans()["basic"]
    meters = PlanMeter.objects.filter(version=version)

    attempts = (
        lambda: PlanVersion.objects.filter(pk=version.pk).update(base_price_minor=1),
        lambda: PlanVersion.objects.filter(pk=version.pk).update(published_at=None),
        lambda: meters.update(included_units=1),
        lambda: meters.delete(),
        lambda: version.delete(),
        lambda: PlanMeter.objects.bulk_create(
            [
                PlanMeter(
                    version=version,
                    meter=Meter.objects.create(name="rows", label="rows"),
                    included_units=1,
                )
            ]
        ),
    )

    for attempt in attempts:
        with pytest.raises(IntegrityError, match="never changes"), transaction.atomic():
            attempt()


def test_a_draft_may_change_until_it_is_published_and_then_replaces_the_old_one():
    basic = make_plans()["basic"]
    draft = draft_of(basic)
    draft.base_price_minor = 70_00
    draft.save()
    assert catalogue.current("basic") == basic
    assert not catalogue.for_sale(draft)

    catalogue.publish(draft, timezone.now())

    assert catalogue.current("basic") == draft
    assert catalogue.for_sale(draft)
    assert not catalogue.for_sale(basic)


def test_publishing_again_keeps_the_first_moment():
    basic = make_plans()["basic"]
    published_at = basic.published_at

    catalogue.publish(basic, timezone.now())

    basic.refresh_from_db()
    assert basic.published_at == published_at


def test_a_version_without_calls_or_with_unusable_prices_is_not_published():
    basic = make_plans()["basic"]
    empty = PlanVersion.objects.create(plan=basic.plan, number=2)
    broken = PlanVersion.objects.create(plan=basic.plan, number=3)
    PlanMeter.objects.bulk_create(
        [
            PlanMeter(
                version=broken,
                meter=Meter.objects.get(name="calls"),
                included_units=1,
                past_included=PastIncluded.BILL,
                tiers=[{"up_to": 10, "price": "1.00", "per": 1}],
            )
        ]
    )

    with pytest.raises(ValidationError, match="how many calls"):
        catalogue.publish(empty, timezone.now())
    with pytest.raises(ValidationError, match="no unit lacks a price"):
        catalogue.publish(broken, timezone.now())

    assert not PlanVersion.objects.filter(number__gt=1, published_at__isnull=False).exists()
    assert catalogue.current("basic") == basic


@pytest.mark.parametrize("slug", ["free", "enterprise"])
def test_only_paid_plans_are_sold_in_a_checkout(slug):
    make_plans()
    version = catalogue.current(slug)

    assert version is None or not catalogue.for_sale(version)
