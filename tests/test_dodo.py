"""Dodo Payments sells: whatever it does and says, a purchase ends in one subscription.

The double (`tests.doubles.dodo_shop`) speaks its protocol and refuses what its documents don't
allow; a test moves the time and sends the deliveries.
"""

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
import requests
from django.test import Client
from django.utils import timezone

from billing import checkout, inbox, subscriptions
from billing.models import Checkout, ProviderEvent, Subscription
from billing.providers import ProviderUnavailable, dodo
from billing.providers.dodo import metering
from keys.models import ApiKey
from tests.doubles.dodo_shop import DodoShop, Hint
from tests.doubles.server import serving
from tests.factories import make_account
from tests.shop import Shop, published

State = Checkout.State
NEXT_PERIOD = timedelta(days=30, minutes=1)


@dataclass
class Trade:
    """Our shop and Dodo's side of it."""

    shop: Shop
    dodo: DodoShop

    def start(self, account, slug="basic"):
        return self.shop.start(account, slug)

    def pay(self, row, card="success"):
        return requests.post(row.url, data={"card": card}, allow_redirects=False, timeout=10)

    def settle(self):
        assert set(self.dodo.deliver(self.shop.site)) <= {200}
        self.shop.process()

    def buy(self, account, slug="basic"):
        row = self.start(account, slug)
        self.pay(row)
        self.settle()
        return account.subscriptions.get(version__plan__slug=slug)

    def subscription_of(self, row):
        payment = self.dodo.payments[self.dodo.sessions[row.provider_session_id]["payment_id"]]
        return self.dodo.subscriptions[payment["subscription_id"]]


@pytest.fixture
def trade(shop, settings):
    with serving(DodoShop()) as double:
        settings.PAYMENT_PROVIDER = "dodo"
        settings.DODO_PAYMENTS_BASE_URL = double.url
        settings.DODO_PAYMENTS_API_KEY = double.key
        settings.DODO_PAYMENTS_WEBHOOK_KEY = double.secret
        yield Trade(shop, double)
    assert not double.violations


def assert_one_basic(account):
    subscription = account.subscriptions.get()
    assert (subscription.state, subscription.provider) == (Subscription.State.ACTIVE, "dodo")
    assert account.keys.get().state == ApiKey.State.UNCLAIMED
    assert [event.kind for event in account.billing_events.all()] == ["started"]
    assert published(account)["state"] == "active"


# ------------------------------------------------------------------ money to key


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
    """Renewed, failing, recovered, planned to end, ended: eight times, each in its own disorder."""
    for seed in range(8):
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


# ------------------------------------------------------------------ a subscription's life


def test_a_renewal_moves_the_period_on(trade):
    subscription = trade.buy(make_account())
    end = subscription.period_end

    trade.dodo.renew(subscription.provider_subscription_id)
    trade.settle()

    subscription.refresh_from_db()
    assert (subscription.state, subscription.period_start) == (Subscription.State.ACTIVE, end)
    assert subscription.period_end == end + timedelta(days=30)


def test_on_hold_is_past_due_until_it_is_paid(trade):
    account = make_account()
    subscription = trade.buy(account)

    trade.dodo.fail(subscription.provider_subscription_id)
    trade.settle()
    subscription.refresh_from_db()
    failing = (subscription.state, subscription.past_due_since is not None)
    trade.dodo.renew(subscription.provider_subscription_id)
    trade.settle()

    subscription.refresh_from_db()
    assert failing == (Subscription.State.PAST_DUE, True)
    assert (subscription.state, subscription.past_due_since) == (Subscription.State.ACTIVE, None)
    kinds = set(account.billing_events.values_list("kind", flat=True))
    assert kinds == {"started", "payment_failed", "payment_recovered", "renewed"}


