"""Payments at Dodo in our words: what for, with which tax, paid back, disputed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import structlog
from dodopayments import DodoPayments
from dodopayments.types import IntentStatus, Payment, PaymentListResponse, Subscription
from dodopayments.types.refund_list_item import RefundListItem

from billing.providers import PaymentState
from billing.providers.dodo import marks
from billing.providers.dodo.client import every, moment, understood

log = structlog.get_logger(__name__)

# Read one by one, since a list has no taxes: so many of the latest, and which of these were
# paid back or disputed since.
_LATEST, _LOOKED_AT = 3, 20
STOPPED = ("failed", "cancelled")
# `dispute_expired`, `dispute_cancelled`: nobody pursues it any more.
_DISPUTES: dict[str, Literal["open", "won", "lost"]] = {
    "dispute_opened": "open",
    "dispute_challenged": "open",
    "dispute_won": "won",
    "dispute_cancelled": "won",
    "dispute_expired": "won",
    "dispute_accepted": "lost",
    "dispute_lost": "lost",
}


def fetch(client: DodoPayments, payment_id: str) -> Payment:
    return understood(client.payments.retrieve(payment_id), Payment)


def latest(client: DodoPayments, found: Subscription) -> list[Payment]:
    """Those of a subscription, and of charges for it that are payments of their own."""
    page = client.payments.list(
        customer_id=found.customer.customer_id, page_number=0, page_size=_LOOKED_AT
    )
    listed = [understood(one, PaymentListResponse) for one in understood(page.items, list)]
    ours = [one for one in listed if is_of(one, found.subscription_id)]
    chosen = ours[:_LATEST]
    chosen += [one for one in ours[_LATEST:] if one.refund_status or one.dispute_status]
    return [fetch(client, one.payment_id) for one in chosen]


def of_customer(client: DodoPayments, customer_id: str) -> Iterator[PaymentListResponse]:
    """All of them, the latest first."""
    listed = every(
        lambda number, size: client.payments.list(
            customer_id=customer_id, page_number=number, page_size=size
        )
    )
    for one in listed:
        yield understood(one, PaymentListResponse)


def is_of(payment: PaymentListResponse, subscription_id: str) -> bool:
    return subscription_id in (
        payment.subscription_id,
        *(payment.subscription_ids or ()),
        marks.text(payment.metadata, marks.SUBSCRIPTION),
    )


def took_money(payment: Payment | PaymentListResponse) -> bool:
    return payment.status == "succeeded" and payment.total_amount > 0


def is_change(payment: Payment) -> bool:
    """By its type; where there is none, by a mark that later renewals may bear as well."""
    if payment.charge_type is None:
        return bool(marks.text(payment.metadata, marks.CHANGE))
    return payment.charge_type == "plan_change"


def states_of(found: list[Payment], tax_id: str = "") -> tuple[PaymentState, ...]:
    """Those of some money: a mandate, a trial and a new card are payments of nothing."""
    return tuple(state_of(one, tax_id) for one in found if one.total_amount > 0)


def state_of(payment: Payment, tax_id: str = "") -> PaymentState:
    reference = marks.text(payment.metadata, marks.CHARGE)
    reference = reference or marks.text(payment.metadata, marks.TOP_UP)
    tax = payment.tax or 0
    return PaymentState(
        id=understood(payment.payment_id, str),
        kind=_kind(payment),
        status=_status(payment),
        amount_minor=understood(payment.total_amount, int),
        currency=understood(payment.currency, str),
        at=moment(payment.created_at),
        reference=reference,
        tax_minor=tax,
        refunded_minor=_refunded(payment),
        dispute=_dispute(payment),
        failure=failure(payment),
        number=payment.invoice_id or "",
        pdf_url=payment.invoice_url or "",
        tax_lines=(("Tax", tax),) if tax else (),
        buyer=_buyer(payment, tax_id),
    )


def failure(payment: Payment) -> str:
    """Dodo's own sentences are written for the seller; its code says as much."""
    if payment.status not in STOPPED:
        return ""
    code = (payment.error_code or "").replace("_", " ").lower()
    return f"The payment failed ({code})." if code else "The payment failed."


def method(found: list[Payment]) -> str:
    """“Visa ending in 4242”, by the latest payment that says."""
    for payment in found:
        if payment.card_last_four:
            return f"{(payment.card_network or 'Card').title()} ending in {payment.card_last_four}"
        if payment.payment_method:
            name = payment.payment_method_type or payment.payment_method
            return name.replace("_", " ").capitalize()
    return ""


def amount_of(refund: RefundListItem, payment: Payment) -> int:
    """In the payment's minor units; a refund may be told in those that are settled in."""
    if not refund.is_partial or refund.amount is None:
        return payment.total_amount
    if refund.currency in (None, payment.currency) or not payment.settlement_amount:
        return refund.amount
    return round(refund.amount * payment.total_amount / payment.settlement_amount)


def _kind(payment: Payment) -> Literal["subscription", "change", "charge", "sale"]:
    if marks.text(payment.metadata, marks.CHARGE):
        return "charge"
    if marks.text(payment.metadata, marks.TOP_UP):
        return "sale"
    if is_change(payment):
        return "change"
    return "charge" if payment.charge_type == "on_demand" else "subscription"


def _status(payment: Payment) -> Literal["pending", "paid", "failed"]:
    if payment.status == "succeeded":
        return "paid"
    if payment.status in STOPPED:
        return "failed"
    if payment.status is not None and payment.status not in get_args(IntentStatus):
        log.warning("dodo.unknown_payment_status", status=payment.status)
    return "pending"


def _refunded(payment: Payment) -> int:
    done = [one for one in payment.refunds or () if one.status == "succeeded"]
    return min(sum(amount_of(one, payment) for one in done), payment.total_amount)


def _dispute(payment: Payment) -> Literal["", "open", "won", "lost"]:
    found = max(payment.disputes or (), key=lambda one: moment(one.created_at), default=None)
    if found is None:
        return ""
    if found.dispute_status not in _DISPUTES:
        log.warning("dodo.unknown_dispute_status", status=found.dispute_status)
    return _DISPUTES.get(found.dispute_status, "open")


def _buyer(payment: Payment, tax_id: str) -> dict[str, Any]:
    billing = payment.billing
    place = " ".join(filter(None, (billing.zipcode, billing.city)))
    lines = (billing.street, place, billing.state, billing.country)
    return {
        "name": payment.customer.name,
        "address": "\n".join(filter(None, lines)),
        "country": billing.country,
        "tax_id": tax_id,
    }
