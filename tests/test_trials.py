"""A trial: for a first purchase only, open to calls, paid when it ends or past due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from billing import catalogue, subscriptions, terms
from billing.models import PlanMeter, PlanVersion, Subscription
from billing.providers import Order, sandbox
from billing.sandbox import cards, orders
from billing.sandbox.models import SandboxOrder
from keys import clock
from tests.factories import make_account, make_user
from tests.shop import published

State = Subscription.State
START = datetime(2026, 3, 10, 9, tzinfo=UTC)


def with_trial(shop, *, interval="month", days=14) -> PlanVersion:
    """Basic with a trial, on sale in place of the version before it."""
    basic = shop.plans["basic"]
    draft = PlanVersion.objects.create(
        plan=basic.plan, number=2, base_price_minor=50_00, trial_days=days, interval=interval
    )
    meter = basic.meters.get().meter
    PlanMeter.objects.create(version=draft, meter=meter, included_units=10_000)
    catalogue.publish(draft, START)
    shop.plans["basic"] = draft
    return draft


def pass_time(subscription: Subscription, now: datetime) -> None:
    orders.advance(now)
    subscriptions.sync(subscription.pk, now)
    subscription.refresh_from_db()


def test_a_first_purchase_begins_with_its_trial_and_calls_are_let_through(shop):
    with_trial(shop)
    account = make_account()

    bought = shop.buy(account, at=START)

    assert bought.state == State.TRIALING
    assert bought.trial_ends_at == bought.period_end == START + timedelta(days=14)
    assert published(account)["state"] == "active"
    assert terms.standing(account.pk, START).monthly_minor == 0
    order = SandboxOrder.objects.get(subscription_id=bought.provider_subscription_id)
    assert order.payments.count() == 0


@pytest.mark.parametrize("interval", ["month", "year"])
def test_the_first_payment_comes_when_the_trial_ends(shop, interval):
    version = with_trial(shop, interval=interval)
    account = make_account()
    bought = shop.buy(account, at=START)
    its_period = terms.usage_periods(terms.standing(account.pk, START), START)[:2]

    pass_time(bought, START + timedelta(days=14, minutes=1))

    assert its_period == [START, START + timedelta(days=14)]
    assert bought.state == State.ACTIVE
    assert bought.period_start == START + timedelta(days=14)
    assert bought.period_end == bought.period_start.replace(
        **({"month": 4} if interval == "month" else {"year": 2027})
    )
    assert bought.version == version
    order = SandboxOrder.objects.get(subscription_id=bought.provider_subscription_id)
    assert [one.amount_minor for one in order.payments.all()] == [50_00]
    kinds = [event.kind for event in account.billing_events.order_by("id")]
    assert kinds == ["started", "renewed"]


def test_a_trial_that_ends_unpaid_is_past_due(shop):
    with_trial(shop)
    bought = shop.buy(make_account(), at=START)
    SandboxOrder.objects.update(declines=True)

    pass_time(bought, START + timedelta(days=14, minutes=1))

    assert bought.state == State.PAST_DUE
    assert bought.past_due_since is not None


def test_a_trial_that_is_cancelled_ends_without_a_payment(shop):
    with_trial(shop)
    account = make_account()
    bought = shop.buy(account, at=timezone.now())
    subscriptions.cancel(account, at_period_end=True, now=timezone.now())

    pass_time(bought, timezone.now() + timedelta(days=15))

    assert bought.state == State.ENDED
    order = SandboxOrder.objects.get(subscription_id=bought.provider_subscription_id)
    assert order.payments.count() == 0


def test_a_trial_is_had_once_by_an_account_and_by_a_person(shop):
    version = with_trial(shop)
    owner = make_user()
    account, other = make_account(owner), make_account(owner)
    shop.buy(account, at=START)
    subscriptions.cancel(account, at_period_end=False, now=START)

    again = shop.buy(account, at=START + timedelta(days=1))

    assert again.state == State.ACTIVE
    assert catalogue.trial_days(other.pk, owner.pk, version) == 0
    assert catalogue.trial_days(other.pk, make_user().pk, version) == 14


def test_the_price_list_and_the_buy_page_say_what_comes_after_the_trial(shop, client):
    with_trial(shop)
    account = make_account()
    client.force_login(account.members.get())

    prices = client.get("/pricing").content.decode()
    page = client.get("/buy/basic/").content.decode()

    assert "14 days free" in prices
    assert "14 days free, then $50 a month" in page


def test_the_hosted_page_charges_nothing_today(shop):
    with_trial(shop)
    row = shop.start(make_account())

    answer = shop.pay(row)

    assert answer.status_code == 302
    assert answer.headers["Location"] == f"{shop.site}/checkout/{row.pk}/"
    assert sandbox.fetch_checkout(row.provider_session_id).subscription.status == "trialing"


def test_the_sandbox_can_wait_for_the_moment_of_a_first_payment(shop):
    version = shop.plans["basic"]
    now = clock.now()
    later = now.replace(microsecond=0) + timedelta(days=20)
    order = Order(
        reference="later",
        items=catalogue.items(version),
        currency="USD",
        interval="month",
        customer_email="a@example.com",
        return_url="http://127.0.0.1/",
        cancel_url="http://127.0.0.1/",
        starts_at=later,
    )
    session = sandbox.create_checkout(order)
    orders.pay(session.id, cards.CARDS[0], now)

    waiting = sandbox.fetch_checkout(session.id).subscription
    orders.advance(later)
    begun = sandbox.fetch_checkout(session.id).subscription

    assert (waiting.status, waiting.trial_ends_at) == ("trialing", None)
    assert waiting.payments == ()
    assert (begun.status, begun.period_start) == ("active", later)
    assert [one.amount_minor for one in begun.payments] == [50_00]
