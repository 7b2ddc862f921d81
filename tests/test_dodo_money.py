"""Money at Dodo is taken once and given back once, whatever is lost on the way."""

from datetime import timedelta
from uuid import uuid4

import pytest
import requests
from django.utils import timezone

from billing import checkout
from billing.models import Checkout, ProviderEvent
from billing.providers import ChargeLine, ChargeOrder, Declined, ProviderUnavailable, Sale, dodo
from tests.dodo_trade import order, pay_as_you_go
from tests.doubles.dodo_shop import Disorder
from tests.factories import make_account

FAULTS = ("lost answer", "500 after", "garbage", "drop", 500, 429)


@pytest.fixture
def mandate(trade):
    """A subscription on demand, as Dodo has it."""
    session = dodo.create_checkout(order(pay_as_you_go(trade)))
    trade.dodo.pay(session.id)
    return dodo.fetch_checkout(session.id).subscription


@pytest.fixture
def regular(trade):
    """A subscription that Dodo renews, as Dodo has it."""
    return dodo.fetch_subscription(trade.buy(make_account()).provider_subscription_id)


def charge_of(subscription, amount_minor=12_34):
    return ChargeOrder(
        reference=str(uuid4()),
        subscription_id=subscription.id,
        customer_id=subscription.customer_id,
        description="Usage in May",
        lines=(ChargeLine("Calls", amount_minor),),
        currency="USD",
    )


def test_a_mandate_takes_nothing_and_has_the_calendars_periods(trade, mandate):
    (payment,) = trade.dodo.payments.values()
    at_dodo = trade.dodo.subscriptions[mandate.id]
    at_dodo["created_at"] = (timezone.now() - timedelta(days=100)).isoformat()

    later = dodo.fetch_subscription(mandate.id)

    assert (payment["total_amount"], mandate.payments, mandate.charges_usage) == (0, (), False)
    assert later.period_start <= timezone.now() < later.period_end
    assert timedelta(days=28) <= later.period_end - later.period_start <= timedelta(days=31)


@pytest.mark.parametrize("kind", ["mandate", "regular"])
def test_a_charge_is_taken_by_mandate_or_by_the_saved_card(trade, request, kind):
    subscription = request.getfixturevalue(kind)
    wanted = charge_of(subscription)

    taken = dodo.charge(wanted)
    again = dodo.charge(wanted)

    assert (taken.status, taken.amount_minor, taken.kind) == ("paid", 12_34, "charge")
    assert (taken.reference, again.id) == (wanted.reference, taken.id)
    listed = dodo.fetch_subscription(subscription.id).payments
    assert taken.id in {one.id for one in listed if one.kind == "charge"}


@pytest.mark.parametrize("kind", ["mandate", "regular"])
def test_a_charge_interrupted_anywhere_is_taken_once(trade, request, kind):
    subscription = request.getfixturevalue(kind)
    dodo.charge(charge_of(subscription))
    asked = len(trade.dodo.requests)
    dodo.charge(charge_of(subscription))
    requests_made = len(trade.dodo.requests) - asked

    for position in range(requests_made):
        for fault in FAULTS:
            wanted = charge_of(subscription)
            trade.dodo.faults.extend([*["nothing"] * position, fault])
            with pytest.raises(ProviderUnavailable):
                dodo.charge(wanted)

            assert dodo.charge(wanted).status == "paid"
            marks = [one["metadata"].get("keystile_charge") for one in trade.dodo.payments.values()]
            assert marks.count(wanted.reference) == 1


def test_a_charge_that_failed_is_tried_once_more(trade, regular):
    wanted = charge_of(regular)
    trade.dodo.declining.add(regular.customer_id)
    failed = dodo.charge(wanted)
    trade.dodo.declining.clear()

    taken = dodo.charge(wanted)

    assert (failed.status, failed.failure) == ("failed", "The payment failed (card declined).")
    assert taken.status == "paid"


def test_what_dodo_takes_by_itself_for_a_failed_charge_is_not_taken_again(trade, mandate):
    wanted = charge_of(mandate)
    trade.dodo.declining.add(mandate.customer_id)
    failed = dodo.charge(wanted)
    on_hold = dodo.fetch_subscription(mandate.id).status
    with pytest.raises(Declined):
        dodo.charge(wanted)
    page = dodo.portal(mandate.customer_id, f"{trade.shop.site}/dashboard/billing/")
    requests.post(page, allow_redirects=False, timeout=10)

    taken = dodo.charge(wanted)

    assert (failed.status, on_hold) == ("failed", "past_due")
    assert (taken.status, taken.kind, taken.reference) == ("paid", "charge", wanted.reference)
    assert dodo.fetch_subscription(mandate.id).status == "active"
    assert sum(one["status"] == "succeeded" and one["total_amount"] > 0
               for one in trade.dodo.payments.values()) == 1  # fmt: skip


def test_what_was_used_until_the_end_is_charged_after_it(trade, mandate):
    dodo.cancel(mandate.id, at_period_end=False)

    assert dodo.charge(charge_of(mandate)).status == "paid"


def test_a_mandate_ends_with_its_period(trade, mandate):
    dodo.cancel(mandate.id, at_period_end=True)
    planned = dodo.fetch_subscription(mandate.id)
    trade.dodo.subscriptions[mandate.id]["next_billing_date"] = timezone.now().isoformat()

    ended = dodo.fetch_subscription(mandate.id)

    assert (planned.status, planned.cancel_at_period_end) == ("active", True)
    assert planned.period_end == mandate.period_end
    assert (ended.status, ended.ended_at is not None) == ("ended", True)


