"""The sandbox takes money as a provider does: renewals, declines, refunds, disputes."""

from datetime import UTC, datetime, timedelta

import pytest

from billing.providers import Item, Order
from billing.sandbox import cards, orders, payments
from billing.sandbox.models import SandboxDelivery, SandboxOrder, SandboxPayment

pytestmark = pytest.mark.django_db

MARCH = datetime(2026, 3, 1, tzinfo=UTC)
APRIL = datetime(2026, 4, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def order():
    opened = orders.open_order(
        Order(
            reference="r1",
            items=(Item("version:1", "Basic", 50_00),),
            currency="USD",
            interval="month",
            customer_email="buyer@example.com",
            return_url="http://127.0.0.1/back",
            cancel_url="http://127.0.0.1/back",
        ),
        MARCH,
    )
    return orders.pay(opened.pk, cards.CARDS[0], MARCH)


def decline(order, declines=True):
    SandboxOrder.objects.filter(pk=order.pk).update(declines=declines)


def now_at(order, moment):
    orders.advance(moment)
    order.refresh_from_db()
    return order


def taken(order):
    return [(payment.at, payment.state) for payment in order.payments.order_by("at")]


def told(order):
    return list(order.deliveries.order_by("created_at").values_list("type", flat=True))


def test_a_purchase_and_each_renewal_are_paid(order):
    now_at(order, APRIL + 31 * DAY)

    assert taken(order) == [
        (MARCH, "paid"),
        (APRIL, "paid"),
        (datetime(2026, 5, 1, tzinfo=UTC), "paid"),
    ]


def test_a_declined_renewal_is_tried_again_and_paid(order):
    decline(order)
    now_at(order, APRIL)
    assert (order.state, order.period_start) == ("past_due", APRIL)
    now_at(order, APRIL + 4 * DAY)
    decline(order, declines=False)

    now_at(order, APRIL + 6 * DAY)

    assert order.state == "active"
    assert taken(order) == [(MARCH, "paid"), (APRIL + 5 * DAY, "paid")]
    assert told(order)[1:] == ["payment.failed", "payment.failed", "payment.succeeded"]


def test_a_renewal_that_stays_unpaid_ends_the_subscription_on_its_day(order):
    decline(order)

    now_at(order, APRIL + 60 * DAY)

    assert (order.state, order.ended_at) == ("ended", APRIL + 14 * DAY)
    assert told(order)[-1] == "subscription.ended"


def test_a_changed_card_pays_what_is_past_due(order):
    decline(order)
    now_at(order, APRIL + DAY)
    order.declines = False

    orders.collect(order, APRIL + 2 * DAY)

    assert now_at(order, APRIL + 20 * DAY).state == "active"


def test_a_reference_is_paid_once_and_tried_again_only_if_it_failed(order):
    order.declines = True
    failed = payments.take(order, "charge", 500, APRIL, reference="c1")
    order.declines = False

    paid = payments.take(order, "charge", 500, APRIL, reference="c1")
    order.declines = True
    again = payments.take(order, "charge", 500, APRIL, reference="c1")

    assert failed.state == "failed"
    assert (paid.pk, again.pk) == (failed.pk, failed.pk)
    assert paid.state == again.state == "paid"
    assert SandboxPayment.objects.filter(kind="charge").count() == 1


def test_no_more_is_paid_back_than_was_paid_and_once_for_each_reference(order):
    payment = order.payments.get()

    payments.refund(payment, 20_00, "f1", APRIL)
    payments.refund(payment, 20_00, "f1", APRIL)
    with pytest.raises(payments.Refused):
        payments.refund(payment, 30_01, "f2", APRIL)
    payments.refund(payment, 30_00, "f2", APRIL)

    assert payments.refunded_minor(payment) == 50_00
    assert SandboxDelivery.objects.filter(type="refund.succeeded").count() == 2
