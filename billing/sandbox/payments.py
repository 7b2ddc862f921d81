"""The sandbox's money: taken from test cards, paid back, disputed.

Every function here is called with the order's row held, in a transaction. `take` and `retry`
leave it to their caller to tell of the outcome, with whatever else has changed.
"""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Literal

from billing.providers import ChargeOrder
from billing.sandbox import deliveries
from billing.sandbox.cards import DECLINE_REASON
from billing.sandbox.models import SandboxOrder, SandboxPayment

State = SandboxPayment.State


class Refused(Exception):
    """No payment of this order can be paid back by so much."""


def take(
    order: SandboxOrder,
    kind: Literal["subscription", "change", "charge", "sale"],
    amount_minor: int,
    now: datetime,
    *,
    reference: str = "",
    description: str = "",
) -> SandboxPayment:
    """Takes money from the order's card, or fails where that is declined.

    Once for each kind and reference: asked again, gives what became of it, and tries once more
    if that failed. Without a reference each call is a payment of its own.
    """
    earlier = (
        SandboxPayment.objects.filter(kind=kind, reference=reference).first() if reference else None
    )
    if earlier is not None:
        return earlier if earlier.state != State.FAILED else retry(order, earlier, now)
    payment = SandboxPayment(
        id=f"pay_test_{secrets.token_hex(12)}",
        order=order,
        kind=kind,
        reference=reference,
        description=description or order.description,
        amount_minor=amount_minor,
        currency=order.currency,
    )
    _try(payment, order, now)
    payment.save(force_insert=True)
    return payment


def retry(order: SandboxOrder, payment: SandboxPayment, now: datetime) -> SandboxPayment:
    """Tries the card again for a payment that failed."""
    _try(payment, order, now)
    payment.save(update_fields=["state", "failure", "at"])
    return payment


def charge(order: SandboxOrder, asked: ChargeOrder, now: datetime) -> SandboxPayment:
    """Takes what the seller asks for, also after the subscription has ended."""
    earlier = SandboxPayment.objects.filter(kind="charge", reference=asked.reference).first()
    payment = take(
        order,
        "charge",
        asked.amount_minor,
        now,
        reference=asked.reference,
        description=asked.description,
    )
    if earlier is None or earlier.state == State.FAILED:
        outcome = "failed" if payment.state == State.FAILED else "succeeded"
        deliveries.put(order, f"payment.{outcome}", now)
    return payment


def renewal(order: SandboxOrder, at: datetime) -> bool:
    """Takes what a period costs that begins then; False where the card is declined."""
    if not order.amount_minor:
        return True
    return take(order, "subscription", order.amount_minor, at).state != State.FAILED


def unpaid(order: SandboxOrder) -> SandboxPayment | None:
    """The payment that an order which is past due waits for."""
    return order.payments.filter(kind="subscription", state=State.FAILED).first()


def refund(payment: SandboxPayment, amount_minor: int, reference: str, now: datetime) -> None:
    """Pays back, once for each reference. Raises `Refused` for more than is left of it."""
    if reference in payment.refunds:
        return
    left = payment.amount_minor - refunded_minor(payment)
    if payment.state != State.PAID or not 0 < amount_minor <= left:
        raise Refused("There is less left of this payment than that.")
    payment.refunds = {**payment.refunds, reference: amount_minor}
    payment.save(update_fields=["refunds"])
    deliveries.put(payment.order, "refund.succeeded", now)


def refund_last(order: SandboxOrder) -> None:
    """Pays back what is left of the last payment; `orders.refund` tells of it."""
    payment = order.payments.filter(state=State.PAID).first()
    if payment is not None:
        left = payment.amount_minor - refunded_minor(payment)
        payment.refunds = {**payment.refunds, "whole": left}
        payment.save(update_fields=["refunds"])


def refunded_minor(payment: SandboxPayment) -> int:
    return sum(payment.refunds.values())


def dispute(payment: SandboxPayment, stage: Literal["open", "won", "lost"], now: datetime) -> None:
    """The buyer's bank takes the payment back for now, or says who was right."""
    payment.dispute = stage
    payment.save(update_fields=["dispute"])
    deliveries.put(payment.order, "dispute.opened" if stage == "open" else f"dispute.{stage}", now)


def _try(payment: SandboxPayment, order: SandboxOrder, now: datetime) -> None:
    payment.state = State.FAILED if order.declines else State.PAID
    payment.failure = DECLINE_REASON if order.declines else ""
    payment.at = now
