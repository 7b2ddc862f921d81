"""What was bought at Dodo Payments lives and ends as Dodo says, and only Dodo says it."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
import requests
from django.utils import timezone

from billing import periods, subscriptions
from billing.models import Checkout, ProviderEvent, Subscription
from billing.providers import ProviderUnavailable, dodo
from tests.doubles.dodo_shop import DodoShop, Hint
from tests.factories import make_account
from tests.shop import published

State = Checkout.State


def test_a_renewal_moves_the_period_on(trade):
    subscription = trade.buy(make_account())
    end = subscription.period_end

    trade.dodo.renew(subscription.provider_subscription_id)
    trade.settle()

    subscription.refresh_from_db()
    assert (subscription.state, subscription.period_start) == (Subscription.State.ACTIVE, end)
    assert subscription.period_end == periods.add_months(end, 1, end.day)


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
