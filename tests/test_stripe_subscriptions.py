"""Subscriptions at Stripe: renewed, failing and recovered, cancelled, resumed, paid back."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connections
from django.utils import timezone

from billing import inbox, subscriptions
from billing.models import ProviderEvent
from billing.providers import stripe
from tests.factories import make_account
from tests.shop import published
from tests.stripe_shop import kinds

MINUTE = timedelta(minutes=1)


def test_cancelled_for_the_period_end_resumed_and_cancelled_at_once(stripe_shop):
    account = make_account()
    subscription = stripe_shop.buy(account)
    now = timezone.now()

    subscriptions.cancel(account, at_period_end=True, now=now)
    subscription.refresh_from_db()
    planned = subscription.cancel_at_period_end
    subscriptions.resume(account, now)
    subscription.refresh_from_db()
    resumed = not subscription.cancel_at_period_end
    subscriptions.cancel(account, at_period_end=True, now=now)
    subscriptions.cancel(account, at_period_end=False, now=now)
    stripe_shop.deliver(times=3, seed=1)
    stripe_shop.process()

    subscription.refresh_from_db()
    assert planned
    assert resumed
    assert subscription.state == "ended"
    assert kinds(account) == [
        "started", "cancel_planned", "cancel_withdrawn", "cancel_planned", "ended",
    ]  # fmt: skip
    assert published(account)["state"] != "active"


def test_an_end_that_stripe_knows_as_a_date_is_withdrawn(stripe_shop):
    account = make_account()
    subscription = stripe_shop.buy(account)
    held = stripe_shop.stripe.objects[subscription.provider_subscription_id]
    held["cancel_at"] = held["_end"]
    subscriptions.sync(subscription.pk, timezone.now())
    subscription.refresh_from_db()
    planned = subscription.cancel_at_period_end

    subscriptions.resume(account, timezone.now())

    subscription.refresh_from_db()
    assert planned
    assert not subscription.cancel_at_period_end


def test_what_has_ended_at_stripe_stays_as_it_is(stripe_shop):
    subscription = stripe_shop.buy(make_account())
    name = subscription.provider_subscription_id

    stripe.cancel(name, at_period_end=False)
    for again in (True, False):
        stripe.cancel(name, at_period_end=again)
    stripe.resume(name)

    assert stripe.fetch_subscription(name).status == "ended"


@pytest.mark.parametrize("older", [False, True])
def test_a_renewal_whose_charge_fails_is_past_due_until_it_is_made_good(stripe_shop, older):
    stripe_shop.stripe.older = older
    account = make_account()
    subscription = stripe_shop.buy(account)

    stripe_shop.stripe.renew(subscription.provider_subscription_id, paid=False)
    stripe_shop.settle()
    subscription.refresh_from_db()
    failing = subscription.state
    stripe_shop.stripe.recover(subscription.provider_subscription_id)
    stripe_shop.settle()

    subscription.refresh_from_db()
    assert (failing, subscription.state) == ("past_due", "active")
    assert kinds(account) == ["started", "payment_failed", "payment_recovered"]


def test_a_renewal_begins_the_next_period_and_a_planned_end_ends_it(stripe_shop):
    account = make_account()
    subscription = stripe_shop.buy(account)
    first_end = subscription.period_end

    stripe_shop.stripe.renew(subscription.provider_subscription_id)
    stripe_shop.settle()
    subscription.refresh_from_db()
    second_start = subscription.period_start
    subscriptions.cancel(account, at_period_end=True, now=timezone.now())
    stripe_shop.stripe.renew(subscription.provider_subscription_id)
    stripe_shop.settle()

    subscription.refresh_from_db()
    assert second_start == first_end
    assert subscription.state == "ended"
    assert kinds(account) == ["started", "renewed", "cancel_planned", "ended"]


@pytest.mark.parametrize("seed", range(3))
def test_a_whole_lifes_deliveries_shuffled_repeated_and_eight_at_once_end_in_the_same(
    stripe_shop, seed
):
    account = make_account()
    subscription = stripe_shop.buy(account)
    name = subscription.provider_subscription_id
    stripe_shop.stripe.renew(name, paid=False)
    stripe_shop.stripe.recover(name)
    stripe.cancel(name, at_period_end=True)
    stripe.resume(name)
    stripe_shop.stripe.renew(name)
    stripe.cancel(name, at_period_end=True)
    now = timezone.now()

    def process(event_id):
        inbox.process(event_id, now)
        connections.close_all()

    stripe_shop.deliver(times=4, seed=seed)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(process, inbox.waiting(now + MINUTE).values_list("pk", flat=True)))

    subscription = account.subscriptions.get()
    state = stripe.fetch_subscription(name)
    assert (subscription.state, subscription.cancel_at_period_end) == ("active", True)
    assert subscription.period_start == state.period_start
    assert account.keys.count() == 1
    assert not ProviderEvent.objects.filter(processed_at=None).exists()


@pytest.mark.parametrize(
    ("status", "invoice", "ours"),
    [
        ("trialing", "paid", "trialing"),
        ("unpaid", "open", "past_due"),
        ("paused", "paid", "paused"),
        ("incomplete", "paid", "active"),
        ("hibernating", "paid", "active"),
        ("hibernating", "open", "past_due"),
    ],
)
def test_statuses_are_reduced_to_ours_and_new_ones_go_by_the_invoice(
    stripe_shop, status, invoice, ours
):
    subscription = stripe_shop.buy(make_account())
    held = stripe_shop.stripe.objects[subscription.provider_subscription_id]
    held["status"] = status
    stripe_shop.stripe.objects[held["latest_invoice"]]["status"] = invoice

    state = stripe.fetch_subscription(subscription.provider_subscription_id)

    assert state.status == ours


@pytest.mark.parametrize("older", [False, True])
def test_a_refund_asked_for_again_pays_back_once(stripe_shop, older):
    stripe_shop.stripe.older = older
    subscription = stripe_shop.buy(make_account())

    for _ in range(3):
        stripe.refund_and_cancel(subscription.provider_subscription_id)
        stripe_shop.stripe.answered.clear()  # Stripe has forgotten the idempotency keys

    refunds = [o for o in stripe_shop.stripe.objects.values() if o["object"] == "refund"]
    assert len(refunds) == 1
