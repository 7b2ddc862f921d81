"""Plays the demo's time ahead: a day at a time, and at each stop all that has fallen due there.

A jump of a year would find twelve renewals and invoices at once, at the wrong moment; played so,
each happens when it is due, one after the other, as it would in a year. The clock is moved by
`keys.clock`, where that may be; the sandbox's own world goes by it too.

What it does at a stop is what beat's tasks do, in the order in which they wait for each other;
they go on meanwhile, and whatever both come upon is done once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Q

from billing import (
    allowances,
    auto_top_ups,
    checkout,
    collecting,
    contracts,
    deadlines,
    inbox,
    invoices,
    plan_changes,
    plan_credits,
    price_changes,
    shipping,
    subscriptions,
    topups,
)
from billing.models import ProviderEvent
from billing.sandbox import deliveries, orders
from billing.sandbox.models import SandboxJourney, SandboxOrder
from gateway import chain, ledger
from gateway.alone import alone
from keys import clock, records

log = structlog.get_logger(__name__)

LOCK = "billing.rehearsal"
STRIDE = timedelta(days=1)
LONGEST = timedelta(days=366)
# A moment after a boundary all agree that it is over; those of the same minute are one stop.
PAST = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
# So often is all looked through again at a stop while it finds something to do.
_MOST_PASSES = 20

Work = tuple[str, Callable[[datetime], Iterable[Any]], Callable[[Any, datetime], object]]


@dataclass(frozen=True)
class Journey:
    """How far the way to a later time has been gone; `share` from 0 to 1."""

    began_at: datetime
    until: datetime
    now: datetime

    @property
    def share(self) -> float:
        return max(0.0, min(1.0, (self.now - self.began_at) / (self.until - self.began_at)))


def set_out(by: timedelta) -> datetime:
    """Plans the way to a time that is so much later, from the end of one that is under way.

    `travel` goes it. Returns where it leads. Raises ValueError for less than a second or more
    than a year; `clock.CannotMove`.
    """
    if not settings.CLOCK_CAN_MOVE:
        raise clock.CannotMove
    if not SECOND <= by <= LONGEST:
        raise ValueError("From one second to a year at a time.")
    now = clock.exactly()
    SandboxJourney.objects.get_or_create(pk=1, defaults={"began_at": now, "until": now})
    with transaction.atomic():
        row = SandboxJourney.objects.select_for_update().get(pk=1)
        if row.until <= now:
            row.began_at = row.until = now
        row.until += by
        row.save(update_fields=["began_at", "until"])
    return row.until


def under_way() -> Journey | None:
    now = clock.now()
    row = SandboxJourney.objects.filter(pk=1, until__gt=now).first()
    return Journey(row.began_at, row.until, now) if row else None


def travel(budget_seconds: float = 10) -> bool:
    """Goes on with a journey until it is over or the time is; whether it is over.

    Leaves the way to another that is on it. Not for use in a transaction.
    """
    deadline = time.monotonic() + budget_seconds
    with alone(LOCK) as is_alone:
        while is_alone and under_way() is not None:
            if time.monotonic() > deadline:
                return False
            catch_up()
            if stop := _next_stop():
                clock.move(stop)
        if is_alone:
            catch_up()
    return under_way() is None


def _next_stop() -> timedelta | None:
    """How far it is to the next one; None: the journey is over."""
    now = clock.exactly()
    row = SandboxJourney.objects.filter(pk=1, until__gt=now).first()
    if row is None:
        return None
    ends = SandboxOrder.objects.filter(period_end__gt=now, ended_at=None)
    nearest = ends.order_by("period_end").values_list("period_end", flat=True).first()
    stops = [row.until, now + STRIDE, *([nearest + PAST] if nearest else [])]
    # The clock moves by whole seconds, never short of the stop.
    return timedelta(seconds=-((now - min(stops)) // SECOND))


# ------------------------------------------------------------------ what is due


def catch_up() -> int:
    """Does what has fallen due by now, until a look finds no more; how much was done.

    What fails is logged, and left to be tried at the next stop, as beat would.
    """
    _read_the_ledger()
    done = 0
    for _ in range(_MOST_PASSES):
        orders.advance(clock.now())
        found = 0
        for name, due, do in _WORK:
            for each in list(due(clock.now())):
                found += _succeeds(name, do, each)
        if not found:
            break
        done += found
    return done


def waiting() -> dict[str, int]:
    """How much is due and not done yet, by what it is."""
    now = clock.now()
    counts = {name: sum(1 for _ in due(now)) for name, due, _ in _WORK}
    return {name: count for name, count in counts.items() if count}


def _read_the_ledger() -> None:
    for partition in records.PARTITIONS:
        ledger.drain(partition, clock.exactly)
    shipping.collect(clock.now())
    chain.close_hours(clock.now())


def _succeeds(name: str, do: Callable[[Any, datetime], object], each: Any) -> bool:
    try:
        do(each, clock.now())
    except Exception:  # the edge of one piece of work, as a task of its own is
        log.exception("rehearsal.failed", what=name, which=str(each))
        return False
    return True


def _deliveries(now: datetime) -> Iterable[str]:
    return deliveries.due(now).values_list("pk", flat=True)


def _unread(now: datetime) -> Iterable[int]:
    unread = ProviderEvent.objects.filter(processed_at=None, dead_at=None)
    due = Q(next_attempt_at=None) | Q(next_attempt_at__lte=now)
    return unread.filter(due).order_by("pk").values_list("pk", flat=True)


def _to_advance(now: datetime) -> Iterable[UUID]:
    return deadlines.due(now) | contracts.due_to_advance(now)


def _advance(account_id: UUID, now: datetime) -> None:
    deadlines.advance(account_id, now)
    contracts.advance(account_id, now)


def _to_renew(now: datetime) -> Iterable[UUID]:
    return subscriptions.due_for_sync(now).values_list("pk", flat=True)


def _to_tell(_: datetime) -> Iterable[UUID]:
    return plan_changes.to_tell().values_list("pk", flat=True)


def _to_charge(now: datetime) -> Iterable[UUID]:
    return collecting.due_charges(now).values_list("pk", flat=True)


def _to_refund(now: datetime) -> Iterable[UUID]:
    return collecting.due_refunds(now).values_list("pk", flat=True)


def _to_begin(now: datetime) -> Iterable[UUID]:
    return set(plan_credits.due(now).values_list("account_id", flat=True))


def _to_close(_: datetime) -> Iterable[UUID]:
    return invoices.due_to_close()


# What waits for time, each thing after those that it waits for.
_WORK: tuple[Work, ...] = (
    ("deliveries to send", _deliveries, deliveries.send),
    ("deliveries to read", _unread, inbox.process),
    ("checkouts to ask about", checkout.due_for_sync, checkout.sync),
    ("top-ups to ask about", topups.due_for_sync, topups.sync),
    ("accounts whose time has come", _to_advance, _advance),
    ("subscriptions to ask about", _to_renew, subscriptions.sync),
    ("prices to change", price_changes.due_to_advance, price_changes.advance),
    ("changes to tell a provider of", _to_tell, plan_changes.tell),
    ("months that bring credits", _to_begin, allowances.begin_months),
    ("credits to buy", auto_top_ups.due, auto_top_ups.buy),
    ("invoices to close", _to_close, invoices.close_due),
    ("charges", _to_charge, collecting.send_charge),
    ("refunds", _to_refund, collecting.send_refund),
    ("providers to tell of usage", shipping.providers_due, shipping.send),
)