def test_a_planned_end_can_be_withdrawn_and_comes_if_it_is_not(trade):
    account = make_account()
    subscription = trade.buy(account)
    at_dodo = trade.dodo.subscriptions[subscription.provider_subscription_id]
    now = timezone.now()

    subscriptions.cancel(account, at_period_end=True, now=now)
    planned = (at_dodo["cancel_at_next_billing_date"], subscriptions.alive(account).state)
    subscriptions.resume(account, now)
    withdrawn = at_dodo["cancel_at_next_billing_date"]
    subscriptions.cancel(account, at_period_end=True, now=now)
    trade.dodo.renew(subscription.provider_subscription_id)
    trade.settle()

    assert planned == (True, Subscription.State.ACTIVE)
    assert withdrawn is False
    subscription.refresh_from_db()
    assert subscription.state == Subscription.State.ENDED
    assert published(account)["state"] == "ended"


def test_an_end_now_is_now_and_may_be_asked_for_again(trade):
    account = make_account()
    subscription = trade.buy(account)

    subscriptions.cancel(account, at_period_end=False, now=timezone.now())
    dodo.cancel(subscription.provider_subscription_id, at_period_end=False)
    dodo.resume(subscription.provider_subscription_id)
    trade.settle()

    subscription.refresh_from_db()
    assert subscription.state == Subscription.State.ENDED
    assert trade.subscription_of(Checkout.objects.get())["status"] == "cancelled"


def test_a_status_newer_than_this_code_leaves_what_is_paid_for(trade):
    account = make_account()
    subscription = trade.buy(account)
    at_dodo = trade.dodo.subscriptions[subscription.provider_subscription_id]

    trade.dodo.set_status(subscription.provider_subscription_id, "news", "subscription.news")
    trade.settle()
    subscription.refresh_from_db()
    paid_for = subscription.state
    at_dodo["next_billing_date"] = timezone.now().isoformat()
    subscriptions.sync(subscription.pk, timezone.now())

    subscription.refresh_from_db()
    assert (paid_for, subscription.state) == ("active", "past_due")


@pytest.mark.parametrize("fault", [500, 429, 404, "lost answer", "garbage", "drop"])
def test_dodo_in_trouble_opens_no_checkout_and_changes_nothing(trade, fault):
    account = make_account()
    trade.dodo.faults.append(fault)
    with pytest.raises(ProviderUnavailable):
        trade.start(account)
    subscription = trade.buy(account)
    trade.dodo.faults.append(fault)

    with pytest.raises(ProviderUnavailable):
        subscriptions.sync(subscription.pk, timezone.now())

    subscription.refresh_from_db()
    assert subscription.state == Subscription.State.ACTIVE
    states = Checkout.objects.order_by("created_at").values_list("state", flat=True)
    assert list(states) == [State.FAILED, State.COMPLETED]


@pytest.mark.parametrize(
    "spoil",
    [
        {"customer": None},
        {"next_billing_date": None},
        {"previous_billing_date": "soon"},
        {"next_billing_date": "2027-01-01T00:00:00"},
    ],
)
def test_an_answer_that_lacks_what_we_need_changes_nothing(trade, spoil):
    subscription = trade.buy(make_account())
    # A status that the double does not know is not held against the library's model.
    trade.dodo.subscriptions[subscription.provider_subscription_id] |= {"status": "news"} | spoil

    with pytest.raises(ProviderUnavailable):
        subscriptions.sync(subscription.pk, timezone.now())

    subscription.refresh_from_db()
    assert subscription.state == Subscription.State.ACTIVE


# ------------------------------------------------------------------ deliveries


def post(trade, body, headers):
    return requests.post(
        f"{trade.shop.site}/webhooks/dodo", data=body, headers=headers, timeout=10
    ).status_code


