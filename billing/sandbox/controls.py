"""What staff do to the sandbox's customers, as a bank, a buyer or a provider's support would.

Each deed changes the sandbox's world alone; we learn of it as of anything there, by webhook or
by asking.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.db.models import QuerySet

from billing.sandbox import orders
from billing.sandbox.models import SandboxOrder

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


def _set_declines(order: SandboxOrder, declines: bool) -> None:
    SandboxOrder.objects.filter(pk=order.pk).update(declines=declines)


def _alive(order: SandboxOrder) -> bool:
    return order.state in ALIVE


DEEDS = (
    Deed(
        "decline",
        "Decline the card",
        lambda order: _alive(order) and not order.declines,
        lambda order, _: _set_declines(order, True),
    ),
    Deed(
        "accept",
        "Accept the card again",
        lambda order: _alive(order) and order.declines,
        lambda order, _: _set_declines(order, False),
    ),
    Deed(
        "end",
        "End it now",
        _alive,
        lambda order, now: orders.cancel(order.pk, False, now),
        grave=True,
    ),
)
