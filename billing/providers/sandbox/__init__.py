"""The adapter of the sandbox: no money moves, everything else is as with a real provider.

Its world, `billing.sandbox`, stands for the other side of the internet: it has its own rows,
its own clock and its own hosted page, and tells us by signed webhooks over HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast
from urllib.parse import urlencode

from django.conf import settings
from django.db import transaction

from billing.providers import (
    Change,
    Changed,
    ChargeOrder,
    CheckoutState,
    Declined,
    Delivery,
    Offer,
    Order,
    PaymentState,
    Preview,
    ProviderUnavailable,
    Sale,
    Session,
    Subject,
    SubscriptionState,
    standard_webhooks,
)
from billing.sandbox import cards, changes, orders, payments, sales
from billing.sandbox.faults import may_fail
from billing.sandbox.models import SandboxOrder, SandboxPayment
from keys import clock

_PAID: dict[str, Literal["trialing", "active", "past_due", "paused", "ended"]] = {
    SandboxOrder.State.TRIALING: "trialing",
    SandboxOrder.State.ACTIVE: "active",
    SandboxOrder.State.PAST_DUE: "past_due",
    SandboxOrder.State.PAUSED: "paused",
    SandboxOrder.State.ENDED: "ended",
}

_PAYMENTS_TOLD = 24


@may_fail
def create_checkout(order: Order) -> Session:
    opened = orders.open_order(order, clock.now())
    return Session(opened.pk, f"{settings.SITE_URL}/sandbox/checkout/{opened.pk}/")


@may_fail
def create_sale(sale: Sale) -> Session:
    opened = sales.open_sale(sale, clock.now())
    return Session(opened.pk, f"{settings.SITE_URL}/sandbox/checkout/{opened.pk}/")


@may_fail
def fetch_checkout(session_id: str) -> CheckoutState:
    order = _one(pk=session_id)
    if sold := sales.payment_of(order):
        return CheckoutState("paid", payment=_payment(sold), customer_id=order.customer_id)
    if order.state in _PAID:
        return CheckoutState("paid", subscription=_subscription(order))
    if order.state == SandboxOrder.State.PENDING:
        return CheckoutState("pending")
    if order.state == SandboxOrder.State.DECLINED:
        return CheckoutState("failed", error=order.decline_reason)
    if orders.has_expired(order, clock.now()):
        return CheckoutState("expired", error=order.decline_reason)
    return CheckoutState("open", error=order.decline_reason)


@may_fail
def fetch_subscription(subscription_id: str) -> SubscriptionState:
    return _subscription(_one(subscription_id=subscription_id))


@may_fail
def cancel(subscription_id: str, *, at_period_end: bool) -> None:
    orders.cancel(_one(subscription_id=subscription_id).pk, at_period_end, clock.now())


@may_fail
def resume(subscription_id: str) -> None:
    orders.resume(_one(subscription_id=subscription_id).pk, clock.now())


@may_fail
def preview(subscription_id: str, change: Change) -> Preview:
    return changes.preview(_one(subscription_id=subscription_id), change, clock.now())


@may_fail
def change(subscription_id: str, change: Change) -> Changed:
    return changes.make(_one(subscription_id=subscription_id).pk, change, clock.now())


@may_fail
def portal(customer_id: str, return_url: str) -> str:
    query = urlencode({"return_url": return_url})
    return f"{settings.SITE_URL}/sandbox/customer/{customer_id}/?{query}"


@may_fail
def refund_and_cancel(subscription_id: str) -> None:
    orders.refund(_one(subscription_id=subscription_id).pk, clock.now())


@may_fail
def charge(order: ChargeOrder) -> PaymentState:
    with transaction.atomic():
        held = _held(subscription_id=order.subscription_id)
        return _payment(payments.charge(held, order, clock.now()))


@may_fail
def refund(payment_id: str, amount_minor: int, currency: str, reference: str) -> None:
    with transaction.atomic():
        payment = SandboxPayment.objects.select_for_update().filter(pk=payment_id).first()
        if payment is None or payment.currency != currency:
            raise Declined("The sandbox knows no such payment.")
        try:
            payments.refund(payment, amount_minor, reference, clock.now())
        except payments.Refused as error:
            raise Declined(str(error)) from error


def unlisted(offers: Sequence[Offer]) -> list[Offer]:  # noqa: ARG001
    """It sells whatever it is asked to."""
    return []


def list_offer(offer: Offer) -> None:
    """Never asked for: see `unlisted`."""


def verify(headers: Mapping[str, str], body: bytes) -> Delivery:
    return standard_webhooks.verify(settings.SANDBOX_WEBHOOK_SECRET, headers, body)


def subject(delivery_type: str, payload: dict[str, Any]) -> Subject | None:
    data = payload.get("data")
    if not delivery_type.startswith(orders.TYPES) or not isinstance(data, dict):
        return None
    return Subject(str(data.get("reference", "")), str(data.get("subscription_id", "")))


def _one(**identity: str) -> SandboxOrder:
    try:
        return SandboxOrder.objects.get(**identity)
    except SandboxOrder.DoesNotExist as error:
        raise ProviderUnavailable(f"The sandbox knows no {identity}.") from error


def _held(**identity: str) -> SandboxOrder:
    return SandboxOrder.objects.select_for_update().get(pk=_one(**identity).pk)


def _subscription(order: SandboxOrder) -> SubscriptionState:
    if order.period_start is None or order.period_end is None:
        raise ProviderUnavailable("The sandbox has no period for a paid order.")
    return SubscriptionState(
        id=order.subscription_id,
        customer_id=order.customer_id,
        status=_PAID[order.state],
        period_start=order.period_start,
        period_end=order.period_end,
        cancel_at_period_end=order.cancel_at_period_end,
        ended_at=order.ended_at,
        trial_ends_at=order.period_end if _is_trial(order) else None,
        items=tuple(item["key"] for item in order.items),
        method=cards.method(order.card),
        payments=tuple(_payment(one) for one in order.payments.all()[:_PAYMENTS_TOLD]),
    )


def _is_trial(order: SandboxOrder) -> bool:
    """Not one that only waits for the moment of its first payment."""
    return order.state == SandboxOrder.State.TRIALING and order.starts_at is None


def _payment(payment: SandboxPayment) -> PaymentState:
    return PaymentState(
        id=payment.pk,
        kind=cast(Literal["subscription", "change", "charge", "sale"], payment.kind),
        status=cast(Literal["pending", "paid", "failed"], payment.state),
        amount_minor=payment.amount_minor,
        currency=payment.currency,
        at=payment.at,
        reference=payment.reference if payment.kind in ("charge", "sale") else "",
        tax_minor=payment.tax_minor,
        refunded_minor=payments.refunded_minor(payment),
        dispute=cast(Literal["", "open", "won", "lost"], payment.dispute),
        failure=payment.failure,
    )