# ------------------------------------------------------------------ paid once


def sale(amount_minor=25_00, customer_id=""):
    return Sale(
        reference=str(uuid4()),
        description="25,000 credits",
        amount_minor=amount_minor,
        currency="USD",
        customer_email="buyer@example.com",
        return_url="http://127.0.0.1/back/",
        cancel_url="http://127.0.0.1/",
        customer_id=customer_id,
    )


def test_what_is_paid_once_costs_what_was_said_and_needs_one_product(trade, regular):
    trade.dodo.tax_percent = 20
    bought = [sale(25_00, regular.customer_id), sale(7_00)]
    sessions = [dodo.create_sale(one) for one in bought]
    before = dodo.fetch_checkout(sessions[0].id).status
    for session in sessions:
        trade.dodo.pay(session.id)

    states = [dodo.fetch_checkout(session.id) for session in sessions]

    assert before == "open"
    assert [one.status for one in states] == ["paid", "paid"]
    assert [one.payment.kind for one in states] == ["sale", "sale"]
    assert [one.payment.reference for one in states] == [one.reference for one in bought]
    assert [one.payment.amount_minor for one in states] == [30_00, 8_40]
    assert states[0].payment.tax_lines == (("Tax", 5_00),)
    assert states[0].customer_id == regular.customer_id
    sold = [one["name"] for one in trade.dodo.products.values()]
    assert sold.count("Prepaid credits") == 1


def test_a_later_start_is_a_trial_until_then(trade):
    starts_at = timezone.now() + timedelta(days=12, hours=3)
    session = dodo.create_checkout(order(trade.shop.plans["basic"], starts_at=starts_at))
    trade.dodo.pay(session.id)

    state = dodo.fetch_checkout(session.id).subscription
    trade.dodo.renew(state.id)
    renewed = dodo.fetch_subscription(state.id)

    assert state.status == "trialing"
    assert starts_at <= state.trial_ends_at < starts_at + timedelta(days=1)
    assert (renewed.status, renewed.trial_ends_at) == ("active", None)
    assert renewed.period_start == state.trial_ends_at


# ------------------------------------------------------------------ given back


@pytest.mark.parametrize("amount_minor", [60_00, 20_00])
def test_a_refund_interrupted_anywhere_is_paid_once(trade, regular, amount_minor):
    trade.dodo.tax_percent = 20
    trade.dodo.renew(regular.id)
    payment = dodo.fetch_subscription(regular.id).payments[0]
    reference = str(uuid4())
    for position in range(4):
        for fault in FAULTS:
            trade.dodo.faults.extend([*["nothing"] * position, fault])
            try:
                dodo.refund(payment.id, amount_minor, "USD", reference)
            except ProviderUnavailable:
                dodo.refund(payment.id, amount_minor, "USD", reference)
            trade.dodo.faults.clear()

    after = dodo.fetch_subscription(regular.id).payments[0]
    assert (payment.amount_minor, payment.tax_minor) == (60_00, 10_00)
    assert (after.id, after.refunded_minor) == (payment.id, amount_minor)
    assert len(trade.dodo.refunds) == 1


def test_more_than_there_is_is_not_given_back(trade, regular):
    (payment,) = regular.payments
    dodo.refund(payment.id, 40_00, "USD", "one")

    with pytest.raises(Declined):
        dodo.refund(payment.id, 40_00, "USD", "two")
    trade.dodo.refund_status = "failed"
    with pytest.raises(Declined):
        dodo.refund(payment.id, 10_00, "USD", "three")

    assert dodo.fetch_subscription(regular.id).payments[0].refunded_minor == 40_00


def test_a_dispute_is_open_then_won_or_lost(trade, regular):
    (payment,) = regular.payments
    seen = []
    for status in ("opened", "challenged", "won", "lost", "accepted", "expired"):
        trade.dodo.dispute(payment.id, status)
        seen.append(dodo.fetch_subscription(regular.id).payments[0].dispute)

    assert seen == ["open", "open", "won", "lost", "lost", "won"]


def test_how_it_is_paid_is_said_in_words(regular):
    assert regular.method == "Visa ending in 4242"
    assert regular.payments[0].number.startswith("INV-")
    assert regular.payments[0].buyer["country"] == "US"


# ------------------------------------------------------------------ through the whole site


def test_refunds_and_disputes_are_told_of_whose_payment_they_are(trade):
    account = make_account()
    subscription = trade.buy(account)
    (payment,) = trade.dodo.payments.values()
    dodo.refund(payment["payment_id"], 10_00, "USD", "r")
    trade.dodo.dispute(payment["payment_id"])

    trade.settle()

    kept = account.payments.get()
    assert (kept.refunded_minor, kept.dispute) == (10_00, "open")
    assert kept.subscription == subscription
    assert not ProviderEvent.objects.filter(ignored=True).exists()


def test_a_purchase_survives_deliveries_in_every_disorder(trade):
    trade.dodo.disorder = Disorder(
        drop_percent=30, repeat=2, shuffle=True, delay=timedelta(milliseconds=1)
    )
    account = make_account()
    row = trade.start(account)
    trade.pay(row)
    for _ in range(3):
        trade.settle()
    trade.dodo.outbox.clear()
    checkout.sync(row.pk, timezone.now())

    assert Checkout.objects.get(pk=row.pk).state == Checkout.State.COMPLETED
    assert account.keys.count() == 1
