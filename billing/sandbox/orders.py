"""The sandbox's orders: opened, paid or declined, renewed, cancelled, ended, refunded.

Every change that a real provider would tell by webhook puts a delivery beside it.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict
from datetime import datetime, timedelta

from django.db import transaction

from billing import periods
from billing.providers import Order
from billing.sandbox.cards import DECLINE_REASON, Card
from billing.sandbox.models import SandboxDelivery, SandboxOrder

State = SandboxOrder.State

# What the types of all its webhooks begin with.
TYPES = ("checkout.", "payment.", "subscription.", "refund.")
LIFETIME = timedelta(hours=24)
DELAY = timedelta(seconds=20)


def open_order(order: Order, now: datetime) -> SandboxOrder:
    """A hosted checkout; the same one for the same reference."""
    opened, _ = SandboxOrder.objects.get_or_create(
        reference=order.reference,
        defaults={
            "id": f"co_test_{secrets.token_hex(12)}",
            "customer_id": f"cus_test_{secrets.token_hex(8)}",
            "customer_email": order.customer_email,
            "description": order.plan.description,
            "amount_minor": sum(item.amount_minor for item in order.items),
            "items": [asdict(item) for item in order.items],
            "currency": order.currency,
            "interval": order.interval,
            "return_url": order.return_url,
            "cancel_url": order.cancel_url,
            "created_at": now,
        },
    )
    return opened


def has_expired(order: SandboxOrder, now: datetime) -> bool:
    return order.state == State.OPEN and order.created_at + LIFETIME <= now


def pay(order_id: str, card: Card, now: datetime) -> SandboxOrder:
    """Tries the card; a declined one leaves the order open, with the reason, for another."""
    with transaction.atomic():
        order = _locked(order_id)
        if order.state != State.OPEN or has_expired(order, now):
            return order
        if card.outcome == "declined":
            order.decline_reason = DECLINE_REASON
            _change(order, "payment.failed", now, "decline_reason")
        elif card.outcome == "paid":
            _activate(order, now)
        else:
            order.state, order.settles_at = State.PENDING, now + DELAY
            order.decline_reason = DECLINE_REASON if card.outcome == "later_declined" else ""
            _change(order, "checkout.pending", now, "state", "settles_at", "decline_reason")
    return order


def cancel(order_id: str, at_period_end: bool, now: datetime) -> None:
    with transaction.atomic():
        order = _locked(order_id)
        if order.state not in (State.ACTIVE, State.PAST_DUE):
            return
        if at_period_end:
            order.cancel_at_period_end = True
            _change(order, "subscription.updated", now, "cancel_at_period_end")
        else:
            _end(order, now)


def resume(order_id: str, now: datetime) -> None:
    with transaction.atomic():
        order = _locked(order_id)
        if order.state in (State.ACTIVE, State.PAST_DUE) and order.cancel_at_period_end:
            order.cancel_at_period_end = False
            _change(order, "subscription.updated", now, "cancel_at_period_end")


def refund(order_id: str, now: datetime) -> None:
    """Pays the last charge back and ends the subscription."""
    with transaction.atomic():
        order = _locked(order_id)
        if order.refunded:
            return
        order.refunded = True
        _change(order, "refund.succeeded", now, "refunded")
        if order.state in (State.ACTIVE, State.PAST_DUE):
            _end(order, now)


def advance(now: datetime) -> None:
    """Does what time has made due: delayed payments arrive, periods renew or end."""
    delayed = SandboxOrder.objects.filter(state=State.PENDING, settles_at__lte=now)
    over = SandboxOrder.objects.filter(state=State.ACTIVE, period_end__lte=now)
    for order_id in [*delayed.values_list("pk", flat=True), *over.values_list("pk", flat=True)]:
        with transaction.atomic():
            _advance(_locked(order_id), now)


def _advance(order: SandboxOrder, now: datetime) -> None:
    if order.state == State.PENDING and order.settles_at and order.settles_at <= now:
        if order.decline_reason:
            order.state = State.DECLINED
            _change(order, "payment.failed", now, "state")
        else:
            _activate(order, now)
    while order.state == State.ACTIVE and order.period_end and order.period_end <= now:
        if order.cancel_at_period_end:
            _end(order, order.period_end)
        else:
            _renew(order, order.period_end, now)


def _activate(order: SandboxOrder, now: datetime) -> None:
    start = now.replace(microsecond=0)
    order.state, order.decline_reason = State.ACTIVE, ""
    order.subscription_id = f"sub_test_{secrets.token_hex(12)}"
    order.anchor_day = start.day
    order.period_start, order.period_end = start, _period_end(order, start)
    _change(
        order,
        "checkout.completed",
        now,
        "state",
        "decline_reason",
        "subscription_id",
        "anchor_day",
        "period_start",
        "period_end",
    )


def _renew(order: SandboxOrder, start: datetime, now: datetime) -> None:
    order.period_start, order.period_end = start, _period_end(order, start)
    _change(order, "subscription.renewed", now, "period_start", "period_end")


def _end(order: SandboxOrder, at: datetime) -> None:
    order.state, order.ended_at = State.ENDED, at
    _change(order, "subscription.ended", at, "state", "ended_at")


def _period_end(order: SandboxOrder, start: datetime) -> datetime:
    months = 12 if order.interval == "year" else 1
    return periods.add_months(start, months, order.anchor_day or start.day)


def _locked(order_id: str) -> SandboxOrder:
    return SandboxOrder.objects.select_for_update().get(pk=order_id)


def _change(order: SandboxOrder, delivery_type: str, now: datetime, *fields: str) -> None:
    order.save(update_fields=fields)
    SandboxDelivery.objects.create(
        id=f"msg_{secrets.token_hex(12)}",
        order=order,
        type=delivery_type,
        created_at=now,
        next_attempt_at=now,
    )
