"""The sandbox's sales: orders that are paid once and renew nothing.

They share page, cards and webhooks with the other orders; paid, they are `active` for good.
"""

from __future__ import annotations

import secrets
from datetime import datetime

from billing.providers import Sale
from billing.sandbox import payments
from billing.sandbox.models import SandboxOrder, SandboxPayment


def open_sale(sale: Sale, now: datetime) -> SandboxOrder:
    """A hosted checkout; the same one for the same reference."""
    opened, _ = SandboxOrder.objects.get_or_create(
        reference=sale.reference,
        defaults={
            "id": f"co_test_{secrets.token_hex(12)}",
            "customer_id": sale.customer_id or f"cus_test_{secrets.token_hex(8)}",
            "customer_email": sale.customer_email,
            "description": sale.description,
            "amount_minor": sale.amount_minor,
            "currency": sale.currency,
            "return_url": sale.return_url,
            "cancel_url": sale.cancel_url,
            "created_at": now,
        },
    )
    return opened


def complete(order: SandboxOrder, now: datetime) -> None:
    """Takes the money, in the transaction that holds the order; the caller saves its state."""
    payments.take(order, "sale", order.amount_minor, now, reference=order.reference)
    order.state, order.decline_reason = SandboxOrder.State.ACTIVE, ""


def payment_of(order: SandboxOrder) -> SandboxPayment | None:
    """What was paid for a sale; None where that is still open, or the order is no sale."""
    return order.payments.filter(kind="sale", state=SandboxPayment.State.PAID).first()
