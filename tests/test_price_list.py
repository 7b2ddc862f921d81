"""The price list in every rhythm and currency; what is bought is what was looked at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.urls import reverse

from billing import add_ons, catalogue, checkout, terms
from billing.models import AddOn, Plan, PlanMeter, PlanVersion
from gateway.models import Meter, Operation
from portal.demo import prices
from tests.factories import (
    make_account,
    make_add_on,
    make_api,
    make_plans,
    make_version,
    subscribed,
)
from tests.markup import faults

NOW = datetime(2026, 5, 31, 12, tzinfo=UTC)


@pytest.fixture
def plans(db):
    return make_plans()


def sell(plan, price_minor, *, currency="USD", interval="month", **meter) -> PlanVersion:
    """A further version of the plan, on sale."""
    version = PlanVersion.objects.create(
        plan=plan,
        number=plan.versions.count() + 1,
        base_price_minor=price_minor,
        currency=currency,
        interval=interval,
    )
    given = {"meter": Meter.objects.get(name="calls"), "included_units": 10_000}
    PlanMeter.objects.create(version=version, **(given | meter))
    catalogue.publish(version, NOW)
    return version


def shown(**choice):
    return {offer.plan.slug: (offer.price, offer.per) for offer in catalogue.offers(**choice)}


# ------------------------------------------------------------------ rhythm and currency


def test_a_plan_without_a_yearly_price_keeps_its_monthly_one_in_the_list(plans):
    sell(plans["basic"].plan, 500_00, interval="year")

    assert shown(interval="year") == {
        "free": ("$0", ""),
        "basic": ("$500", "a year"),
        "pro": ("$200", "a month"),
        "enterprise": ("Custom", ""),
    }
    assert shown()["basic"] == ("$50", "a month")


def test_a_plan_without_a_price_in_the_currency_is_left_out(plans):
    sell(plans["basic"].plan, 45_00, currency="EUR")

    assert shown(currency="EUR") == {
        "free": ("€0", ""),
        "basic": ("€45", "a month"),
        "enterprise": ("Custom", ""),
    }


@pytest.mark.parametrize(
    ("currency", "minor", "price"),
    [("JPY", 7500, "¥7,500"), ("KWD", 15_500, "KWD 15.500"), ("KWD", 15_000, "KWD 15")],
)
def test_prices_have_the_places_of_their_currency(plans, currency, minor, price):
    sell(plans["basic"].plan, minor, currency=currency)

    assert shown(currency=currency)["basic"] == (price, "a month")


def test_the_switch_leads_to_what_exists_and_to_nothing_else(plans, client):
    alone = client.get("/pricing").content.decode()
    sell(plans["basic"].plan, 500_00, interval="year")
    sell(plans["basic"].plan, 45_00, currency="EUR")

    page = client.get("/pricing").content.decode()
    euros = client.get("/pricing?interval=year&currency=EUR").content.decode()
    unknown = client.get("/pricing?interval=week&currency=XXX").content.decode()

    assert "interval=year" not in alone
    assert 'href="?interval=year&amp;currency=USD"' in page
    assert 'href="?interval=month&amp;currency=EUR" aria-current' not in page
    assert "€45" in euros
    assert "interval=year" not in euros.partition("Currency")[0]
    assert "$50" in unknown
    assert not faults(page)


def test_the_buy_page_sells_what_was_looked_at(plans, client):
    yearly = sell(plans["basic"].plan, 500_00, interval="year")
    account = make_account()
    client.force_login(account.members.get())

    page = client.get("/pricing?interval=year").content.decode()
    answer = client.post("/buy/basic/?interval=year")

    assert 'action="/buy/basic/?interval=year"' in page
    assert answer.status_code == 303
    assert account.checkouts.get().version == yearly
    assert client.get("/buy/basic/?interval=week").status_code == 404


def test_a_seller_without_dollars_has_a_currency_of_its_own(db, client):
    plan = Plan.objects.create(slug="solo", name="Solo", kind=Plan.Kind.PAID)
    Meter.objects.get_or_create(name="calls", defaults={"label": "calls"})
    version = sell(plan, 30_00, currency="EUR")
    account = make_account()
    client.force_login(account.members.get())

    assert shown() == {"solo": ("€30", "a month")}
    assert catalogue.current("solo") == version
    assert "Continue to payment" in client.get("/buy/solo/").content.decode()


def test_the_currency_is_fixed_with_the_first_purchase(plans, client):
    euros = sell(plans["basic"].plan, 45_00, currency="EUR")
    account = make_account()
    held = subscribed(account, euros, NOW)
    held.state = "ended"
    held.save()
    client.force_login(account.members.get())

    with pytest.raises(checkout.OtherCurrency):
        checkout.start(account, plans["pro"], user=account.members.get(), now=NOW)
    page = client.get("/buy/pro/").content.decode()
    refused = client.post("/buy/pro/")
    prices_shown = client.get("/pricing").content.decode()

    assert "This account pays in euros" in page
    assert refused.status_code == 409
    assert "€45" in prices_shown
    assert account.checkouts.count() == 0
    assert "€45" in client.get("/buy/basic/").content.decode()


def test_a_yearly_plan_is_counted_by_the_month(plans):
    yearly = sell(plans["basic"].plan, 500_00, interval="year")
    account = make_account()
    subscribed(account, yearly, NOW)
    has = terms.standing(account.pk, NOW)

    boundaries = terms.usage_periods(has, NOW + timedelta(days=40))

    assert boundaries[:3] == [
        datetime(2026, 6, 30, 12, tzinfo=UTC),
        datetime(2026, 7, 31, 12, tzinfo=UTC),
        datetime(2026, 8, 31, 12, tzinfo=UTC),
    ]
    assert has.price.meters[0].included_units == 10_000
    assert has.monthly_minor == 41_67


# ------------------------------------------------------------------ by use


def test_plans_by_use_stand_in_a_row_of_their_own(plans, client):
    as_you_go = Plan.objects.create(slug="as-you-go", name="Pay as you go", position=9)
    sell(
        as_you_go,
        0,
        included_units=0,
        past_included="bill",
        tiers=[{"up_to": None, "price": "8.00", "per": 1000}],
    )
    prepaid = Plan.objects.create(slug="credits", name="Credits", position=10)
    sell(prepaid, 0, included_units=0, past_included="credits", credits_per_unit=1)

    page = client.get("/pricing").content.decode()

    assert shown()["as-you-go"] == ("$8 per 1,000", "calls")
    assert shown()["credits"] == ("Prepaid", "with credits")
    assert page.index("Enterprise") < page.index("Other ways to pay") < page.index("Pay as you go")
    assert "Pay as you go" not in client.get("/").content.decode()
    assert "Calls: 1 prepaid credit each" in page


# ------------------------------------------------------------------ the demo's


def test_the_demo_offers_years_euros_plans_by_use_and_add_ons_once(plans, client):
    prices.seed_choices(NOW)
    prices.seed_choices(NOW)

    dollars = client.get("/pricing?interval=year").content.decode()
    euros = client.get("/pricing?currency=EUR").content.decode()

    assert shown() | {"pay-as-you-go": ("$9 per 1,000", "calls")} == shown()
    assert shown(interval="year")["pro"] == ("$2,000", "a year")
    assert shown(interval="year", currency="EUR")["basic"] == ("€450", "a year")
    assert "14 days free" in dollars
    assert "$800" in dollars
    assert "€72" in euros
    assert not faults(dollars)
    assert PlanVersion.objects.filter(plan__slug="basic").count() == 4
    assert AddOn.objects.count() == 12


# ------------------------------------------------------------------ add-ons


def test_add_ons_say_what_they_grant_and_for_whom(plans, client):
    api = make_api()
    Operation.objects.filter(api=api, path_template="/v1/countries").update(scope="history")
    support = make_add_on("support", price_minor=40_00, features=["Answers within a day"])
    support.plans.add(plans["pro"].plan)
    make_add_on(
        "more", meter=Meter.objects.get(name="calls"), included_units=50_000, rate_per_second=5
    )
    make_add_on("history", scopes=["history"])
    make_add_on("yearly", interval="year")
    make_add_on("old", retired_at=NOW)
    AddOn.objects.create(slug="draft", name="Draft", price_minor=1)

    offers = {offer.add_on.slug: offer for offer in add_ons.offers("month", "USD")}
    page = client.get("/pricing").content.decode()

    assert set(offers) == {"support", "more", "history"}
    assert offers["support"].lines == ("Answers within a day",)
    assert offers["support"].plans == ("Pro",)
    assert offers["more"].lines == ("50,000 more calls a month", "5 more calls a second")
    assert offers["history"].lines == ("Opens GET /v1/countries",)
    assert 'id="add-ons"' in page
    assert not faults(page)


def test_a_published_add_on_never_changes(plans):
    add_on = AddOn.objects.create(slug="support", name="Support", price_minor=40_00)
    add_ons.publish(add_on, NOW)
    add_on.price_minor = 1

    with pytest.raises(ValidationError, match="promise"):
        add_on.save()
    with pytest.raises(IntegrityError), transaction.atomic():
        AddOn.objects.update(price_minor=1)
    with pytest.raises(IntegrityError), transaction.atomic():
        AddOn.objects.all().delete()


def test_a_newly_published_add_on_takes_the_place_of_the_one_before(plans):
    first = AddOn.objects.create(slug="support", name="Support", price_minor=40_00)
    add_ons.publish(first, NOW)
    second = AddOn.objects.create(slug="support", name="Support", price_minor=50_00)

    add_ons.publish(second, NOW + timedelta(days=1))
    add_ons.publish(second, NOW + timedelta(days=2))

    first.refresh_from_db()
    assert first.retired_at == NOW + timedelta(days=1)
    assert second.published_at == NOW + timedelta(days=1)
    assert [offer.price for offer in add_ons.offers("month", "USD")] == ["$50"]

    add_ons.retire(second, NOW)
    assert add_ons.offers("month", "USD") == []


@pytest.mark.parametrize(
    "fields",
    [
        {"scopes": ["History"]},
        {"scopes": ["a,b"]},
        {"scopes": "history"},
        {"features": [1]},
        {"included_units": 5},
    ],
)
def test_an_add_on_that_makes_no_sense_is_refused(plans, fields):
    with pytest.raises(ValidationError):
        AddOn.objects.create(slug="odd", name="Odd", price_minor=1, **fields)


def test_the_yearly_version_of_a_plan_is_named_in_the_way_to_it(plans):
    yearly = make_version(plans["basic"], base_price_minor=500_00, interval="year")

    assert catalogue.query_of(plans["basic"]) == ""
    assert catalogue.query_of(yearly) == "?interval=year"
    assert reverse("buy", args=["basic"]) == "/buy/basic/"
