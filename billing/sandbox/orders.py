"""The sandbox's orders: opened, paid or declined, renewed, cancelled, ended, refunded.

What changes an order in between is in `changes`.

Every change that a real provider would tell by webhook puts a delivery beside it.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from billing import periods
from billing.providers import Order
from billing.sandbox import deliveries, payments, sales
from billing.sandbox.cards import DECLINE_REASON, Card
from billing.sandbox.models import SandboxOrder

State = SandboxOrder.State
# Of those that are paid, or in trial.
LIVING = (State.TRIALING, State.ACTIVE, State.PAST_DUE, State.PAUSED)
# Of those whose period's end needs nothing but time.
_ROLLING = (State.TRIALING, State.ACTIVE)

# What the types of all its webhooks begin with.
TYPES = ("checkout.", "payment.", "subscription.", "refund.", "dispute.")
LIFETIME = timedelta(hours=24)
DELAY = timedelta(seconds=20)
# A renewal that was declined is tried again so long after it, and then given up.
RETRIES = (timedelta(days=3), timedelta(days=5))
GIVES_UP = timedelta(days=14)


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
            "trial_days": order.trial_days,
            "starts_at": order.starts_at,
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
            order.card = card.name
            _activate(order, now)
        else:
            order.card = card.name
            order.state, order.settles_at = State.PENDING, now + DELAY
            order.decline_reason = DECLINE_REASON if card.outcome == "later_declined" else ""
            _change(order, "checkout.pending", now, "state", "card", "settles_at", "decline_reason")
    return order


def cancel(order_id: str, at_period_end: bool, now: datetime) -> None:
    with transaction.atomic():
        order = _locked(order_id)
        if order.state not in LIVING:
            return
        if at_period_end:
            order.cancel_at_period_end = True
            _change(order, "subscription.updated", now, "cancel_at_period_end")
        else:
            _end(order, now)


def resume(order_id: str, now: datetime) -> None:
    with transaction.atomic():
        order = _locked(order_id)
        if order.state in LIVING and order.cancel_at_period_end:
            order.cancel_at_period_end = False
            _change(order, "subscription.updated", now, "cancel_at_period_end")


def refund(order_id: str, now: datetime) -> None:
    """Pays the last charge back and ends the subscription."""
    with transaction.atomic():
        order = _locked(order_id)
        if order.refunded:
            return
        order.refunded = True
        payments.refund_last(order)
        _change(order, "refund.succeeded", now, "refunded")
        if order.state in LIVING:
            _end(order, now)


def advance(now: datetime) -> None:
    """Does what time has made due: delayed payments arrive, periods renew or end."""
    delayed = SandboxOrder.objects.filter(state=State.PENDING, settles_at__lte=now)
    over = SandboxOrder.objects.filter(state__in=_ROLLING, period_end__lte=now)
    owing = SandboxOrder.objects.filter(state=State.PAST_DUE)
    for order_id in (delayed | over | owing).values_list("pk", flat=True):
        with transaction.atomic():
            _advance(_locked(order_id), now)


def _advance(order: SandboxOrder, now: datetime) -> None:
    if order.state == State.PENDING and order.settles_at and order.settles_at <= now:
        if order.decline_reason:
            order.state = State.DECLINED
            _change(order, "payment.failed", now, "state")
        else:
            _activate(order, now)
    while (step := _next_step(order)) and step <= now:
        if order.state == State.PAST_DUE:
            _ask_again(order, step)
        elif order.cancel_at_period_end:
            _end(order, step)
        else:
            _renew(order, step)


def _next_step(order: SandboxOrder) -> datetime | None:
    """When time will next do something to a subscription."""
    if order.state in _ROLLING:
        return order.period_end
    owed = payments.unpaid(order) if order.state == State.PAST_DUE else None
    if owed is None or order.period_start is None or order.period_end is None:
        return None
    steps = [order.period_start + after for after in (*RETRIES, GIVES_UP)]
    if order.cancel_at_period_end:
        steps.append(order.period_end)
    return min((step for step in steps if step > owed.at), default=order.period_start + GIVES_UP)


def _ask_again(order: SandboxOrder, at: datetime) -> None:
    """Tries the card once more for a renewal, or gives it up."""
    given_up = order.period_start is not None and at >= order.period_start + GIVES_UP
    if given_up or (order.cancel_at_period_end and at == order.period_end):
        _end(order, at)
    else:
        collect(order, at)


def collect(order: SandboxOrder, at: datetime) -> None:
    """Tries the card for what is past due: by itself, or because the card was changed."""
    owed = payments.unpaid(order)
    if order.state != State.PAST_DUE or owed is None:
        return
    if payments.retry(order, owed, at).state == payments.State.FAILED:
        deliveries.put(order, "payment.failed", at)
    else:
        order.state = State.ACTIVE
        _change(order, "payment.succeeded", at, "state")


def _activate(order: SandboxOrder, now: datetime) -> None:
    if not order.interval:
        sales.complete(order, now)
        _change(order, "checkout.completed", now, "state", "card", "decline_reason")
        return
    start = now.replace(microsecond=0)
    order.state, order.decline_reason = State.ACTIVE, ""
    order.subscription_id = f"sub_test_{secrets.token_hex(12)}"
    first_payment = _first_payment(order, start)
    order.anchor_day = first_payment.day
    order.period_start = start
    if first_payment > start:
        order.state, order.period_end = State.TRIALING, first_payment
    else:
        order.period_end = period_end(order, start)
        payments.renewal(order, now)
    _change(
        order,
        "checkout.completed",
        now,
        "state",
        "card",
        "decline_reason",
        "subscription_id",
        "anchor_day",
        "period_start",
        "period_end",
    )


def _first_payment(order: SandboxOrder, start: datetime) -> datetime:
    """After the trial, or when the seller has said; else now."""
    if order.starts_at is not None:
        return max(order.starts_at.replace(microsecond=0), start)
    return start + timedelta(days=order.trial_days)


def _renew(order: SandboxOrder, start: datetime) -> None:
    fields = ["state", "period_start", "period_end"]
    if order.next_items is not None:
        fields += become(order, order.next_items)
    order.period_start, order.period_end = start, period_end(order, start)
    if payments.renewal(order, start):
        order.state = State.ACTIVE
        _change(order, "subscription.renewed", start, *fields)
    else:
        order.state = State.PAST_DUE
        _change(order, "payment.failed", start, *fields)


def become(order: SandboxOrder, content: dict[str, Any]) -> tuple[str, ...]:
    """Makes the order consist of `{"items", "interval"}`; the fields to be saved."""
    order.items, order.interval = content["items"], content["interval"]
    order.amount_minor = sum(item["amount_minor"] for item in order.items)
    order.description = order.items[0]["description"]
    order.next_items = None
    return ("items", "interval", "amount_minor", "description", "next_items")


def _end(order: SandboxOrder, at: datetime) -> None:
    order.state, order.ended_at = State.ENDED, at
    _change(order, "subscription.ended", at, "state", "ended_at")


def period_end(order: SandboxOrder, start: datetime) -> datetime:
    months = 12 if order.interval == "year" else 1
    return periods.add_months(start, months, order.anchor_day or start.day)


def _locked(order_id: str) -> SandboxOrder:
    return SandboxOrder.objects.select_for_update().get(pk=order_id)


def _change(order: SandboxOrder, delivery_type: str, now: datetime, *fields: str) -> None:
    order.save(update_fields=fields)
    deliveries.put(order, delivery_type, now)
