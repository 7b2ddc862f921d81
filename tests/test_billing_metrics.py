"""The numbers of the business, against sums done by hand."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.utils import timezone

from billing import contracts, metrics, subscriptions, terms
from billing.metrics import Churn, Revenue
from billing.models import BillingEvent, Contract, PlanMeter, PlanVersion, Subscription
from billing.sandbox.models import SandboxOrder
from gateway.models import Meter
from tests.factories import make_account

pytestmark = pytest.mark.django_db

JUNE = datetime(2026, 6, 1, tzinfo=UTC)


def happened(account, day, plan, mrr_minor, currency="USD"):
    BillingEvent.objects.create(
        account=account,
        kind=BillingEvent.Kind.STARTED if mrr_minor else BillingEvent.Kind.ENDED,
        data={"plan": plan},
        mrr_minor=mrr_minor,
        currency=currency,
        at=JUNE + timedelta(days=day),
    )


@pytest.fixture
def june():
    """Five accounts in a month: one stays, one leaves, one upgrades, one returns, one comes."""
    stays, leaves, upgrades, returns, comes = (make_account() for _ in range(5))
    happened(stays, -90, "Pro", 200_00)
    happened(leaves, -60, "Basic", 50_00)
    happened(leaves, 10, "Basic", 0)
    happened(upgrades, -60, "Basic", 50_00)
    happened(upgrades, 15, "Pro", 200_00)
    happened(returns, -30, "Basic", 50_00)
    happened(returns, 5, "Basic", 0)
    happened(returns, 20, "Basic", 50_00)
    happened(comes, 25, "Basic", 50_00)
    happened(make_account(), -10, "Free", 0)


def test_revenue_at_the_start_and_end_of_a_month(june):
    start, end = metrics.revenue(JUNE), metrics.revenue(JUNE + timedelta(days=30))

    assert start == {"USD": Revenue(customers=4, mrr_minor=350_00)}
    assert start["USD"].arpu_minor == 87_50
    assert end == {"USD": Revenue(customers=4, mrr_minor=500_00)}
    assert end["USD"].arpu_minor == 125_00


def test_revenue_by_plan(june):
    assert metrics.revenue_by_plan(JUNE + timedelta(days=30)) == {
        ("Pro", "USD"): Revenue(customers=2, mrr_minor=400_00),
        ("Basic", "USD"): Revenue(customers=2, mrr_minor=100_00),
    }


def test_churn_counts_who_paid_at_the_start_and_not_at_the_end(june):
    end = JUNE + timedelta(days=30)

    assert metrics.churn(JUNE, end) == Churn(at_start=4, lost=1)
    assert metrics.churn(JUNE, end).rate == Decimal("0.25")
    assert metrics.churn_by_plan(JUNE, end) == {
        "Basic": Churn(at_start=3, lost=1),
        "Pro": Churn(at_start=1, lost=0),
    }


def test_without_customers_there_is_no_rate(june):
    before = JUNE - timedelta(days=365)

    assert metrics.revenue(before) == {}
    assert metrics.churn(before, JUNE).rate is None


def test_currencies_are_never_added():
    happened(make_account(), 0, "Pro", 200_00)
    happened(make_account(), 0, "Pro", 30_000, "JPY")

    assert metrics.revenue(JUNE + timedelta(days=1)) == {
        "JPY": Revenue(customers=1, mrr_minor=30_000),
        "USD": Revenue(customers=1, mrr_minor=200_00),
    }


def test_an_average_is_rounded_half_up():
    assert Revenue(customers=3, mrr_minor=100).arpu_minor == 33
    assert Revenue(customers=3, mrr_minor=500).arpu_minor == 167
    assert Revenue(customers=2, mrr_minor=5).arpu_minor == 3


def make_version(plan, number, interval, price):
    version = PlanVersion.objects.create(
        plan=plan, number=number, interval=interval, base_price_minor=price
    )
    PlanMeter.objects.create(
        version=version, meter=Meter.objects.get(name="calls"), included_units=1
    )
    return version


def test_the_history_agrees_with_the_rows(shop):
    now = timezone.now()
    monthly, yearly, trial, late, enterprise = (make_account() for _ in range(5))
    shop.buy(monthly, at=now)
    pro = shop.plans["pro"].plan
    for account, state in ((yearly, "active"), (trial, "trialing")):
        Subscription.objects.create(
            account=account,
            version=make_version(pro, 10 + len(state), PlanVersion.Interval.YEAR, 2_000_05),
            provider="sandbox",
            state=state,
            started_at=now,
            period_start=now,
            period_end=now + timedelta(days=365),
            anchor_day=1,
        )
    subscription = shop.buy(late, "pro", at=now)
    SandboxOrder.objects.filter(pk=SandboxOrder.objects.latest("created_at").pk).update(
        state="past_due"
    )
    subscriptions.sync(subscription.pk, timezone.now())
    Contract.objects.create(
        account=enterprise,
        base_price_minor=5_000_00,
        rate_per_second=10,
        burst=10,
        included_calls=10,
        starts_at=now,
    )
    contracts.apply(enterprise, timezone.now())
    later = timezone.now()

    worth = [
        terms.standing(account.pk, later).monthly_minor
        for account in (monthly, yearly, trial, late, enterprise)
    ]

    assert worth == [50_00, 166_67, 0, 200_00, 5_000_00]
    assert metrics.revenue_by_plan(later) == {
        ("Enterprise", "USD"): Revenue(customers=1, mrr_minor=5_000_00),
        ("Pro", "USD"): Revenue(customers=1, mrr_minor=200_00),
        ("Basic", "USD"): Revenue(customers=1, mrr_minor=50_00),
    }
