"""Stripe's hosted checkouts: one session for each checkout of ours, in mode `subscription`.

Our checkout's id goes along as `client_reference_id` and as metadata of the session and of the
subscription, so that each event finds its way back whichever comes first.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from django.conf import settings
from stripe.params.checkout import (
    SessionCreateParams,
    SessionCreateParamsLineItemPriceDataProductData,
)

from billing import money
from billing.providers import CheckoutState, Order, ProviderUnavailable, Session
from billing.providers.stripe import subscriptions
from billing.providers.stripe.client import asking

# Our checkout's id in Stripe's metadata.
REFERENCE = "keystile_checkout"

# Where Stripe counts an amount in other decimal places than ISO 4217 does (docs.stripe.com,
# "Supported currencies").
_PLACES = {"ISK": 2, "UGX": 2, "MGA": 0}


def create_checkout(order: Order) -> Session:
    """The price is written into the session: Stripe keeps no list of our plans.

    The reference is the idempotency key, for as long as Stripe knows keys (a day at least).
    """
    product: SessionCreateParamsLineItemPriceDataProductData = {"name": order.plan.description}
    if settings.STRIPE_TAX_CODE:
        product["tax_code"] = settings.STRIPE_TAX_CODE
    params: SessionCreateParams = {
        "mode": "subscription",
        "client_reference_id": order.reference,
        "customer_email": order.customer_email,
        "line_items": [
            {
                "quantity": 1,
                "price_data": {
                    "currency": order.currency.lower(),
                    "unit_amount": _unit_amount(order),
                    "recurring": {"interval": order.interval},
                    "product_data": product,
                },
            }
        ],
        "metadata": {REFERENCE: order.reference},
        "subscription_data": {"metadata": {REFERENCE: order.reference}},
        "success_url": order.return_url,
        "cancel_url": order.cancel_url,
    }
    if settings.STRIPE_TAX == "automatic":
        params["automatic_tax"] = {"enabled": True}
        params["tax_id_collection"] = {"enabled": True}
    elif settings.STRIPE_TAX == "managed":
        params["managed_payments"] = {"enabled": True}
    with asking() as client:
        session = client.v1.checkout.sessions.create(params, {"idempotency_key": order.reference})
    if not session.id or not session.url:
        raise ProviderUnavailable("Stripe's session has no address.")
    return Session(session.id, session.url)


def fetch_checkout(session_id: str) -> CheckoutState:
    """A completed session whose money is under way is pending.

    When a delayed payment fails, Stripe leaves the session as it is and ends the subscription
    once its invoice is given up: the session has failed then.
    """
    with asking() as client:
        session: dict[str, Any] = client.v1.checkout.sessions.retrieve(
            session_id, {"expand": ["subscription.latest_invoice"]}
        ).to_dict()
    status = session.get("status")
    if status == "open":
        return CheckoutState("open")
    if status == "expired":
        return CheckoutState("expired")
    if status != "complete":
        raise ProviderUnavailable(f"Stripe's session is {status!r}.")
    bought = session.get("subscription")
    if not isinstance(bought, dict):
        raise ProviderUnavailable("Stripe's completed session has no subscription.")
    settled = session.get("payment_status") in ("paid", "no_payment_required")
    if settled or subscriptions.is_paid(bought):
        return CheckoutState("paid", subscription=subscriptions.state_of(bought))
    if subscriptions.is_over(bought):
        return CheckoutState("failed", error="The payment did not arrive.")
    return CheckoutState("pending")


def _unit_amount(order: Order) -> int:
    """The amount in Stripe's own smallest units of the currency."""
    held = money.exponent(order.currency)
    shift = _PLACES.get(order.currency, held) - held
    amount = order.plan.amount_minor * Fraction(10) ** shift
    if amount.denominator != 1:
        raise ProviderUnavailable(f"Stripe charges no parts of a unit in {order.currency}.")
    return amount.numerator
