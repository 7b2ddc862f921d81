"""Dodo's hosted checkout: a session, its payment, and what the payment began or bought."""

from __future__ import annotations

from datetime import datetime, timedelta
from math import ceil
from typing import cast, get_args

import structlog
from django.utils import timezone
from dodopayments import DodoPayments
from dodopayments.types import (
    CheckoutSessionResponse,
    CheckoutSessionStatus,
    Currency,
    CustomerRequestParam,
    IntentStatus,
    MetadataParam,
    Payment,
    ProductItemReqParam,
    SubscriptionDataParam,
)

from billing.providers import CheckoutState, Offer, Order, ProviderUnavailable, Sale, Session
from billing.providers.dodo import marks, payments, products, subscriptions, usage
from billing.providers.dodo.client import asking, moment, understood

log = structlog.get_logger(__name__)

# A session is good for a day. One that we gave up is never asked about again, so that we wait
# a little for a payment of its last minute.
_LIFETIME = timedelta(hours=26)
_WITH_THE_BUYER = ("requires_customer_action", "requires_payment_method", "requires_confirmation")
_DAY = timedelta(days=1)


def create_checkout(order: Order) -> Session:
    """Opens a session; asked twice, it opens two, since Dodo can't look one up by our reference.

    That takes no money twice: a session whose answer was lost has an address that nobody knows.
    """
    meters = usage.of_order(order)
    metadata: MetadataParam = {
        marks.CHECKOUT: order.reference,
        marks.USAGE: "dodo" if meters else "keystile",
    }
    if order.starts_at:
        metadata |= {marks.STARTS_AT: order.starts_at.isoformat()}
    with asking() as client:
        plan, *add_ons = (Offer(item, order.currency, order.interval) for item in order.items)
        product_id, add_on_ids = products.ensure(client, plan, meters, add_ons)
        bought: ProductItemReqParam = {"product_id": product_id, "quantity": 1}
        if add_on_ids:
            bought["addons"] = [{"addon_id": one, "quantity": 1} for one in add_on_ids]
        return _open(client, order, bought, metadata, _subscription_data(order))


def create_sale(sale: Sale) -> Session:
    """As `create_checkout`, for what is paid once: the page says how much, and cannot be asked."""
    with asking() as client:
        bought: ProductItemReqParam = {
            "product_id": products.ensure_any_amount(client, "credits", sale.currency),
            "quantity": 1,
            "amount": sale.amount_minor,
        }
        return _open(client, sale, bought, {marks.TOP_UP: sale.reference})


def fetch_checkout(session_id: str) -> CheckoutState:
    """A failed payment leaves the session open for another while the session is good."""
    with asking() as client:
        session = understood(client.checkout_sessions.retrieve(session_id), CheckoutSessionStatus)
        is_over = moment(session.created_at) + _LIFETIME <= timezone.now()
        if not session.payment_id:
            return CheckoutState("expired" if is_over else "open")
        payment = payments.fetch(client, session.payment_id)
        if payment.status == "succeeded":
            return _paid(client, payment)
    if payment.status in payments.STOPPED:
        # Dodo's own words are written for the seller.
        log.info("dodo.payment_failed", payment=payment.payment_id, code=payment.error_code)
        return CheckoutState("failed" if is_over else "open", error="The payment failed.")
    if payment.status is None or payment.status in _WITH_THE_BUYER:
        return CheckoutState("expired" if is_over else "open")
    if payment.status not in get_args(IntentStatus):
        log.warning("dodo.unknown_payment_status", status=payment.status)
    return CheckoutState("pending")


def _open(
    client: DodoPayments,
    asked: Order | Sale,
    bought: ProductItemReqParam,
    metadata: MetadataParam,
    subscription_data: SubscriptionDataParam | None = None,
) -> Session:
    # Dodo joins customers by address, and accounts may share one: each keeps its own, since Dodo
    # counts usage by customer.
    known: CustomerRequestParam = {"customer_id": asked.customer_id}
    stranger: CustomerRequestParam = {"email": asked.customer_email}
    session = understood(
        client.checkout_sessions.create(
            product_cart=[bought],
            customer=known if asked.customer_id else stranger,
            billing_currency=cast(Currency, asked.currency),
            feature_flags={
                "allow_currency_selection": False,
                "always_create_new_customer": not asked.customer_id,
            },
            return_url=asked.return_url,
            cancel_url=asked.cancel_url,
            metadata=metadata,
            subscription_data=subscription_data,
        ),
        CheckoutSessionResponse,
    )
    if not session.session_id or not session.checkout_url:
        raise ProviderUnavailable("Dodo: A checkout without an address.")
    return Session(session.session_id, session.checkout_url)


def _subscription_data(order: Order) -> SubscriptionDataParam | None:
    """A later start is a trial until then, in whole days: what is over is given away."""
    days = max(order.trial_days, _days_until(order.starts_at))
    data: SubscriptionDataParam = {"trial_period_days": days} if days else {}
    if not sum(item.amount_minor for item in order.items):
        # Nothing is due by the calendar: the customer allows what we shall charge.
        data["on_demand"] = {"mandate_only": True}
    return data or None


def _days_until(moment: datetime | None) -> int:
    return max(0, ceil((moment - timezone.now()) / _DAY)) if moment else 0


def _paid(client: DodoPayments, payment: Payment) -> CheckoutState:
    begun = payment.subscription_id or next(iter(payment.subscription_ids or ()), "")
    if not begun and marks.text(payment.metadata, marks.TOP_UP):
        return CheckoutState(
            "paid", payment=payments.state_of(payment), customer_id=payment.customer.customer_id
        )
    if not begun:
        return CheckoutState("pending")
    held = subscriptions.found(client, begun)
    if held.status == "pending":
        return CheckoutState("pending")
    return CheckoutState(
        "paid",
        subscription=subscriptions.read(client, held),
        customer_id=held.customer.customer_id,
    )
