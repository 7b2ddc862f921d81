"""What an add-on grants and costs, beside the plan that it is bought with."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.db import transaction

from billing import (
    accounts,
    add_ons,
    catalogue,
    pricing,
    terms,
    wishes,
)
from billing.models import PlanMeter, PlanVersion, SpendCap, SubscriptionAddOn
from gateway.models import Meter, UsageRollup
from keys.entitlements import Terms
from keys.models import Entitlement
from tests.factories import make_account, make_add_on, make_plans, subscribed
from tests.shop import coming_bill, published

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 5, 10, 12, tzinfo=UTC)


@pytest.fixture
def basic(db):
    return make_plans()["basic"]


def holder(version, *add_ons):
    """An account on a plan, with these add-ons."""
    account = make_account()
    subscription = subscribed(account, version, NOW)
    for add_on in add_ons:
        SubscriptionAddOn.objects.create(subscription=subscription, add_on=add_on, started_at=NOW)
    return account


def granted(account) -> Terms:
    accounts.locked(account.pk)
    terms.refresh(account.pk, NOW)
    return Terms.from_json(Entitlement.objects.get(account=account).terms)


def make_next(version, *, published=True, tiers=None):
    """The next version of the same plan, with the same calls at the same price."""
    calls = version.meters.get()
    draft = PlanVersion.objects.create(
        plan=version.plan,
        number=version.number + 1,
        base_price_minor=version.base_price_minor,
    )
    PlanMeter.objects.create(
        version=draft,
        meter=calls.meter,
        included_units=calls.included_units,
        past_included=calls.past_included,
        tiers=tiers or calls.tiers,
    )
    if published:
        catalogue.publish(draft, NOW)
    return draft


def further_calls(**fields):
    meter = Meter.objects.get(name="calls")
    return make_add_on("more-calls", meter=meter, included_units=50_000, **fields)


def test_an_add_on_grants_further_units_speed_and_scopes(basic):
    more = further_calls(rate_per_second=30)
    history = make_add_on("history", scopes=["history", "archive"])
    account = holder(basic, more, history)

    its = granted(account)

    assert its.meters["calls"].included == 60_000
    assert (its.rate_per_second, its.burst) == (50, 50)
    assert its.scopes == ("archive", "history")


def test_a_quota_that_stops_grows_by_an_add_on(basic):
    account = holder(basic, further_calls())
    account.subscriptions.update(overage="stop")

    its = granted(account)

    assert its.meters["calls"].limit == 60_000


def test_usage_remembers_the_add_ons_that_it_was_made_under(basic):
    first, second = further_calls(), make_add_on("support")
    account = holder(basic, second, first)

    has = terms.standing(account.pk, NOW)

    its_id = terms.terms_id(has)
    assert its_id == f"version:{basic.pk}+{first.pk}+{second.pk}"
    assert pricing.price_of(its_id) == has.price
    assert pricing.price_of(its_id).meters[0].included_units == 60_000
    assert pricing.price_of(f"version:{basic.pk}").meters[0].included_units == 10_000
    assert pricing.version_id_of(its_id) == basic.pk


def test_an_add_on_that_ended_grants_and_costs_nothing(basic):
    account = holder(basic, further_calls(price_minor=80_00))
    before = terms.standing(account.pk, NOW)
    SubscriptionAddOn.objects.update(ended_at=NOW)

    after = terms.standing(account.pk, NOW)

    assert (before.monthly_minor, after.monthly_minor) == (130_00, 50_00)
    assert terms.terms_id(after) == f"version:{basic.pk}"


def test_what_a_subscription_consists_of_has_a_key_each(basic):
    support, more = make_add_on("support"), further_calls(price_minor=80_00)

    items = catalogue.items(basic, [more, support])

    assert [(item.key, item.amount_minor) for item in items] == [
        (f"version:{basic.pk}", 50_00),
        (f"addon:{support.pk}", 10_00),
        (f"addon:{more.pk}", 80_00),
    ]


def test_a_provider_needs_prices_for_what_is_sold_or_held(basic):
    pro = make_plans()["pro"]
    retired = make_add_on("retired", retired_at=NOW)
    holder(basic, retired)
    make_add_on("gone", retired_at=NOW)
    newer = make_next(basic)
    make_next(newer, published=False)

    keys = [offer.item.key for offer in catalogue.offers_on_sale()]

    assert keys == [
        f"version:{basic.pk}",
        f"version:{pro.pk}",
        f"version:{newer.pk}",
        f"addon:{retired.pk}",
    ]


def test_an_old_version_that_nobody_has_needs_no_price(basic):
    newer = make_next(basic)

    keys = {offer.item.key for offer in catalogue.offers_on_sale()}

    assert f"version:{newer.pk}" in keys
    assert f"version:{basic.pk}" not in keys


# ------------------------------------------------------------------ terms that change


def use(account, units, its_id) -> None:
    """Calls of the period that began with the subscription, under some terms."""
    UsageRollup.objects.create(
        quarter=NOW,
        account_id=account.pk,
        key_id=account.pk,
        api="holidays",
        operation="GET /v1/countries",
        meter="calls",
        status_class=2,
        mode="live",
        period_start=NOW,
        terms_id=its_id,
        calls=units,
        units=units,
        billable_units=units,
    )


def lines(account):
    bill = coming_bill(account, NOW)
    return [(line.text, line.amount) for line in bill.lines if line.meter]


def test_included_units_are_not_included_twice_when_an_add_on_is_bought(basic):
    more = further_calls()
    account = holder(basic, more)
    use(account, 12_000, f"version:{basic.pk}")
    use(account, 50_000, f"version:{basic.pk}+{more.pk}")

    found = lines(account)

    # 60,000 are included from the purchase on, of which 12,000 were used before it.
    assert found == [("2,000 calls past 48,000", "$12.00"), ("2,000 calls past 10,000", "$12.00")]


def test_an_upgrade_takes_over_what_was_used(basic):
    pro = make_plans()["pro"]
    account = holder(pro)
    use(account, 12_000, f"version:{basic.pk}")
    use(account, 90_000, f"version:{pro.pk}")

    found = lines(account)

    assert found == [("2,000 calls past 88,000", "$4.00"), ("2,000 calls past 10,000", "$12.00")]


def test_an_add_on_without_units_changes_no_price_of_usage(basic):
    tiers = [
        {"up_to": 1000, "price": "10.00", "per": 1000},
        {"up_to": None, "price": "1.00", "per": 1000},
    ]
    tiered = make_next(basic, tiers=tiers)
    support = make_add_on("support")
    account = holder(tiered, support)
    use(account, 13_000, f"version:{tiered.pk}")
    use(account, 5_000, f"version:{tiered.pk}+{support.pk}")

    found = lines(account)

    assert found == [("8,000 calls past 10,000", "$17.00")]


@pytest.mark.parametrize("units", [0, 1, 999, 1000, 3_333, 50_000])
def test_a_cap_counts_what_the_bill_does_after_a_change(basic, units):
    tiers = [
        {"up_to": 1000, "price": "10.00", "per": 1000},
        {"up_to": None, "price": "1.00", "per": 1000},
    ]
    tiered, more = make_next(basic, tiers=tiers), further_calls()
    account = holder(tiered, more)
    use(account, 12_000, f"version:{tiered.pk}")
    SpendCap.objects.create(account=account, cap_minor=1_000_00, set_at=NOW)
    cap = granted(account).spend_cap
    use(account, 47_000 + units, f"version:{tiered.pk}+{more.pk}")

    bill = coming_bill(account, NOW)

    spent = sum(line.amount_minor for line in bill.lines if line.meter)
    assert cap.spent_minor({"calls": 59_000 + units}, int(NOW.timestamp())) == spent


# ------------------------------------------------------------------ who may have which


def test_an_add_on_is_for_plans_that_count_what_it_includes(basic):
    rows = Meter.objects.create(name="rows", label="rows")
    for_pro = make_add_on("support")
    for_pro.plans.add(make_plans()["pro"].plan)

    assert add_ons.is_for(further_calls(), basic)
    assert not add_ons.is_for(make_add_on("rows", meter=rows, included_units=5), basic)
    assert not add_ons.is_for(for_pro, basic)


def test_no_more_add_ons_are_sold_than_usage_can_carry_the_ids_of(basic):
    account = holder(basic)
    subscription = account.subscriptions.get()
    for number in range(9):
        make_add_on(f"extra-{number}", pk=1000 + number)

    while further := wishes.add_ons_on_sale(subscription):
        SubscriptionAddOn.objects.create(
            subscription=subscription, add_on=further[0], started_at=NOW
        )

    assert 3 < subscription.add_ons.count() < 9
    assert len(terms.terms_id(terms.standing(account.pk, NOW))) <= 35


@pytest.mark.django_db(transaction=True)
def test_a_scope_reaches_the_gateway_and_leaves_with_its_add_on(redis_clean):
    account = holder(make_plans()["basic"], make_add_on("history", scopes=["history"]))
    add_on = account.subscriptions.get().add_ons.get().add_on

    refresh(account)
    having = published(account)
    SubscriptionAddOn.objects.update(ended_at=NOW)
    refresh(account)

    assert having["scopes"] == ",history,"
    assert having["terms"].endswith(f"+{add_on.pk}")
    assert "scopes" not in published(account)


def refresh(account) -> None:
    with transaction.atomic():
        accounts.locked(account.pk)
        terms.refresh(account.pk, NOW)
