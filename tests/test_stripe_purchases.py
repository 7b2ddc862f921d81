"""Bought at Stripe: one purchase ends in one subscription and one key, whatever Stripe does.

Every request is held against the library's typed parameters made strict; the double's
`violations` are looked at after each test.
"""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import requests
from django.db import connections
from django.utils import timezone

from billing import checkout, inbox
from billing.models import BillingEvent, Checkout, ProviderEvent
from billing.providers import ProviderUnavailable
from keys.models import ApiKey
from tests.factories import make_account
from tests.shop import published
from tests.stripe_shop import kinds

State = Checkout.State
DAY = timedelta(days=1)


def assert_one_basic(account):
    """The state in which every clean or messy purchase of Basic ends."""
    subscription = account.subscriptions.get()
    assert (subscription.provider, subscription.state) == ("stripe", "active")
    assert subscription.provider_customer_id.startswith("cus_")
    assert account.keys.get().state == ApiKey.State.UNCLAIMED
    assert [event.kind for event in account.billing_events.all()] == ["started"]
    assert published(account)["state"] == "active"
    assert not ProviderEvent.objects.filter(processed_at=None).exists()


@pytest.mark.parametrize("older", [False, True])
def test_a_purchase_issues_one_key(stripe_shop, older):
    stripe_shop.stripe.older = older
    account = make_account()
    row = stripe_shop.start(account)

    answer = stripe_shop.pay(row)
    stripe_shop.settle()

    assert answer.headers["Location"] == f"{stripe_shop.site}/checkout/{row.pk}/"
    assert Checkout.objects.get(pk=row.pk).state == State.COMPLETED
    assert_one_basic(account)
    subscription = account.subscriptions.get()
    assert subscription.period_end - subscription.period_start == 30 * DAY
    session = stripe_shop.stripe.objects[row.provider_session_id]
    assert session["_line_items"][0]["price_data"] == {
        "currency": "usd",
        "unit_amount": "5000",
        "recurring": {"interval": "month"},
        "product_data": {
            "name": "Basic plan",
            "metadata": {"keystile_item": f"version:{subscription.version_id}"},
        },
    }


def test_the_session_and_its_subscription_name_our_checkout(stripe_shop):
    row = stripe_shop.start(make_account())

    stripe_shop.pay(row)

    session, held = (
        next(o for o in stripe_shop.stripe.objects.values() if o["object"] == kind)
        for kind in ("checkout.session", "subscription")
    )
    assert session["client_reference_id"] == str(row.pk)
    assert session["metadata"] == held["metadata"] == {"keystile_checkout": str(row.pk)}


@pytest.mark.parametrize("seed", range(4))
def test_deliveries_repeated_and_in_any_order_end_in_the_same(stripe_shop, seed):
    account = make_account()
    stripe_shop.pay(stripe_shop.start(account))

    statuses = stripe_shop.deliver(times=5, seed=seed)
    stripe_shop.process()

    assert set(statuses) == {200}
    assert_one_basic(account)


def test_eight_workers_at_once_start_one_subscription(stripe_shop):
    account = make_account()
    stripe_shop.pay(stripe_shop.start(account))
    stripe_shop.deliver(times=2, seed=3)
    now = timezone.now()

    def process(event_id):
        inbox.process(event_id, now)
        connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(process, ProviderEvent.objects.values_list("pk", flat=True)))

    assert_one_basic(account)


def test_from_the_buy_button_to_stripes_page_and_back_to_the_key(stripe_shop, client):
    account = make_account()
    client.force_login(account.members.get())

    bought = client.post("/buy/basic/")
    paid = requests.post(
        bought["Location"], data={"card": "success"}, allow_redirects=False, timeout=10
    )
    back = paid.headers["Location"].removeprefix(stripe_shop.site)
    waiting = client.get(back)
    stripe_shop.settle()
    done = client.get(back)

    assert bought.status_code == 303
    assert bought["Location"].startswith(stripe_shop.stripe.url)
    assert waiting.context["stage"] == "waiting"
    assert done.context["stage"] == "paid"
    assert done.context["key"] == account.keys.get()
    assert_one_basic(account)


def test_while_stripe_is_away_the_buyer_is_told_so(stripe_shop, client):
    account = make_account()
    client.force_login(account.members.get())
    stripe_shop.stripe.away = True

    answer = client.post("/buy/basic/")

    assert answer.status_code == 503
    assert "does not answer at the moment" in answer.content.decode()


def test_webhooks_that_never_come_are_made_up_for_by_asking(stripe_shop):
    account = make_account()
    row = stripe_shop.start(account)
    stripe_shop.pay(row)
    stripe_shop.lose()
    later = timezone.now() + timedelta(seconds=15)

    for checkout_id in checkout.due_for_sync(later):
        checkout.sync(checkout_id, later)

    assert ProviderEvent.objects.count() == 0
    assert_one_basic(account)


