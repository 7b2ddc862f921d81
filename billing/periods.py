"""Billing periods: half-open, UTC, months anchored on a day. Reads no clock.

Anchored means that a shorter month ends sooner and the next one returns to the anchor:
31 January → 28 February → 31 March. Periods of usage are months for yearly plans too.
"""

from calendar import monthrange
from datetime import datetime
from itertools import count

# Boundaries that an entitlement carries past the current period's start: two years, so that
# a renewal that is late, or a billing that is away, never leaves the gateway without a period.
AHEAD = 24


def add_months(moment: datetime, months: int, anchor_day: int) -> datetime:
    """The same time of day that many months on, on the anchor day or the month's last."""
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    day = min(anchor_day, monthrange(year, month + 1)[1])
    return moment.replace(year=year, month=month + 1, day=day)


def anchor(start: datetime, anchor_day: int) -> int:
    """The anchor of periods of which one begins at `start`: the known one, if it fits."""
    fits = start.day == min(anchor_day, monthrange(start.year, start.month)[1])
    return anchor_day if fits else start.day


def boundaries(
    start: datetime, end: datetime, *, months: int, anchor_day: int, now: datetime
) -> list[datetime]:
    """Starts of usage periods, ascending: that of the period around `now`, then `AHEAD` more.

    `start` and `end` are those of the billing period of so many months, as its provider says;
    past its end the months run on from there. Before `start` the first period is the current.
    """
    known = [start, *(add_months(start, month, anchor_day) for month in range(1, months)), end]
    further = count(1)
    while sum(boundary > now for boundary in known) < AHEAD:
        known.append(add_months(end, next(further), anchor_day))
    current = max(sum(boundary <= now for boundary in known), 1)
    return known[current - 1 : current + AHEAD]
