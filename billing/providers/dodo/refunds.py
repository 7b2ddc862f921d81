"""Money back at Dodo, looked for before it is asked for: Dodo keeps no idempotency keys.

Of two at the same moment Dodo refuses the one that would pay back more than there is.
"""

from __future__ import annotations

from typing import cast

from dodopayments import APIStatusError, DodoPayments, omit
from dodopayments.types import (
    Currency,
    Payment,
    PaymentRetrieveLineItemsResponse,
    Refund,
)
from dodopayments.types.refund_create_params import Item

from billing.providers import Declined, ProviderUnavailable
from billing.providers.dodo import marks, payments, subscriptions
from billing.providers.dodo.client import asking, moment, refused, said, understood


def refund(payment_id: str, amount_minor: int, currency: str, reference: str) -> None:
    with asking() as client:
        payment = payments.fetch(client, payment_id)
        standing = [one for one in payment.refunds or () if one.status != "failed"]
        if any(_is_ours(client, one.refund_id, reference) for one in standing):
            return
        whole = not standing and amount_minor == payment.total_amount
        try:
            made = client.refunds.create(
                payment_id=payment_id,
                items=omit if whole else _shares(client, payment, amount_minor),
                currency=omit if whole else cast(Currency, currency),
                metadata={marks.REFUND: reference},
            )
        except APIStatusError as error:
            if refused(error):
                raise Declined(f"Dodo: {said(error)}") from error
            raise
        if understood(made, Refund).status == "failed":
            raise Declined("Dodo: The refund failed.")


def refund_and_cancel(subscription_id: str) -> None:
    subscriptions.cancel(subscription_id, at_period_end=False)
    with asking() as client:
        payment = _last_paid(client, subscription_id)
        if payment is None:
            return
        if any(one.status != "failed" and not one.is_partial for one in payment.refunds or ()):
            return
        client.refunds.create(
            payment_id=payment.payment_id,
            reason="The account had a subscription already.",
            metadata={marks.SUBSCRIPTION: subscription_id},
        )


def _is_ours(client: DodoPayments, refund_id: str, reference: str) -> bool:
    found = understood(client.refunds.retrieve(refund_id), Refund)
    return marks.text(found.metadata, marks.REFUND) == reference


def _shares(client: DodoPayments, payment: Payment, amount_minor: int) -> list[Item]:
    """The amount as parts of what was bought, with their tax, the first things first."""
    lines = understood(
        client.payments.retrieve_line_items(payment.payment_id, currency=payment.currency),
        PaymentRetrieveLineItemsResponse,
    )
    if lines.partial_refund_allowed is False:
        raise Declined("Dodo: What was paid this way is paid back in full or not at all.")
    shares: list[Item] = []
    left = amount_minor
    for line in lines.items:
        share = min(left, line.refundable_amount)
        if share > 0:
            shares.append({"item_id": line.items_id, "amount": share, "tax_inclusive": True})
            left -= share
    if left or not shares:
        raise Declined("Dodo: That much is not left to pay back.")
    return shares


def _last_paid(client: DodoPayments, subscription_id: str) -> Payment | None:
    """The payment that took money last; None where none has taken any.

    Raises `ProviderUnavailable` where there is no payment at all: it isn't listed yet.
    """
    held = subscriptions.found(client, subscription_id)
    listed = [
        one
        for one in payments.of_customer(client, held.customer.customer_id)
        if payments.is_of(one, subscription_id)
    ]
    if not any(one.status == "succeeded" for one in listed):
        raise ProviderUnavailable("Dodo: A paid subscription without a payment.")
    took = [one for one in listed if payments.took_money(one)]
    newest = max(took, key=lambda one: moment(one.created_at), default=None)
    return payments.fetch(client, newest.payment_id) if newest else None
