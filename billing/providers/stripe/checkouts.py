"""Stripe's hosted checkouts: a session for each checkout and each top-up of ours.

Our id goes along as `client_reference_id` and as metadata of the session and of what comes of it,
so that each event finds its way back whichever comes first.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from stripe.params.checkout import SessionCreateParams, SessionCreateParamsSubscriptionData

from billing.providers import (
    CheckoutState,
    Order,
    PaymentState,
    ProviderUnavailable,
    Sale,
    Session,
)
from billing.providers.stripe import payments, prices, shapes, subscriptions
from billing.providers.stripe.client import asking
from billing.providers.stripe.payments import SALE

# Our checkout's id in Stripe's metadata.
REFERENCE = "keystile_checkout"

# A trial ends two days after its checkout began at the earliest, a checkout half an hour after.
_SHORTEST_TRIAL = timedelta(days=2, minutes=5)
_SHORTEST_CHECKOUT = timedelta(minutes=31)
_LONGEST_CHECKOUT = timedelta(hours=24)


def create_checkout(order: Order) -> Session:
    """At the prices of `sync_provider`, or with the price written into the session.

    The reference is the idempotency key, for as long as Stripe knows keys (a day at least).
    """
    params: SessionCreateParams = {
        "mode": "subscription",
        "client_reference_id": order.reference,
        "metadata": {REFERENCE: order.reference},
        "subscription_data": {"metadata": {REFERENCE: order.reference}},
    }
    _defer(params, params["subscription_data"], order)
    _add_buyer(params, order)
    with asking() as client:
        params["line_items"] = prices.line_items(
            client, order.items, order.currency, order.interval
        )
        made = client.v1.checkout.sessions.create(params, {"idempotency_key": order.reference})
    return _session(made.to_dict())


def create_sale(sale: Sale) -> Session:
    """What pays is kept for charges in the buyer's absence, and Stripe writes an invoice.

    Managed Payments decides both by itself.
    """
    reference = {SALE: sale.reference}
    params: SessionCreateParams = {
        "mode": "payment",
        "client_reference_id": sale.reference,
        "metadata": reference,
        "payment_intent_data": {"metadata": reference, "description": sale.description},
        "line_items": [
            {
                "quantity": 1,
                "price_data": prices.price_data(sale.description, sale.amount_minor, sale.currency),
            }
        ],
    }
    if settings.STRIPE_TAX != "managed":
        params["payment_intent_data"]["setup_future_usage"] = "off_session"
        params["invoice_creation"] = {"enabled": True, "invoice_data": {"metadata": reference}}
    if not sale.customer_id:
        params["customer_creation"] = "always"
    _add_buyer(params, sale)
    with asking() as client:
        made = client.v1.checkout.sessions.create(params, {"idempotency_key": sale.reference})
    return _session(made.to_dict())


def fetch_checkout(session_id: str) -> CheckoutState:
    """A completed session whose money is under way is pending.

    When a delayed payment fails, Stripe leaves the session as it is. It has failed when the
    subscription has ended, or when the sale's payment waits for another way to pay.
    """
    with asking() as client:
        expand = ["payment_intent.latest_charge", "invoice.payments"]
        session = client.v1.checkout.sessions.retrieve(session_id, {"expand": expand}).to_dict()
        status = session.get("status")
        if status == "open":
            return CheckoutState("open")
        if status == "expired":
            return CheckoutState("expired")
        if status != "complete":
            raise ProviderUnavailable(f"Stripe's session is {status!r}.")
        if session.get("mode") == "payment":
            return _sold(payments.of_sale(client, session), session)
        subscription_id = shapes.id_of(session.get("subscription"))
        if not subscription_id:
            raise ProviderUnavailable("Stripe's completed session has no subscription.")
        bought = subscriptions.retrieve(client, subscription_id)
        settled = session.get("payment_status") in ("paid", "no_payment_required")
        if settled or subscriptions.is_paid(bought):
            state = subscriptions.state_of(client, bought)
            return CheckoutState("paid", subscription=state, customer_id=state.customer_id)
    if subscriptions.is_over(bought):
        return CheckoutState("failed", error="The payment did not arrive.")
    return CheckoutState("pending")


def _sold(payment: PaymentState, session: dict[str, Any]) -> CheckoutState:
    customer_id = shapes.id_of(session.get("customer"))
    if session.get("payment_status") == "paid" or payment.status == "paid":
        return CheckoutState("paid", payment=payment, customer_id=customer_id)
    if payment.status == "failed":
        return CheckoutState("failed", error=payment.failure or "The payment did not arrive.")
    return CheckoutState("pending", customer_id=customer_id)


def _defer(
    params: SessionCreateParams, bought: SessionCreateParamsSubscriptionData, order: Order
) -> None:
    """Puts the first payment off, as a trial that Stripe knows of.

    Less than two days ahead it takes no trial: the time until then is a period that costs nothing,
    and the checkout closes when it is over. Less than half an hour ahead it is due at once.
    """
    if order.trial_days:
        bought["trial_period_days"] = order.trial_days
    if order.starts_at is None:
        return
    begins = int(order.starts_at.timestamp())
    ahead = order.starts_at - datetime.now(UTC)
    if ahead >= _SHORTEST_TRIAL:
        bought["trial_end"] = begins
    elif ahead >= _SHORTEST_CHECKOUT:
        bought["billing_cycle_anchor"] = begins
        bought["proration_behavior"] = "none"
        if ahead < _LONGEST_CHECKOUT:
            params["expires_at"] = begins


def _add_buyer(params: SessionCreateParams, order: Order | Sale) -> None:
    params["success_url"], params["cancel_url"] = order.return_url, order.cancel_url
    params["locale"] = "auto"
    if order.customer_id:
        params["customer"] = order.customer_id
    else:
        params["customer_email"] = order.customer_email
    if settings.STRIPE_TAX == "automatic":
        params["automatic_tax"] = {"enabled": True}
        params["tax_id_collection"] = {"enabled": True}
        if order.customer_id:  # else Stripe takes no address and no tax id for who it knows
            params["customer_update"] = {"address": "auto", "name": "auto"}
    elif settings.STRIPE_TAX == "managed":
        params["managed_payments"] = {"enabled": True}


def _session(made: dict[str, Any]) -> Session:
    session = Session(shapes.text(made, "id"), shapes.text(made, "url"))
    if not session.id or not session.url:
        raise ProviderUnavailable("Stripe's session has no address.")
    return session
