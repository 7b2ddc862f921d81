"""The time that periods, prices and the ledger go by: the real one.

In a demo that sells through the sandbox, staff may move it ahead, to see a year in a minute. The
shift is an offset, kept in Postgres and told to the data plane; it only ever grows. Rates,
deadlines, signatures and browser sessions go by the real time.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from django.conf import settings
from django.utils import timezone

from keys.models import ClockShift

_REMEMBERED_SECONDS = 1
_remembered: tuple[float, timedelta] = (float("-inf"), timedelta())


def now() -> datetime:
    """The moment it is, UTC. A shift made by another process is seen within a second."""
    return timezone.now() + (shift() if settings.CLOCK_CAN_MOVE else timedelta())


def shift() -> timedelta:
    """How far ahead of the real time it is; asks Postgres once a second."""
    global _remembered
    asked_at, held = _remembered
    if time.monotonic() - asked_at >= _REMEMBERED_SECONDS:
        row = ClockShift.objects.filter(pk=ClockShift.ONLY).first()
        held = timedelta(seconds=row.seconds if row else 0)
        _remembered = (time.monotonic(), held)
    return held
