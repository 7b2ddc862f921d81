"""Stripe's subscriptions: read in our words, cancelled, resumed, paid back.

Reads the shapes of API versions before and after 2025-03-31 (basil), because the account of a
seller and its events may lag behind the library. What an invoice names was moved there, too.
"""

from __future__ import annotations

from typing import Any, Literal

import stripe
import structlog
from stripe.params import RefundCreateParams

from billing.providers import ProviderUnavailable, SubscriptionState
from billing.providers.stripe import payments, plans, shapes
from billing.providers.stripe.client import asking

log = structlog.get_logger(__name__)

_Status = Literal["trialing", "active", "past_due", "paused", "ended"]
# `unpaid`: Stripe has given up charging and waits.
_STATUSES: dict[str, _Status] = {
    "trialing": "trialing",
    "active": "active",
    "past_due": "past_due",
    "unpaid": "past_due",
    "paused": "paused",
    "canceled": "ended",
    "incomplete_expired": "ended",
}
# Of the ways to pay, those that Stripe names otherwise than their users.
_METHODS = {
    "sepa_debit": "SEPA Direct Debit",
    "us_bank_account": "Bank account",
    "acss_debit": "Bank account",
    "bacs_debit": "Bank account",
    "au_becs_debit": "Bank account",
    "paypal": "PayPal",
}
_BRANDS = {"amex": "American Express", "jcb": "JCB", "unionpay": "UnionPay"}


def fetch_subscription(subscription_id: str) -> SubscriptionState:
    with asking() as client:
        return state_of(client, retrieve(client, subscription_id))


def cancel(subscription_id: str, *, at_period_end: bool) -> None:
    """Now: what waits to be invoiced is, and nothing is paid back."""
    with asking() as client:
        if is_over(retrieve(client, subscription_id)):
            return
        if at_period_end:
            client.v1.subscriptions.update(subscription_id, {"cancel_at_period_end": True})
        else:
            client.v1.subscriptions.cancel(subscription_id, {"invoice_now": True, "prorate": False})


def resume(subscription_id: str) -> None:
    """An end may be planned as a flag, or as a date (Stripe's own portal may do so)."""
    with asking() as client:
        held = retrieve(client, subscription_id)
        if is_over(held):
            return
        if held.get("cancel_at_period_end"):
            client.v1.subscriptions.update(subscription_id, {"cancel_at_period_end": False})
        elif held.get("cancel_at") is not None:
            client.v1.subscriptions.update(subscription_id, {"cancel_at": ""})


def refund_and_cancel(subscription_id: str) -> None:
    """The refund's idempotency key names the payment; Stripe refuses to pay more than it got."""
    with asking() as client:
        found = client.v1.subscriptions.retrieve(
            subscription_id, {"expand": ["latest_invoice.payments"]}
        )
        held = found.to_dict()
        if not is_over(held):
            client.v1.subscriptions.cancel(
                subscription_id, {"invoice_now": False, "prorate": False}
            )
        for params in _refunds(held.get("latest_invoice")):
            _refund(client, subscription_id, params)


def retrieve(client: stripe.StripeClient, subscription_id: str) -> dict[str, Any]:
    """With everything that `state_of` looks at."""
    expand = [
        "latest_invoice",
        "default_payment_method",
        "customer.invoice_settings.default_payment_method",
        "items.data.price.product",
    ]
    return dict(client.v1.subscriptions.retrieve(subscription_id, {"expand": expand}).to_dict())


def state_of(client: stripe.StripeClient, held: dict[str, Any]) -> SubscriptionState:
    """Of a subscription that has been paid once. Raises `ProviderUnavailable`."""
    try:
        start, end = plans.period(held)
        planned = held.get("cancel_at")
        customer_id = shapes.id_of(held["customer"])
        return SubscriptionState(
            id=held["id"],
            customer_id=customer_id,
            status=_status(held),
            period_start=shapes.moment(start),
            period_end=shapes.moment(end),
            cancel_at_period_end=bool(held.get("cancel_at_period_end"))
            or (planned is not None and planned <= end),
            ended_at=shapes.moment(held["ended_at"]) if held.get("ended_at") else None,
            trial_ends_at=shapes.moment(held["trial_end"]) if held.get("trial_end") else None,
            items=tuple(plans.paid_for(held)),
            payments=payments.of_subscription(client, customer_id, held["id"]),
            method=_method_text(method(held)),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError) as error:
        raise ProviderUnavailable(f"Stripe's subscription can't be read: {error!r}.") from error


def is_paid(held: dict[str, Any]) -> bool:
    """Whether the last invoice is, where the subscription was fetched with it."""
    return shapes.text(shapes.part(held, "latest_invoice"), "status") == "paid"


def is_over(held: dict[str, Any]) -> bool:
    return _STATUSES.get(str(held.get("status"))) == "ended"


def method(held: dict[str, Any]) -> dict[str, Any]:
    """What pays: the subscription's own way, else its customer's; empty where there is none.

    One that has ended can't be given another way any more; its customer can.
    """
    own = shapes.part(held, "default_payment_method")
    customers = shapes.part(held, "customer", "invoice_settings", "default_payment_method")
    return (customers or own) if is_over(held) else (own or customers)


def _status(held: dict[str, Any]) -> _Status:
    """A status that is new to us is decided by the last invoice, and logged.

    Whose collection is paused goes on at Stripe, and isn't paid for.
    """
    status = _STATUSES.get(held["status"])
    if status is None:
        log.warning("stripe.unknown_status", status=held["status"], subscription=held["id"])
        status = "active" if is_paid(held) else "past_due"
    if status in ("active", "trialing") and held.get("pause_collection"):
        return "paused"
    return status


def _method_text(way: dict[str, Any]) -> str:
    kind = shapes.text(way, "type")
    details = shapes.part(way, kind)
    brand = shapes.text(details, "display_brand") or shapes.text(details, "brand")
    name = _BRANDS.get(brand, brand.replace("_", " ").title())
    name = name or _METHODS.get(kind, kind.replace("_", " ").capitalize())
    last = shapes.text(details, "last4")
    return f"{name} ending in {last}" if name and last else name


def _refunds(invoice: Any) -> list[RefundCreateParams]:
    """What to ask for so that all that was paid on the invoice goes back."""
    if not isinstance(invoice, dict):
        raise ProviderUnavailable("Stripe's subscription has no invoice to pay back.")
    if not invoice.get("amount_paid"):
        return []
    paid = [
        shapes.part(payment, "payment")
        for payment in shapes.entries(invoice, "payments")
        if payment.get("status") == "paid"
    ]
    refunds: list[RefundCreateParams] = []
    for holder in paid or [invoice]:
        if intent := shapes.id_of(holder.get("payment_intent")):
            refunds.append({"payment_intent": intent})
        elif charge := shapes.id_of(holder.get("charge")):
            refunds.append({"charge": charge})
        else:
            raise ProviderUnavailable("Stripe's invoice was paid in a way that can't be paid back.")
    return refunds


def _refund(client: stripe.StripeClient, subscription_id: str, params: RefundCreateParams) -> None:
    payment = params.get("payment_intent") or params.get("charge")
    key = f"refund/{subscription_id}/{payment}"
    try:
        refund = client.v1.refunds.create(params, {"idempotency_key": key})
    except stripe.InvalidRequestError as error:
        if error.code != "charge_already_refunded":
            raise
        return
    if refund.status in ("failed", "canceled"):
        raise ProviderUnavailable(f"Stripe's refund is {refund.status}.")
