"""Dodo Payments sells: whatever it does and says, a purchase ends in one subscription.

The double (`tests.doubles.dodo_shop`) speaks its protocol and refuses what its documents don't
allow; a test moves the time and sends the deliveries.
"""

import random
from datetime import timedelta

import pytest
import requests
from django.test import Client
from django.utils import timezone

from billing import checkout, inbox
from billing.models import Checkout, ProviderEvent, Subscription
from billing.providers import ProviderUnavailable, dodo
from billing.providers.dodo import metering
from keys.models import ApiKey
from tests.factories import make_account
from tests.shop import published

State = Checkout.State


def assert_one_basic(account):
    subscription = account.subscriptions.get()
    assert (subscription.state, subscription.provider) == (Subscription.State.ACTIVE, "dodo")
    assert account.keys.get().state == ApiKey.State.UNCLAIMED
    assert [event.kind for event in account.billing_events.all()] == ["started"]
    assert published(account)["state"] == "active"


def test_a_purchase_on_dodos_page_issues_one_key(trade):
    account = make_account()
    row = trade.start(account)

    page = requests.get(row.url, timeout=10)
    answer = trade.pay(row)
    trade.settle()

    assert "Basic plan" in page.text
    assert answer.status_code == 303
    assert answer.headers["Location"].startswith(f"{trade.shop.site}/checkout/{row.pk}/?")
    assert Checkout.objects.get(pk=row.pk).state == State.COMPLETED
    assert_one_basic(account)
    at_dodo = trade.subscription_of(row)
    subscription = account.subscriptions.get()
    assert subscription.provider_subscription_id == at_dodo["subscription_id"]
    assert subscription.provider_customer_id == at_dodo["customer"]["customer_id"]
    assert at_dodo["recurring_pre_tax_amount"] == 50_00
    assert inbox.waiting(timezone.now() + timedelta(days=1)).count() == 0


def test_the_buy_button_leads_to_dodos_page(trade):
    browser = Client()
    browser.force_login(
        make_account().members.get(), backend="django.contrib.auth.backends.ModelBackend"
    )

    answer = browser.post("/buy/basic/")
    trade.dodo.faults.append("drop")
    refused = browser.post("/buy/basic/")

    assert (answer.status_code, answer.headers["Location"]) == (303, Checkout.objects.last().url)
    assert answer.headers["Location"].startswith(f"{trade.dodo.url}/session/")
    assert refused.status_code == 503
    assert "Nothing was charged" in refused.content.decode()


def test_a_purchase_whose_webhooks_are_lost_is_found_by_asking(trade):
    account = make_account()
    row = trade.start(account)
    trade.pay(row)
    trade.dodo.outbox.clear()
    later = timezone.now() + timedelta(seconds=15)

    for checkout_id in checkout.due_for_sync(later):
        checkout.sync(checkout_id, later)

    assert ProviderEvent.objects.count() == 0
    assert_one_basic(account)


def test_deliveries_repeated_and_in_any_order_change_nothing(trade):
    account = make_account()
    trade.pay(trade.start(account))
    told = list(trade.dodo.outbox)
    trade.dodo.outbox = [*reversed(told), *told, *told]

    trade.settle()

    assert ProviderEvent.objects.count() == len(told)
    assert_one_basic(account)


def test_a_life_whose_deliveries_are_shuffled_and_lost_ends_as_a_clean_one(trade):
    """Renewed, failing, recovered, planned to end, ended: four times, each in its own disorder."""
    for seed in range(4):
        account, disorder = make_account(), random.Random(seed)  # noqa: S311 - no secret
        row = trade.start(account)
        trade.pay(row)
        subscription_id = trade.subscription_of(row)["subscription_id"]
        trade.dodo.renew(subscription_id)
        trade.dodo.fail(subscription_id)
        trade.dodo.renew(subscription_id)
        trade.dodo.subscriptions[subscription_id]["cancel_at_next_billing_date"] = True
        told = trade.dodo.outbox
        trade.dodo.outbox = disorder.choices(told, k=2 * len(told))

        trade.settle()
        trade.dodo.renew(subscription_id)
        disorder.shuffle(told)
        trade.dodo.outbox += told
        trade.settle()

        subscription = account.subscriptions.get()
        assert subscription.state == Subscription.State.ENDED
        assert account.keys.count() == 1
        assert [*account.billing_events.order_by("pk").values_list("kind", flat=True)] == [
            "started",
            "ended",
        ]


def test_a_delivery_of_the_past_tells_what_is_true_now(trade):
    account = make_account()
    subscription = trade.buy(account)
    trade.dodo.fail(subscription.provider_subscription_id)
    late = trade.dodo.outbox.pop(0)
    trade.dodo.renew(subscription.provider_subscription_id)
    trade.settle()

    assert trade.dodo.send(trade.shop.site, late) == 200
    trade.shop.process()

    subscription.refresh_from_db()
    assert subscription.state == Subscription.State.ACTIVE


