"""What staff do to the sandbox's customers, as a bank, a buyer or a provider's support would.

Each deed changes the sandbox's world alone; we learn of it as of anything there, by webhook or
by asking.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from django.db import transaction
from django.db.models import QuerySet

from billing.sandbox import changes, orders, payments
from billing.sandbox.models import SandboxOrder, SandboxPayment

State = SandboxOrder.State

ALIVE = (State.TRIALING, State.ACTIVE, State.PAST_DUE, State.PAUSED)


@dataclass(frozen=True)
class Deed:
    """Something to do to a customer.

    offered: whether there is anything to do; said again under the order's lock
    do:      does it, in a transaction that holds the order's row
    """

    name: str
    label: str
    offered: Callable[[SandboxOrder], bool]
    do: Callable[[SandboxOrder, datetime], object]
    grave: bool = False


def customers() -> QuerySet[SandboxOrder]:
    """All whose subscription lives, the latest first."""
    return SandboxOrder.objects.filter(state__in=ALIVE).order_by("-created_at")


def act(order_id: str, name: str, now: datetime) -> Deed | None:
    """Does it; None where there is no such customer or deed, or nothing to do any more."""
    with transaction.atomic():
        order = SandboxOrder.objects.select_for_update().filter(pk=order_id).first()
        deed = next((deed for deed in DEEDS if deed.name == name), None)
        if order is None or deed is None or not deed.offered(order):
            return None
        deed.do(order, now)
    return deed


def _alive(order: SandboxOrder) -> bool:
    return order.state in ALIVE


def _decline(order: SandboxOrder, _: datetime) -> None:
    order.declines = True
    order.save(update_fields=["declines"])


def _accept(order: SandboxOrder, now: datetime) -> None:
    """What is past due is tried again at once, as when a customer gives another card."""
    order.declines = False
    order.save(update_fields=["declines"])
    orders.collect(order, now)


def _paid(order: SandboxOrder) -> SandboxPayment | None:
    """The latest payment that the buyer may still have back."""
    taken = order.payments.filter(state=SandboxPayment.State.PAID).exclude(dispute="lost")
    return next((one for one in taken if _left(one) > 0), None)


def _left(payment: SandboxPayment) -> int:
    return payment.amount_minor - payments.refunded_minor(payment)


def _refund(order: SandboxOrder, now: datetime) -> None:
    if payment := _paid(order):
        payments.refund(payment, _left(payment), "by hand", now)


def _disputed(order: SandboxOrder) -> SandboxPayment | None:
    return order.payments.filter(dispute="open").first()


def _dispute(order: SandboxOrder, now: datetime) -> None:
    if payment := _paid(order):
        payments.dispute(payment, "open", now)


def _decide(order: SandboxOrder, outcome: Literal["won", "lost"], now: datetime) -> None:
    if payment := _disputed(order):
        payments.dispute(payment, outcome, now)


DEEDS = (
    Deed(
        "decline",
        "Decline the card",
        lambda order: _alive(order) and not order.declines,
        _decline,
    ),
    Deed(
        "accept",
        "Accept the card again",
        lambda order: _alive(order) and order.declines,
        _accept,
    ),
    Deed(
        "refund",
        "Pay the last payment back",
        lambda order: _paid(order) is not None and _disputed(order) is None,
        _refund,
    ),
    Deed(
        "dispute",
        "Dispute the last payment",
        lambda order: _paid(order) is not None and _disputed(order) is None,
        _dispute,
    ),
    Deed(
        "dispute_won",
        "The seller wins the dispute",
        lambda order: _disputed(order) is not None,
        lambda order, now: _decide(order, "won", now),
    ),
    Deed(
        "dispute_lost",
        "The seller loses the dispute",
        lambda order: _disputed(order) is not None,
        lambda order, now: _decide(order, "lost", now),
        grave=True,
    ),
    Deed(
        "pause",
        "Pause",
        lambda order: _alive(order) and order.state != State.PAUSED,
        lambda order, now: changes.pause(order.pk, now),
    ),
    Deed(
        "unpause",
        "Go on after the pause",
        lambda order: order.state == State.PAUSED,
        lambda order, now: changes.unpause(order.pk, now),
    ),
    Deed(
        "end",
        "End it now",
        _alive,
        lambda order, now: orders.cancel(order.pk, False, now),
        grave=True,
    ),
)
