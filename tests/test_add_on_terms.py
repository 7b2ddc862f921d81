"""What an add-on grants and costs, beside the plan that it is bought with."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from billing import accounts, catalogue, terms
from billing.models import PlanMeter, PlanVersion, SubscriptionAddOn
from gateway.models import Meter
from keys.entitlements import Terms
from keys.models import Entitlement
from tests.factories import make_account, make_add_on, make_plans, subscribed

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


def make_next(version, *, published=True):
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
        tiers=calls.tiers,
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
    assert terms.price_of(its_id) == terms.price(has)
    assert terms.price_of(its_id).meters[0].included_units == 60_000
    assert terms.price_of(f"version:{basic.pk}").meters[0].included_units == 10_000
    assert terms.version_id_of(its_id) == basic.pk


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
