"""Which periods get an invoice: opened as purchases and time begin new ones, one after another.

The gateway counts usage into the periods of the account's entitlement, so those are what is
opened, in the transactions that change them. Closes nothing (`billing.invoices` does).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from uuid import UUID

from billing import periods
from billing.models import Invoice
from keys.models import Entitlement


def run_on(account_id: UUID, now: datetime) -> None:
    """Opens the periods that the account's terms as they are have begun up to now."""
    held = running(account_id)
    if held is None:
        return
    boundaries = [datetime.fromtimestamp(boundary, UTC) for boundary in held.periods]
    for start, end in pairwise(boundaries):
        if start > now or (held.ends_at is not None and start >= held.ends_at):
            break
        _open(account_id, start, end)


def begin(account_id: UUID, boundaries: Sequence[datetime]) -> None:
    """Opens the period that new terms begin with; the one before ends there."""
    start, end = (boundary.replace(microsecond=0) for boundary in boundaries[:2])
    _open(account_id, start, end)


def wait(account_id: UUID, since: datetime) -> None:
    """Keeps a period open where none has begun: usage may be recorded late."""
    if not Invoice.objects.filter(account_id=account_id, period_start__gte=since).exists():
        _open(account_id, since, periods.add_months(since, 1, since.day))


def end(account_id: UUID, at: datetime) -> None:
    """Ends the running period with what the account had: its usage is billed without delay."""
    latest = Invoice.objects.filter(account_id=account_id).first()
    at = at.replace(microsecond=0)
    if latest and latest.state == Invoice.State.OPEN and latest.period_start < at:
        Invoice.objects.filter(pk=latest.pk, period_end__gt=at).update(period_end=at)


def running(account_id: UUID) -> Entitlement | None:
    """What the account may do, unless that has ended."""
    alive = Entitlement.objects.exclude(state=Entitlement.State.ENDED)
    return alive.filter(account_id=account_id).first()


def _open(account_id: UUID, start: datetime, end: datetime) -> None:
    """One period after the other: what would begin before the latest one is part of it."""
    latest = Invoice.objects.filter(account_id=account_id).first()
    if latest is None or latest.period_start < start:
        if latest and latest.state == Invoice.State.OPEN and latest.period_end > start:
            Invoice.objects.filter(pk=latest.pk).update(period_end=start)
        Invoice.objects.create(account_id=account_id, period_start=start, period_end=end)
    elif latest.period_start == start and latest.state == Invoice.State.OPEN:
        Invoice.objects.filter(pk=latest.pk).exclude(period_end=end).update(period_end=end)
