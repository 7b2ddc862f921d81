"""Dodo's hosted checkout: a session, its payment, and the subscription that the payment began."""

from __future__ import annotations

from datetime import timedelta
from typing import cast, get_args

import structlog
from django.utils import timezone
from dodopayments import DodoPayments
from dodopayments.types import (
    CheckoutSessionResponse,
    CheckoutSessionStatus,
    Currency,
    IntentStatus,
    Payment,
    Subscription,
)

from billing.providers import CheckoutState, Order, ProviderUnavailable, Session
from billing.providers.dodo import products
from billing.providers.dodo.client import asking, moment, understood
from billing.providers.dodo.subscriptions import state_of
from billing.providers.dodo.webhooks import REFERENCE

log = structlog.get_logger(__name__)

# A session is good for a day. One that we gave up is never asked about again, so that we wait
# a little for a payment of its last minute.
_LIFETIME = timedelta(hours=26)
_STOPPED = ("failed", "cancelled")
_WITH_THE_BUYER = ("requires_customer_action", "requires_payment_method", "requires_confirmation")


def create_checkout(order: Order) -> Session:
    """Opens a session; asked twice, it opens two, since Dodo can't look one up by our reference.

    That takes no money twice: a session whose answer was lost has an address that nobody knows.
    """
    with asking() as client:
        session = understood(
            client.checkout_sessions.create(
                product_cart=[{"product_id": products.ensure(client, order), "quantity": 1}],
                customer={"email": order.customer_email},
                billing_currency=cast(Currency, order.currency),
                # Dodo joins customers by address, and accounts may share one: each keeps its own,
                # since Dodo counts usage by customer.
                feature_flags={
                    "allow_currency_selection": False,
                    "always_create_new_customer": True,
                },
                return_url=order.return_url,
                cancel_url=order.cancel_url,
                metadata={REFERENCE: order.reference},
            ),
            CheckoutSessionResponse,
        )
    if not session.session_id or not session.checkout_url:
        raise ProviderUnavailable("Dodo: A checkout without an address.")
    return Session(session.session_id, session.checkout_url)


def fetch_checkout(session_id: str) -> CheckoutState:
    """A failed payment leaves the session open for another while the session is good."""
    with asking() as client:
        session = understood(client.checkout_sessions.retrieve(session_id), CheckoutSessionStatus)
        is_over = moment(session.created_at) + _LIFETIME <= timezone.now()
        if not session.payment_id:
            return CheckoutState("expired" if is_over else "open")
        payment = understood(client.payments.retrieve(session.payment_id), Payment)
        if payment.status == "succeeded":
            return _paid(client, payment)
    if payment.status in _STOPPED:
        # Dodo's own words are written for the seller.
        log.info("dodo.payment_failed", payment=payment.payment_id, code=payment.error_code)
        return CheckoutState("failed" if is_over else "open", error="The payment failed.")
    if payment.status is None or payment.status in _WITH_THE_BUYER:
        return CheckoutState("expired" if is_over else "open")
    if payment.status not in get_args(IntentStatus):
        log.warning("dodo.unknown_payment_status", status=payment.status)
    return CheckoutState("pending")


def _paid(client: DodoPayments, payment: Payment) -> CheckoutState:
    begun = payment.subscription_id or next(iter(payment.subscription_ids or ()), "")
    if not begun:
        return CheckoutState("pending")
    subscription = understood(client.subscriptions.retrieve(begun), Subscription)
    if subscription.status == "pending":
        return CheckoutState("pending")
    return CheckoutState("paid", subscription=state_of(subscription))
