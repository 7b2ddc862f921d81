"""Stripe's subscriptions: read in our words, cancelled, resumed, paid back.

Reads the shapes of API versions before and after 2025-03-31 (basil), because the account of a
seller and its events may lag behind the library. What an invoice names was moved there, too.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

import stripe
import structlog
from stripe.params import RefundCreateParams

from billing.providers import ProviderUnavailable, SubscriptionState
from billing.providers.stripe.client import asking

log = structlog.get_logger(__name__)

# `unpaid`: Stripe has given up charging and waits. `paused`: a trial ended without a way to pay.
_STATUSES: dict[str, Literal["trialing", "active", "past_due", "ended"]] = {
    "trialing": "trialing",
    "active": "active",
    "past_due": "past_due",
    "unpaid": "past_due",
    "paused": "past_due",
    "canceled": "ended",
    "incomplete_expired": "ended",
}


def fetch_subscription(subscription_id: str) -> SubscriptionState:
    with asking() as client:
        held = _retrieve(client, subscription_id, "latest_invoice")
    return state_of(held)


def cancel(subscription_id: str, *, at_period_end: bool) -> None:
    """Now: what waits to be invoiced is, and nothing is paid back."""
    with asking() as client:
        if is_over(_retrieve(client, subscription_id)):
            return
        if at_period_end:
            client.v1.subscriptions.update(subscription_id, {"cancel_at_period_end": True})
        else:
            client.v1.subscriptions.cancel(subscription_id, {"invoice_now": True, "prorate": False})


def resume(subscription_id: str) -> None:
    """An end may be planned as a flag, or as a date (Stripe's own portal may do so)."""
    with asking() as client:
        held = _retrieve(client, subscription_id)
        if is_over(held):
            return
        if held.get("cancel_at_period_end"):
            client.v1.subscriptions.update(subscription_id, {"cancel_at_period_end": False})
        elif held.get("cancel_at") is not None:
            client.v1.subscriptions.update(subscription_id, {"cancel_at": ""})


def refund_and_cancel(subscription_id: str) -> None:
    """The refund's idempotency key names the payment; Stripe refuses to pay more than it got."""
    with asking() as client:
        held = _retrieve(client, subscription_id, "latest_invoice.payments")
        if not is_over(held):
            client.v1.subscriptions.cancel(
                subscription_id, {"invoice_now": False, "prorate": False}
            )
        for params in _refunds(held.get("latest_invoice")):
            _refund(client, subscription_id, params)


def state_of(held: dict[str, Any]) -> SubscriptionState:
    """Of a subscription that has been paid once. Raises `ProviderUnavailable`.

    A status that is new to us is decided by the last invoice, and logged.
    """
    try:
        status = _STATUSES.get(held["status"])
        if status is None:
            log.warning("stripe.unknown_status", status=held["status"], subscription=held["id"])
            status = "active" if is_paid(held) else "past_due"
        items = held.get("items", {}).get("data") or []
        start, end = (
            # Items may be billed at different rhythms: the earliest end is the next bill.
            min(item[name] for item in [*items, held] if item.get(name) is not None)
            for name in ("current_period_start", "current_period_end")
        )
        planned = held.get("cancel_at")
        return SubscriptionState(
            id=held["id"],
            customer_id=id_of(held["customer"]),
            status=status,
            period_start=_time(start),
            period_end=_time(end),
            cancel_at_period_end=bool(held.get("cancel_at_period_end"))
            or (planned is not None and planned <= end),
            ended_at=_time(held["ended_at"]) if held.get("ended_at") else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError) as error:
        raise ProviderUnavailable(f"Stripe's subscription can't be read: {error!r}.") from error


def is_paid(held: dict[str, Any]) -> bool:
    """Whether the last invoice is, where the subscription was fetched with it."""
    invoice = held.get("latest_invoice")
    return isinstance(invoice, dict) and invoice.get("status") == "paid"


def is_over(held: dict[str, Any]) -> bool:
    return _STATUSES.get(str(held.get("status"))) == "ended"


def id_of(reference: Any) -> str:
    """Of what Stripe gives as an id, or expanded; empty for what is neither."""
    held = reference.get("id") if isinstance(reference, dict) else reference
    return held if isinstance(held, str) else ""


def _retrieve(client: stripe.StripeClient, subscription_id: str, *expand: str) -> dict[str, Any]:
    found = client.v1.subscriptions.retrieve(subscription_id, {"expand": list(expand)})
    return dict(found.to_dict())


def _refunds(invoice: Any) -> list[RefundCreateParams]:
    """What to ask for so that all that was paid on the invoice goes back."""
    if not isinstance(invoice, dict):
        raise ProviderUnavailable("Stripe's subscription has no invoice to pay back.")
    if not invoice.get("amount_paid"):
        return []
    paid = [
        payment["payment"]
        for payment in (invoice.get("payments") or {}).get("data", [])
        if payment.get("status") == "paid" and isinstance(payment.get("payment"), dict)
    ]
    refunds: list[RefundCreateParams] = []
    for holder in paid or [invoice]:
        if intent := id_of(holder.get("payment_intent")):
            refunds.append({"payment_intent": intent})
        elif charge := id_of(holder.get("charge")):
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


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
