"""The coming bill: what is fixed, what grows, and what it will be at the pace so far."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from billing.models import PastIncluded, PlanMeter, PlanVersion, SpendCap, SubscriptionAddOn
from billing.models import Subscription as Held
from gateway.models import Meter, UsageRollup
from tests.factories import make_account, make_add_on, make_plans, subscribed
from tests.shop import coming_bill

pytestmark = pytest.mark.django_db

START = datetime(2026, 4, 1, tzinfo=UTC)  # 30 days
MIDDLE = datetime(2026, 4, 16, tzinfo=UTC)


@pytest.fixture
def basic(db):
    return make_plans()["basic"]


def use(subscription, units, *, its_id="") -> None:
    UsageRollup.objects.create(
        quarter=START,
        account_id=subscription.account_id,
        key_id=subscription.account_id,
        api="holidays",
        operation="GET /v1/countries",
        meter="calls",
        status_class=2,
        mode="live",
        period_start=START,
        terms_id=its_id or f"version:{subscription.version_id}",
        calls=units,
        units=units,
        billable_units=units,
    )


def bill_of(subscription, now=MIDDLE):
    return coming_bill(subscription.account, now)


def lines_of(subscription, now=MIDDLE):
    return [
        (line.text, line.amount_minor, line.forecast_minor)
        for line in bill_of(subscription, now).lines
    ]


def test_what_is_paid_ahead_is_fixed_and_usage_grows_at_its_pace(basic):
    held = subscribed(make_account(), basic, START)
    use(held, 9_000)

    bill = bill_of(held)

    assert lines_of(held) == [
        ("Basic, next period", 50_00, 50_00),
        ("9,000 calls of 10,000 included", 0, 48_00),
    ]
    assert [line.grows for line in bill.lines] == [False, True]
    assert (bill.total_minor, bill.forecast_minor) == (50_00, 98_00)


@pytest.mark.parametrize(
    ("passed", "forecast"),
    [
        (timedelta(hours=1), None),  # of 30 days it isn't a hundredth
        (timedelta(hours=7), None),
        (timedelta(hours=8), 50_00 + 480_00),
        (timedelta(days=30), 50_00),
    ],
)
def test_early_in_a_period_nothing_is_forecast(basic, passed, forecast):
    held = subscribed(make_account(), basic, START)
    use(held, 1_000)

    bill = bill_of(held, START + passed - timedelta(seconds=passed == timedelta(days=30)))

    assert bill.forecast_minor == forecast
    assert bill.lines[0].forecast_minor == 50_00


def test_add_ons_that_stay_are_lines_of_the_next_period(basic):
    held = subscribed(make_account(), basic, START)
    stays, goes = make_add_on("support"), make_add_on("speed")
    for add_on in (stays, goes):
        SubscriptionAddOn.objects.create(
            subscription=held, add_on=add_on, started_at=START, ends_at_period_end=add_on == goes
        )

    assert lines_of(held) == [
        ("Basic, next period", 50_00, 50_00),
        ("Support, next period", 10_00, 10_00),
    ]


def test_a_planned_change_is_what_is_paid_next(basic):
    held = subscribed(make_account(), make_plans()["pro"], START)
    held.next_version = basic
    held.save()

    assert lines_of(held) == [("Basic, next period", 50_00, 50_00)]


@pytest.mark.parametrize("change", [{"cancel_at_period_end": True}, {"state": Held.State.PAUSED}])
def test_what_does_not_go_on_costs_nothing_next(basic, change):
    held = subscribed(make_account(), basic, START)
    Held.objects.update(**change)

    assert lines_of(held) == []


def test_where_calls_stop_the_forecast_does_too(basic):
    held = subscribed(make_account(), basic, START)
    use(held, 9_000)
    Held.objects.update(overage="stop")

    assert bill_of(held).forecast_minor == 50_00


def test_the_forecast_keeps_to_the_customers_own_cap(basic):
    held = subscribed(make_account(), basic, START)
    use(held, 20_000)
    SpendCap.objects.create(account=held.account, cap_minor=70_00, set_at=START)

    bill = bill_of(held)

    assert (bill.total_minor, bill.forecast_minor) == (110_00, 120_00)


def test_after_a_change_usage_to_come_is_rated_by_todays_terms(basic):
    pro = make_plans()["pro"]
    held = subscribed(make_account(), pro, START)
    use(held, 60_000, its_id=f"version:{basic.pk}")

    # 120,000 by the end: 40,000 of them are included in Pro still, 20,000 are not.
    assert lines_of(held) == [
        ("Pro, next period", 200_00, 200_00),
        ("50,000 calls past 10,000", 300_00, 300_00),
        ("0 calls of 40,000 included", 0, 40_00),
    ]


@pytest.mark.parametrize(
    ("currency", "price", "amount"), [("JPY", "3", 6000), ("KWD", "0.0015", 3000)]
)
def test_bills_have_the_places_of_their_currency(basic, currency, price, amount):
    version = PlanVersion.objects.create(
        plan=basic.plan, number=2, currency=currency, base_price_minor=7500
    )
    PlanMeter.objects.create(
        version=version,
        meter=Meter.objects.get(name="calls"),
        included_units=0,
        past_included=PastIncluded.BILL,
        tiers=[{"up_to": None, "price": price, "per": 1}],
    )
    held = subscribed(make_account(), version, START)
    use(held, 2_000)

    bill = bill_of(held)

    assert [line.amount_minor for line in bill.lines] == [7500, amount]
    assert bill.total == {"JPY": "¥13,500", "KWD": "KWD 10.500"}[currency]


def test_the_page_says_what_grows_and_when_it_is_too_early(basic, client, redis_clean):
    account = make_account()
    now = datetime.now(UTC)
    held = subscribed(account, basic, now)
    client.force_login(account.members.get())

    early = client.get("/dashboard/billing/").content.decode()
    Held.objects.update(period_start=now - timedelta(days=10), period_end=now + timedelta(days=20))
    later = client.get("/dashboard/billing/").content.decode()

    assert held.version == basic
    assert "too early to say" in early
    assert "It stays so at this pace." in later
