"""The time that periods, prices and the ledger go by: the real one.

In a demo that sells through the sandbox, staff may move it ahead, to see a year in a minute. The
shift is an offset, kept in Postgres and told to the data plane; it only ever grows. Rates,
deadlines, signatures and browser sessions go by the real time.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from keys import publish
from keys.models import ClockShift

log = structlog.get_logger(__name__)

MOST = timedelta(days=100 * 365)
"""Ahead of the real time; the ledger takes no event from after 2200."""
_REMEMBERED_SECONDS = 1
_NEVER = (float("-inf"), timedelta())
_remembered = _NEVER


class CannotMove(Exception):
    """Money moves here, or may: time goes as it goes."""


def now() -> datetime:
    """The moment it is, UTC. A shift made by another process is seen within a second."""
    return timezone.now() + shift()


def exactly() -> datetime:
    """The same, with every shift that anybody was told of: asks Postgres now."""
    forget()
    return now()


def shift() -> timedelta:
    """How far ahead of the real time it is; asks Postgres once a second."""
    global _remembered
    if not settings.CLOCK_CAN_MOVE:
        return timedelta()
    asked_at, held = _remembered
    if time.monotonic() - asked_at >= _REMEMBERED_SECONDS:
        row = ClockShift.objects.filter(pk=ClockShift.ONLY).first()
        held = timedelta(seconds=row.seconds if row else 0)
        _remembered = (time.monotonic(), held)
    return held


def forget() -> None:
    """Lets the next question be asked of Postgres."""
    global _remembered
    _remembered = _NEVER


def move(by: timedelta) -> timedelta:
    """Moves the time ahead by whole seconds; how far ahead it is then.

    The data plane is told after commit; a Redis that is away hears of it within seconds of its
    return. Raises `CannotMove`; ValueError where it is not ahead, or too far.
    """
    if not settings.CLOCK_CAN_MOVE:
        raise CannotMove
    seconds = by // timedelta(seconds=1)
    if seconds < 1:
        raise ValueError("The clock moves ahead, by a second at least.")
    with transaction.atomic():
        ClockShift.objects.get_or_create(pk=ClockShift.ONLY)
        row = ClockShift.objects.select_for_update().get(pk=ClockShift.ONLY)
        if timedelta(seconds=row.seconds + seconds) > MOST:
            raise ValueError("That is more than a hundred years ahead.")
        ClockShift.objects.filter(pk=row.pk).update(seconds=F("seconds") + seconds)
        forget()
        transaction.on_commit(forget)
        publish.on_commit(publish.clock_shift)
    log.info("clock.moved", seconds=seconds, ahead_seconds=row.seconds + seconds)
    return timedelta(seconds=row.seconds + seconds)
