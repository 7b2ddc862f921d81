"""The sandbox's subscriptions changed in between: what they consist of, their card, a pause.

A change that holds at once is paid for at once, by the seconds that are left of the period; a
declined card changes nothing. One for the period's end waits in the order's `next_items`.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from fractions import Fraction
from math import floor
from typing import Any

from django.db import transaction

from billing.providers import Change, Changed, Preview
from billing.sandbox import deliveries, orders, payments
from billing.sandbox.cards import Card
from billing.sandbox.models import SandboxOrder

State = SandboxOrder.State


def preview(order: SandboxOrder, change: Change, now: datetime) -> Preview:
    """What `change` would take now; below 0: more is left of what was paid than it costs."""
    due = _due(order, change, change.as_of or now) if change.at == "now" else 0
    return Preview(due, order.currency)


def make(order_id: str, change: Change, now: datetime) -> Changed:
    """Changes the order now, or notes what it is to become."""
    with transaction.atomic():
        order = _locked(order_id)
        if order.state not in orders.LIVING:
            return Changed("unpaid", "The subscription has ended.")
        if change.at == "period_end":
            _plan(order, change, now)
            return Changed("done")
        return _change_now(order, change, now)


def choose_card(order_id: str, card: Card, now: datetime) -> SandboxOrder:
    """Pays with another card from now on, and what is past due with it at once."""
    with transaction.atomic():
        order = _locked(order_id)
        order.card, order.declines = card.name, card.outcome in ("declined", "later_declined")
        order.save(update_fields=["card", "declines"])
        deliveries.put(order, "subscription.updated", now)
        orders.collect(order, now)
    return order


def pause(order_id: str, now: datetime) -> None:
    """Stops the periods: nothing is paid until `unpause`."""
    with transaction.atomic():
        order = _locked(order_id)
        if order.state in (State.ACTIVE, State.TRIALING, State.PAST_DUE):
            order.state = State.PAUSED
            order.save(update_fields=["state"])
            deliveries.put(order, "subscription.paused", now)


def unpause(order_id: str, now: datetime) -> None:
    """Goes on with the period as it stands; one that is over is renewed, or ends, by `advance`."""
    with transaction.atomic():
        order = _locked(order_id)
        if order.state == State.PAUSED:
            order.state = _state_after_pause(order)
            order.save(update_fields=["state"])
            deliveries.put(order, "subscription.unpaused", now)


def _state_after_pause(order: SandboxOrder) -> SandboxOrder.State:
    if payments.unpaid(order):
        return State.PAST_DUE
    paid_once = order.payments.filter(kind="subscription").exists()
    return State.TRIALING if order.trial_days and not paid_once else State.ACTIVE


def _plan(order: SandboxOrder, change: Change, now: datetime) -> None:
    wanted = _content(change)
    order.next_items = None if wanted == _content_of(order) else wanted
    order.save(update_fields=["next_items"])
    deliveries.put(order, "subscription.updated", now)


def _change_now(order: SandboxOrder, change: Change, now: datetime) -> Changed:
    wanted = _content(change)
    fields = ["next_items"]
    order.next_items = None
    if wanted != _content_of(order):
        due = _due(order, change, change.as_of or now)
        if due > 0:
            text = f"Change to {' + '.join(item.description for item in change.items)}"
            taken = payments.take(order, "change", due, now, description=text[:200])
            if taken.state == payments.State.FAILED:
                deliveries.put(order, "payment.failed", now)
                return Changed("unpaid", taken.failure)
        rhythm = order.interval
        fields += orders.become(order, wanted)
        if order.interval != rhythm and order.state == State.ACTIVE:
            start = (change.as_of or now).replace(microsecond=0)
            order.anchor_day = start.day
            order.period_start, order.period_end = start, orders.period_end(order, start)
            fields += ["anchor_day", "period_start", "period_end"]
    order.save(update_fields=fields)
    deliveries.put(order, "subscription.updated", now)
    return Changed("done")


def _due(order: SandboxOrder, change: Change, at: datetime) -> int:
    """For the rest of the period; for a whole new one, less that rest, where the rhythm changes.

    Nothing in a trial, which has not been paid for.
    """
    if order.state != State.ACTIVE or order.period_start is None or order.period_end is None:
        return 0
    whole = (order.period_end - order.period_start).total_seconds()
    left = Fraction(int((order.period_end - at).total_seconds()), int(whole))
    price = sum(item.amount_minor for item in change.items)
    new = Fraction(price) if change.interval != order.interval else price * left
    return floor(new - order.amount_minor * left + Fraction(1, 2))


def _content(change: Change) -> dict[str, Any]:
    return {"items": [asdict(item) for item in change.items], "interval": change.interval}


def _content_of(order: SandboxOrder) -> dict[str, Any]:
    return {"items": order.items, "interval": order.interval}


def _locked(order_id: str) -> SandboxOrder:
    return SandboxOrder.objects.select_for_update().get(pk=order_id)