def test_a_declined_card_leaves_the_checkout_open_for_another(trade):
    account = make_account()
    row = trade.start(account)

    declined = trade.pay(row, "decline")
    trade.settle()
    row.refresh_from_db()
    after_decline = (row.state, row.error)
    trade.pay(row)
    trade.settle()

    assert "declined" in declined.text
    assert after_decline == (State.OPEN, "The payment failed.")
    assert Checkout.objects.get(pk=row.pk).state == State.COMPLETED
    assert_one_basic(account)


@pytest.mark.parametrize("paid", [True, False])
def test_a_delayed_payment_starts_nothing_until_it_arrives(trade, paid):
    account = make_account()
    row = trade.start(account)
    trade.pay(row, "later")
    trade.settle()
    row.refresh_from_db()
    waiting = (row.state, row.payment_pending, account.keys.count())

    trade.dodo.settle(row.provider_session_id, paid=paid)
    trade.settle()

    assert waiting == (State.OPEN, True, 0)
    row.refresh_from_db()
    assert (row.state, row.payment_pending) == (State.COMPLETED if paid else State.OPEN, False)
    assert account.keys.count() == int(paid)
    told = [event.kind for event in account.billing_events.all()]
    assert told == ["started" if paid else "purchase_failed"]


@pytest.mark.parametrize(("card", "ends"), [("", "expired"), ("decline", "failed")])
def test_a_checkout_that_nobody_pays_ends_after_a_day(trade, card, ends):
    row = trade.start(make_account())
    if card:
        trade.pay(row, card)
    long_ago = timezone.now() - timedelta(hours=26, minutes=1)
    trade.dodo.sessions[row.provider_session_id]["created_at"] = long_ago.isoformat()

    checkout.sync(row.pk, timezone.now())

    assert Checkout.objects.get(pk=row.pk).state == ends


def test_a_second_purchase_is_cancelled_and_refunded_once(trade):
    account = make_account()
    first, second = trade.start(account), trade.start(account, "pro")
    trade.pay(first)
    trade.settle()

    trade.pay(second)
    trade.settle()
    trade.settle()

    assert Checkout.objects.get(pk=second.pk).state == State.SUPERSEDED
    assert trade.subscription_of(second)["status"] == "cancelled"
    assert trade.subscription_of(first)["status"] == "active"
    (refund,) = trade.dodo.refunds.values()
    assert refund["amount"] == 200_00
    assert account.subscriptions.get().version.plan.slug == "basic"
    assert account.billing_events.filter(kind="duplicate_refunded").count() == 1


@pytest.mark.parametrize("request_number", range(5))
def test_a_refund_that_is_interrupted_anywhere_is_paid_once(trade, request_number):
    faults = ("lost answer", "500 after", "garbage", "drop", 500, 429)
    for serial, fault in enumerate(faults, start=1):
        row = trade.start(make_account())
        trade.pay(row)
        subscription_id = trade.subscription_of(row)["subscription_id"]
        trade.dodo.faults.extend([*["nothing"] * request_number, fault])

        with pytest.raises(ProviderUnavailable):
            dodo.refund_and_cancel(subscription_id)
        for _ in range(2):
            dodo.refund_and_cancel(subscription_id)

        assert len(trade.dodo.refunds) == serial
        assert trade.subscription_of(row)["status"] == "cancelled"


# ------------------------------------------------------------------ products


def test_a_plan_version_has_one_product_that_is_found_again(trade):
    for _ in range(2):
        trade.start(make_account())
    trade.start(make_account(), "pro")

    names = [one["name"] for one in trade.dodo.products.values()]
    assert names == ["Basic plan", "Pro plan"]


def test_a_product_that_somebody_changed_at_dodo_is_not_sold(trade):
    trade.start(make_account())
    (product,) = trade.dodo.products.values()
    product["price"] = product["price"] | {"price": 1_00}

    row = trade.start(make_account())
    trade.pay(row)

    assert trade.subscription_of(row)["recurring_pre_tax_amount"] == 50_00


def test_another_sites_product_is_not_sold(trade):
    trade.start(make_account())
    (product,) = trade.dodo.products.values()
    product["metadata"] = product["metadata"] | {"keystile_site": "https://other.example"}

    trade.start(make_account())

    assert len(trade.dodo.products) == 2


def test_the_product_is_found_behind_a_hundred_others(trade):
    trade.start(make_account())
    (product,) = trade.dodo.products.values()
    others = {f"other_{n}": product | {"product_id": f"x{n}", "metadata": {}} for n in range(120)}
    trade.dodo.products = others | trade.dodo.products

    trade.start(make_account())

    assert len(trade.dodo.products) == 121


def test_usage_is_summed_over_every_page(trade):
    at = timezone.now()
    trade.dodo.events = {
        f"evt_{n}": {
            "event_id": f"evt_{n}",
            "business_id": "bus_1",
            "customer_id": "cus_1",
            "event_name": "keystile_calls",
            "timestamp": at.isoformat(),
            "metadata": {"units": 1},
        }
        for n in range(350)
    }

    units = metering.total("cus_1", "keystile_calls", at, at + timedelta(hours=1))

    assert units == 350
