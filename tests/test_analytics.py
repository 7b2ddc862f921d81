"""The analytics page shows the numbers of billing and gateway beside what they mean."""

from datetime import UTC, datetime, timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from billing import metrics
from billing.models import BillingEvent
from gateway.models import UsageRollup
from portal.models import User
from portal.staff import analytics
from tests.factories import make_account

PAGE = reverse("admin:analytics")


@pytest.fixture
def desk(db, redis_clean, client):
    client.force_login(User.objects.create_superuser("staff@example.com", "a long enough one"))
    return client


def paid(account, mrr_minor, at, *, plan="Basic", currency="USD"):
    BillingEvent.objects.create(
        account=account,
        kind="started" if mrr_minor else "ended",
        data={"plan": plan},
        mrr_minor=mrr_minor,
        currency=currency,
        at=at,
    )


def called(account, operation, at, *, calls=1, status_class=2, mode="live"):
    UsageRollup.objects.create(
        quarter=at.replace(minute=0, second=0, microsecond=0),
        account_id=account.pk,
        key_id=account.pk,
        api="holidays",
        operation=operation,
        meter="calls",
        status_class=status_class,
        mode=mode,
        period_start=at,
        terms_id="version:1",
        calls=calls,
        units=calls,
        billable_units=calls,
        latency_us_sum=calls * 20_000,
    )


def test_a_new_house_shows_zeros_and_what_to_expect(desk):
    page = desk.get(PAGE).content.decode()

    assert "$0" in page
    assert "Nobody paid at the end of this period." in page
    assert "No live calls in this period." in page
    assert "Nothing failed in this period." in page
    assert "No customer called more" in page


def test_every_number_stands_beside_its_definition(desk):
    answer = desk.get(PAGE)

    text = " ".join(answer.content.decode().split()).replace("&#x27;", "'")
    for definition in [*metrics.DEFINITIONS.values(), *analytics.DEFINITIONS.values()]:
        assert definition in text


def test_revenue_and_churn_are_those_of_the_chosen_period(desk):
    now = timezone.now()
    long_ago = now - timedelta(days=100)
    stays, leaves, comes = make_account(), make_account(), make_account()
    paid(stays, 200_00, long_ago, plan="Pro")
    paid(leaves, 50_00, long_ago)
    paid(leaves, 0, now - timedelta(days=5))
    paid(comes, 50_00, now - timedelta(days=3))

    answer = desk.get(PAGE, {"period": "30-days"})

    [figures] = answer.context["figures"]
    assert (figures["mrr"], figures["mrr_change"]) == ("$250", "unchanged")
    assert (figures["customers"], figures["arpu"]) == (2, "$125")
    assert (figures["churn"], figures["lost"].lost, figures["lost"].at_start) == ("50.0%", 1, 2)
    [table] = answer.context["tables"]
    rows = {row.plan: (row.customers, row.mrr, row.arpu, row.churn) for row in table["rows"]}
    assert rows == {"Pro": (1, "$200", "$200", "0.0%"), "Basic": (1, "$50", "$50", "100.0%")}
    assert (table["total"].customers, table["total"].mrr) == (2, "$250")


def test_a_plan_that_lost_its_last_customer_still_shows_its_churn(desk):
    now = timezone.now()
    account = make_account()
    paid(account, 50_00, now - timedelta(days=100))
    paid(account, 0, now - timedelta(days=5))

    [table] = desk.get(PAGE, {"period": "30-days"}).context["tables"]

    assert [(row.plan, row.customers, row.churn) for row in table["rows"]] == [
        ("Basic", 0, "100.0%")
    ]


def test_amounts_of_two_currencies_are_never_added(desk):
    now = timezone.now()
    paid(make_account(), 50_00, now - timedelta(hours=1))
    paid(make_account(), 5000, now - timedelta(hours=1), currency="JPY")

    answer = desk.get(PAGE, {"period": "30-days"})

    assert [each["mrr"] for each in answer.context["figures"]] == ["¥5,000", "$50"]
    assert [table["total"].mrr for table in answer.context["tables"]] == ["¥5,000", "$50"]


def test_operations_are_ranked_by_calls_and_by_failures(desk):
    account, now = make_account(), timezone.now()
    at = now - timedelta(hours=2)
    called(account, "GET /often", at, calls=90)
    called(account, "GET /often", at, calls=10, status_class=5)
    called(account, "GET /broken", at, calls=20, status_class=5)
    called(account, "GET /tried", at, calls=500, mode="test")
    called(account, "GET /before", now - timedelta(days=40), calls=1000)

    context = desk.get(PAGE, {"period": "30-days"}).context

    assert [(row.operation, row.calls, share) for row, share in context["top"]] == [
        ("GET /often", 100, "100.0%"),
        ("GET /broken", 20, "20.0%"),
    ]
    assert [(row.operation, row.failures, share) for row, share in context["failing"]] == [
        ("GET /broken", 20, "100.0%"),
        ("GET /often", 10, "10.0%"),
    ]


def test_the_fastest_growing_customers_are_named(desk):
    grows, shrinks, now = make_account(name="Grows"), make_account(name="Shrinks"), timezone.now()
    called(grows, "GET /x", now - timedelta(days=2), calls=30)
    called(grows, "GET /x", now - timedelta(days=10), calls=10)
    called(shrinks, "GET /x", now - timedelta(days=10), calls=10)

    answer = desk.get(PAGE, {"period": "last-month"})

    [row] = answer.context["growing"]
    assert (row["account"], row["calls"], row["calls_before"], row["increase"]) == (
        grows, 30, 10, 20,
    )  # fmt: skip
    assert "Grows" in answer.content.decode()


def test_periods_are_months_of_utc_that_do_not_reach_into_the_future():
    now = datetime(2026, 3, 1, 0, 30, tzinfo=UTC)

    month, last_month, days = analytics.choices(now)

    assert (month.start, month.end) == (datetime(2026, 3, 1, tzinfo=UTC), now)
    assert (last_month.start, last_month.end) == (
        datetime(2026, 2, 1, tzinfo=UTC),
        datetime(2026, 3, 1, tzinfo=UTC),
    )
    assert days.end - days.start == timedelta(days=30)


def test_an_unknown_period_is_this_month(desk):
    assert desk.get(PAGE, {"period": "<script>"}).context["period"].slug == "month"