def test_what_dodo_did_not_sign_lately_is_refused_and_not_stored(trade):
    body = json.dumps({"type": "subscription.active", "data": {}}).encode()
    now = datetime.now(UTC)
    good = trade.dodo.signed("msg_1", body, now)
    other = DodoShop(secret="whsec_b3RoZXJvdGhlcm90aGVyb3RoZXI=")
    spoiled = [
        {},
        good | {"webhook-signature": "v1,"},
        good | {"webhook-signature": "é".encode("latin-1")},
        good | {"webhook-id": "msg_2"},
        good | {"webhook-timestamp": "soon"},
        other.signed("msg_1", body, now),
        trade.dodo.signed("msg_1", body, now - timedelta(minutes=6)),
        trade.dodo.signed("msg_1", body, now + timedelta(minutes=6)),
        trade.dodo.signed("m" * 256, body, now),
    ]

    answers = [post(trade, body, headers) for headers in spoiled]
    changed = post(trade, body + b" ", good)

    assert {*answers, changed} == {400}
    assert ProviderEvent.objects.count() == 0


def test_dodo_is_listened_to_where_there_is_a_secret(trade, settings):
    settings.DODO_PAYMENTS_WEBHOOK_KEY = ""

    assert post(trade, b"{}", {}) == 404


@pytest.mark.parametrize(
    "payload",
    [
        {"type": "payout.success", "data": {"payload_type": "Payout"}},
        {"type": "something.new", "data": {"subscription_id": "sub_1"}},
        {"type": "subscription.active"},
        {"type": "subscription.active", "data": []},
        {"type": "subscription.active", "data": {"metadata": [], "subscription_id": 7}},
        {"type": "payment.succeeded", "data": {"metadata": {"keystile_checkout": "no id"}}},
        {"type": "refund.succeeded", "data": {"subscription_id": "sub_of_another_site"}},
    ],
)
def test_what_is_no_matter_of_ours_is_kept_and_ignored(trade, payload):
    body = json.dumps(payload).encode()

    status = post(trade, body, trade.dodo.signed("msg_1", body, datetime.now(UTC)))
    trade.shop.process()

    event = ProviderEvent.objects.get()
    assert (status, event.ignored, event.error) == (200, True, "")


def test_a_buyers_own_metadata_moves_no_other_checkout(trade):
    """A hint may name any checkout of ours: what is fetched is that checkout's own session."""
    row = trade.start(make_account())
    trade.pay(trade.start(make_account()))
    (paid,) = trade.dodo.subscriptions.values()
    paid["metadata"] = {"keystile_checkout": str(row.pk)}
    trade.dodo.outbox = [Hint("msg_x", "subscription.active", paid["subscription_id"])]

    trade.settle()

    assert Checkout.objects.get(pk=row.pk).state == State.OPEN


# ------------------------------------------------------------------ settings


def settings_with(**environment):
    """What settings say of Dodo in a process of its own, or the line that it stops with."""
    asked = (
        "from portal import settings as s; "
        "print(s.DODO_PAYMENTS_BASE_URL, *s.CONTENT_SECURITY_POLICY['DIRECTIVES']['form-action'])"
    )
    run = subprocess.run(
        [sys.executable, "-c", asked],
        env={**os.environ, "PAYMENT_PROVIDER": "dodo", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return (run.stdout or run.stderr).strip().splitlines()[-1]


def test_dodo_needs_its_keys_and_moves_no_real_money_unasked():
    key, secret = {"DODO_PAYMENTS_API_KEY": "k"}, {"DODO_PAYMENTS_WEBHOOK_KEY": "whsec_AAAA"}
    live = {"DODO_PAYMENTS_BASE_URL": "https://live.dodopayments.com/"}

    assert "DODO_PAYMENTS_API_KEY is not set" in settings_with(**secret)
    assert "DODO_PAYMENTS_WEBHOOK_KEY is not set" in settings_with(**key)
    assert "must be whsec_ and base64" in settings_with(**key, DODO_PAYMENTS_WEBHOOK_KEY="whsec_é")
    assert settings_with(**key, **secret) == (
        "https://test.dodopayments.com 'self' https://test.checkout.dodopayments.com"
    )
    assert settings_with(**key, **secret, **live) == (
        "https://live.dodopayments.com 'self' https://checkout.dodopayments.com"
    )
