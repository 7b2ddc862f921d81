"""Money to key: whatever becomes of the webhooks, one purchase ends in one subscription."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import requests
from django.db import connections
from django.utils import timezone

from billing import checkout, subscriptions, tasks
from billing.checkout import NotForSale
from billing.models import BillingEvent, Checkout, ProviderEvent, Subscription
from billing.providers import ProviderUnavailable
from billing.sandbox import orders
from billing.sandbox.cards import CARDS
from billing.sandbox.models import SandboxDelivery
from billing.subscriptions import AlreadySubscribed
from keys import issuance
from keys.models import ApiKey
from tests.factories import make_account
from tests.shop import published, until, working

State = Checkout.State


def assert_one_basic(account):
    """The state in which every clean or messy purchase of Basic ends."""
    subscription = account.subscriptions.get()
    assert subscription.state == Subscription.State.ACTIVE
    assert subscription.version.plan.slug == "basic"
    assert account.keys.get().state == ApiKey.State.UNCLAIMED
    assert [event.kind for event in account.billing_events.all()] == ["started"]
    account.refresh_from_db()
    assert account.entitlement.state == "active"
    record = published(account)
    assert record["plan"] == "Basic"
    assert (record["state"], record["rate"], record["included:calls"]) == ("active", "20", "10000")
    assert record["limit:calls"] == ""


def test_a_purchase_over_real_http_and_a_real_worker_issues_one_key(shop):
    account = make_account()
    row = shop.start(account)

    with working():
        answer = shop.pay(row)
        until(lambda: Checkout.objects.get(pk=row.pk).state == State.COMPLETED)
        until(lambda: SandboxDelivery.objects.filter(delivered_at=None).count() == 0)

    assert answer.status_code == 302
    assert answer.headers["Location"] == f"{shop.site}/checkout/{row.pk}/"
    assert ProviderEvent.objects.get().processed_at is not None
    assert_one_basic(account)


def test_a_webhook_may_arrive_before_the_browser_returns(shop):
    account = make_account()
    row = shop.start(account)
    orders.pay(row.provider_session_id, CARDS[0], timezone.now())

    shop.settle()

    assert Checkout.objects.get(pk=row.pk).state == State.COMPLETED
    assert_one_basic(account)


def test_a_webhook_that_never_comes_is_made_up_for_by_asking(shop):
    account = make_account()
    row = shop.start(account)
    shop.pay(row)
    SandboxDelivery.objects.all().delete()
    later = timezone.now() + timedelta(seconds=15)

    due = checkout.due_for_sync(later)
    for checkout_id in due:
        checkout.sync(checkout_id, later)

    assert due == [row.pk]
    assert ProviderEvent.objects.count() == 0
    assert_one_basic(account)
    assert checkout.due_for_sync(later + timedelta(days=1)) == []


def test_a_webhook_sent_twice_changes_nothing(shop):
    account = make_account()
    shop.pay(shop.start(account))
    shop.settle()
    SandboxDelivery.objects.update(next_attempt_at=timezone.now(), delivered_at=None)

    assert shop.deliver() == [200]
    shop.process()

    assert ProviderEvent.objects.count() == 1
    assert_one_basic(account)


def test_eight_workers_at_once_start_one_subscription(shop):
    account = make_account()
    row = shop.start(account)
    shop.pay(row)
    shop.deliver()
    shop.process_by_eight()

    assert ProviderEvent.objects.filter(processed_at=None).count() == 0
    assert_one_basic(account)


def test_a_slow_older_fetch_never_overwrites_a_newer_one(shop):
    account = make_account()
    row = shop.start(account)
    shop.pay(row)
    checkout.sync(row.pk, timezone.now())
    subscription = account.subscriptions.get()
    older = subscriptions.fetch(subscription)
    subscriptions.cancel(account, at_period_end=True, now=timezone.now())

    subscriptions.apply(account, older, "sandbox", timezone.now())

    subscription.refresh_from_db()
    assert subscription.cancel_at_period_end
    assert subscription.applied_ticket > older.ticket


def test_a_declined_card_leaves_the_checkout_open_for_another(shop):
    account = make_account()
    row = shop.start(account)

    declined = shop.pay(row, "decline")
    shop.settle()
    row.refresh_from_db()
    after_decline = (row.state, row.error)
    shop.pay(row, "success")
    shop.settle()

    assert declined.status_code == 200
    assert "Your card was declined." in declined.text
    assert after_decline == (State.OPEN, "Your card was declined.")
    row.refresh_from_db()
    assert (row.state, row.error) == (State.COMPLETED, "")
    assert_one_basic(account)


def test_a_delayed_payment_starts_nothing_until_it_arrives(shop):
    account = make_account()
    row = shop.start(account)

    answer = shop.pay(row, "delay")
    shop.settle()
    row.refresh_from_db()
    waiting = (row.state, row.payment_pending, account.subscriptions.count(), account.keys.count())
    orders.advance(timezone.now() + timedelta(seconds=21))
    SandboxDelivery.objects.filter(attempts=0).update(next_attempt_at=timezone.now())
    shop.settle()

    assert answer.status_code == 302
    assert waiting == (State.OPEN, True, 0, 0)
    row.refresh_from_db()
    assert (row.state, row.payment_pending) == (State.COMPLETED, False)
    assert_one_basic(account)


def test_a_delayed_payment_that_fails_ends_the_checkout_and_is_told(shop):
    account = make_account()
    row = shop.start(account)

    shop.pay(row, "late-decline")
    checkout.sync(row.pk, timezone.now())
    orders.advance(timezone.now() + timedelta(seconds=21))
    checkout.sync(row.pk, timezone.now())

    row.refresh_from_db()
    assert (row.state, row.error) == (State.FAILED, "Your card was declined.")
    assert account.billing_events.get().kind == BillingEvent.Kind.PURCHASE_FAILED
    assert account.subscriptions.count() == 0
    assert account.keys.count() == 0


def test_a_second_purchase_is_cancelled_and_refunded_and_the_first_untouched(shop):
    account = make_account()
    first, second = shop.start(account), shop.start(account, "pro")
    shop.pay(first)
    shop.settle()
    key = account.keys.get()
    issuance.claim(key.pk, account, actor=None, address=None, now=timezone.now())
    before = published(account)

    shop.pay(second)
    shop.settle()

    second.refresh_from_db()
    order = shop.order(second)
    assert second.state == State.SUPERSEDED
    assert second.refunded_at is not None
    assert (order.state, order.refunded) == ("ended", True)
    assert shop.order(first).state == "active"
    assert account.subscriptions.get().version.plan.slug == "basic"
    assert account.keys.get().digest is not None
    assert published(account) == before
    told = account.billing_events.get(kind=BillingEvent.Kind.DUPLICATE_REFUNDED)
    assert told.data["refunded_plan"] == "Pro"
    assert told.data["amount_minor"] == 200_00
    assert told.mrr_minor == 50_00
    assert checkout.due_for_sync(timezone.now() + timedelta(days=1)) == []


def test_two_purchases_paid_at_the_same_moment_leave_one(shop):
    account = make_account()
    rows = [shop.start(account), shop.start(account, "pro")]
    for row in rows:
        shop.pay(row)
    now = timezone.now()

    def sync(row):
        checkout.sync(row.pk, now)
        connections.close_all()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(sync, rows))

    states = sorted(Checkout.objects.values_list("state", flat=True))
    assert states == [State.COMPLETED, State.SUPERSEDED]
    assert account.subscriptions.count() == 1
    assert account.keys.count() == 1


def test_a_refund_that_was_interrupted_is_done_by_the_next_sweep(shop):
    account = make_account()
    first, second = shop.start(account), shop.start(account)
    for row in (first, second):
        shop.pay(row)
    checkout.sync(first.pk, timezone.now())
    Checkout.objects.filter(pk=second.pk).update(state=State.SUPERSEDED)
    later = timezone.now() + timedelta(minutes=1)

    for checkout_id in checkout.due_for_sync(later):
        checkout.sync(checkout_id, later)

    assert Checkout.objects.get(pk=second.pk).refunded_at == later
    assert shop.order(second).refunded
    assert account.billing_events.filter(kind="duplicate_refunded").count() == 1


def test_only_current_paid_versions_are_sold_and_only_once(shop):
    account = make_account()
    buyer = account.members.get()
    now = timezone.now()

    with pytest.raises(NotForSale):
        checkout.start(account, shop.plans["free"], user=buyer, now=now)
    shop.buy(account, at=now)
    with pytest.raises(AlreadySubscribed):
        checkout.start(account, shop.plans["pro"], user=buyer, now=now)


def test_an_unpaid_checkout_expires(shop):
    account = make_account()
    row = shop.start(account, now=timezone.now() - timedelta(hours=25))
    orders.SandboxOrder.objects.update(created_at=row.created_at)

    checkout.sync(row.pk, timezone.now())

    row.refresh_from_db()
    assert row.state == State.EXPIRED
    assert "has expired" in requests.get(row.url, timeout=10).text


def test_a_checkout_that_was_interrupted_before_its_session_fails_after_an_hour(shop):
    now = timezone.now()
    opened = shop.start(make_account(), now=now - timedelta(hours=2))
    old, young = (
        Checkout.objects.create(
            account=opened.account,
            version=opened.version,
            provider="sandbox",
            created_at=now - age,
        )
        for age in (timedelta(hours=1), timedelta(minutes=59))
    )

    checkout.fail_interrupted(now)

    states = Checkout.objects.in_bulk([opened.pk, old.pk, young.pk])
    assert states[old.pk].state == State.FAILED
    assert {states[opened.pk].state, states[young.pk].state} == {State.OPEN}


def test_an_open_checkout_is_asked_about_less_and_less_often(shop):
    row = shop.start(make_account())
    born = row.created_at

    def due(age, asked_ago):
        Checkout.objects.update(synced_at=born + age - asked_ago)
        return bool(checkout.due_for_sync(born + age))

    assert due(timedelta(minutes=1), timedelta(seconds=10))
    assert not due(timedelta(hours=1), timedelta(minutes=5))
    assert due(timedelta(hours=1), timedelta(minutes=6))
    assert not due(timedelta(hours=20), timedelta(hours=1))


def test_a_provider_that_cannot_be_asked_changes_nothing(shop):
    account = make_account()
    row = shop.start(account)
    shop.order(row).delete()

    with pytest.raises(ProviderUnavailable):
        checkout.sync(row.pk, timezone.now())
    tasks.sync_checkout(str(row.pk))

    assert Checkout.objects.get(pk=row.pk).state == State.OPEN
