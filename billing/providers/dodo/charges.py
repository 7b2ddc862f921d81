"""Takes money from a customer who isn't there, once for each reference.

From a subscription on demand by its mandate; from another one, or one that has ended, by its saved
way to pay, as a purchase of its own. Dodo keeps no idempotency keys: before each try the customer's
payments are looked through for the reference in their metadata.
"""

from __future__ import annotations

from typing import cast

from dodopayments import APIStatusError, DodoPayments
from dodopayments.types import (
    CheckoutSessionResponse,
    Currency,
    MetadataParam,
    Payment,
    PaymentListResponse,
    Subscription,
    SubscriptionChargeResponse,
)

from billing.providers import ChargeOrder, Declined, PaymentState, ProviderUnavailable
from billing.providers.dodo import marks, payments, products, subscriptions
from billing.providers.dodo.client import asking, moment, refused, said, understood


def charge(order: ChargeOrder) -> PaymentState:
    """Raises `Declined` where Dodo won't try, as while the subscription is on hold."""
    with asking() as client:
        known = _known(client, order)
        payment = known or payments.fetch(client, _taken(client, order))
        state = payments.state_of(payment)
    return _as_charge(state, order)


def _as_charge(state: PaymentState, order: ChargeOrder) -> PaymentState:
    """What Dodo took by itself for a charge of ours bears no reference."""
    if (state.kind, state.reference) == ("charge", order.reference):
        return state
    return PaymentState(**vars(state) | {"kind": "charge", "reference": order.reference})


def _known(client: DodoPayments, order: ChargeOrder) -> Payment | None:
    """The payment of this charge that is paid or on its way; None: it may be tried."""
    listed = list(payments.of_customer(client, order.customer_id))
    tries = [one for one in listed if marks.text(one.metadata, marks.CHARGE) == order.reference]
    for one in tries:
        if one.status not in payments.STOPPED:
            return payments.fetch(client, one.payment_id)
    if tries:
        dues = next((one for one in listed if _are_dues(one, tries, order)), None)
        return payments.fetch(client, dues.payment_id) if dues else None
    return None


def _are_dues(
    payment: PaymentListResponse, tries: list[PaymentListResponse], order: ChargeOrder
) -> bool:
    """Whether Dodo took what had failed, as it does when a customer gives another card."""
    return (
        payments.took_money(payment)
        and payments.is_of(payment, order.subscription_id)
        and not marks.text(payment.metadata, marks.CHARGE)
        and payment.charge_type in (None, "on_demand")
        and any(
            payment.total_amount == one.total_amount
            and moment(payment.created_at) > moment(one.created_at)
            for one in tries
        )
    )


def _taken(client: DodoPayments, order: ChargeOrder) -> str:
    """Tries once; the id of the payment."""
    held = subscriptions.found(client, order.subscription_id)
    metadata: MetadataParam = {
        marks.CHARGE: order.reference,
        marks.SUBSCRIPTION: order.subscription_id,
    }
    try:
        if held.on_demand and not subscriptions.is_over(held):
            made = client.subscriptions.charge(
                order.subscription_id,
                product_price=order.amount_minor,
                product_currency=cast(Currency, order.currency),
                product_description=order.description,
                metadata=metadata,
            )
            return understood(understood(made, SubscriptionChargeResponse).payment_id, str)
        return _bought(client, order, held, metadata)
    except APIStatusError as error:
        if refused(error):
            raise Declined(f"Dodo: {said(error)}") from error
        raise


def _bought(
    client: DodoPayments, order: ChargeOrder, held: Subscription, metadata: MetadataParam
) -> str:
    if not held.payment_method_id:
        raise Declined("Dodo has no saved way to pay of this subscription.")
    where = held.billing
    session = understood(
        client.checkout_sessions.create(
            product_cart=[
                {
                    "product_id": products.ensure_any_amount(client, "usage", order.currency),
                    "quantity": 1,
                    "amount": order.amount_minor,
                }
            ],
            customer={"customer_id": order.customer_id},
            billing_address={
                "country": where.country,
                "city": where.city,
                "state": where.state,
                "street": where.street,
                "zipcode": where.zipcode,
            },
            billing_currency=cast(Currency, order.currency),
            payment_method_id=held.payment_method_id,
            confirm=True,
            metadata=metadata,
        ),
        CheckoutSessionResponse,
    )
    if not session.payment_id:
        raise ProviderUnavailable("Dodo: A confirmed checkout without a payment.")
    return session.payment_id