def test_forged_stale_and_future_deliveries_write_nothing(stripe_shop):
    account = make_account()
    stripe_shop.pay(stripe_shop.start(account))
    event = stripe_shop.stripe.outbox[-1]
    body, headers = stripe_shop.stripe.signed(event)
    now = timezone.now().timestamp()

    answers = [
        stripe_shop.webhook(body.replace(b"cs_test", b"cs_live"), headers),
        stripe_shop.webhook(body, {}),
        stripe_shop.webhook(*stripe_shop.stripe.signed(event, now - 400)),
        stripe_shop.webhook(*stripe_shop.stripe.signed(event, now + 400)),
    ]

    assert [answer.status_code for answer in answers] == [400] * 4
    assert ProviderEvent.objects.count() == 0
    assert account.subscriptions.count() == 0


def test_each_destination_may_have_a_secret_of_its_own(stripe_shop, settings):
    stripe_shop.pay(stripe_shop.start(make_account()))
    event = stripe_shop.stripe.outbox[0]
    settings.STRIPE_WEBHOOK_SECRET = "whsec_other, whsec_double,"
    known = stripe_shop.webhook(*stripe_shop.stripe.signed(event))
    stripe_shop.stripe.secret = ""
    empty = stripe_shop.webhook(*stripe_shop.stripe.signed(event))

    assert (known.status_code, empty.status_code) == (200, 400)


def test_a_declined_card_leaves_the_checkout_open_for_another(stripe_shop):
    account = make_account()
    row = stripe_shop.start(account)

    declined = stripe_shop.pay(row, "decline")
    state = checkout.sync(row.pk, timezone.now()).state
    stripe_shop.pay(row)
    stripe_shop.settle()

    assert "Your card was declined." in declined.text
    assert state == State.OPEN
    assert_one_basic(account)


@pytest.mark.parametrize("arrives", [True, False])
def test_a_delayed_payment_starts_nothing_until_it_arrives(stripe_shop, arrives):
    account = make_account()
    row = stripe_shop.start(account)

    stripe_shop.pay(row, "later")
    stripe_shop.settle()
    row.refresh_from_db()
    waiting = (row.state, row.payment_pending, account.subscriptions.count(), account.keys.count())
    stripe_shop.stripe.settle(row.provider_session_id, paid=arrives)
    stripe_shop.settle()

    assert waiting == (State.OPEN, True, 0, 0)
    row.refresh_from_db()
    if arrives:
        assert_one_basic(account)
    else:
        assert (row.state, row.error) == (State.FAILED, "The payment did not arrive.")
        assert kinds(account) == [BillingEvent.Kind.PURCHASE_FAILED]


def test_an_unpaid_checkout_expires(stripe_shop):
    row = stripe_shop.start(make_account())

    stripe_shop.stripe.expire(row.provider_session_id)
    stripe_shop.settle()

    row.refresh_from_db()
    assert row.state == State.EXPIRED


def test_a_second_purchase_is_cancelled_and_refunded_and_the_first_untouched(stripe_shop):
    account = make_account()
    first, second = stripe_shop.start(account), stripe_shop.start(account, "pro")
    for row in (first, second):
        stripe_shop.pay(row)
        stripe_shop.settle()

    second.refresh_from_db()
    assert second.state == State.SUPERSEDED
    assert second.refunded_at is not None
    held = [o for o in stripe_shop.stripe.objects.values() if o["object"] == "subscription"]
    assert [one["status"] for one in held] == ["active", "canceled"]
    refunds = [o for o in stripe_shop.stripe.objects.values() if o["object"] == "refund"]
    assert [refund["amount"] for refund in refunds] == [200_00]
    assert account.subscriptions.get().version.plan.slug == "basic"


# ------------------------------------------------------------------ what Stripe may do to us


@pytest.mark.parametrize("fault", [500, "drop", "lost answer", "500 after"])
def test_a_session_is_asked_for_again_and_opened_once(stripe_shop, fault):
    looking_up_the_price = ""
    stripe_shop.stripe.faults.extend([looking_up_the_price, fault])

    row = stripe_shop.start(make_account())

    sessions = [o for o in stripe_shop.stripe.objects.values() if o["object"] == "checkout.session"]
    assert [session["id"] for session in sessions] == [row.provider_session_id]
    assert len(stripe_shop.stripe.requests) == 3


@pytest.mark.parametrize("faults", [[429], [400], ["garbage"], [500, 500], ["drop", "drop"]])
def test_a_stripe_that_gives_no_answer_fails_the_checkout_at_once(stripe_shop, faults):
    stripe_shop.stripe.faults.extend(faults)

    with pytest.raises(ProviderUnavailable):
        stripe_shop.start(make_account())

    assert Checkout.objects.get().state == State.FAILED


def test_a_slow_stripe_is_waited_for(stripe_shop):
    stripe_shop.stripe.delay_seconds = 1

    row = stripe_shop.start(make_account())

    assert row.state == State.OPEN


def test_a_delivery_waits_while_stripe_is_away(stripe_shop):
    account = make_account()
    stripe_shop.pay(stripe_shop.start(account))
    stripe_shop.stripe.away = True
    stripe_shop.deliver()
    with pytest.raises(ProviderUnavailable):
        stripe_shop.process()
    stripe_shop.stripe.away = False

    stripe_shop.process(timezone.now() + timedelta(minutes=1))

    assert_one_basic(account)
