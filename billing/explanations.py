"""Takes an invoice's line apart: its hours, and the entries of the ledger in each of them.

The line keeps what its hours swore to when it was closed; the entries are read from the ledger
as it is. The two agree, or somebody has changed one of them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from django.db.models import BigIntegerField, Count, Q, QuerySet, Sum
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast

from billing import rating
from billing.models import InvoiceLine
from gateway import chain
from gateway.models import CALLS, LedgerHour, UsageEvent
from keys.models import ApiKey


@dataclass(frozen=True)
class Hour:
    """An hour of a line: what it swore to when the invoice was closed."""

    hour: datetime
    digest: str
    events: int
    units: int


@dataclass(frozen=True)
class Found:
    """What the ledger has of an hour of a line now."""

    entries: QuerySet[UsageEvent]
    events: int
    units: int


def hours(line: InvoiceLine) -> list[Hour]:
    """In order of time; their events and units add up to the line's."""
    return [
        Hour(
            datetime.fromisoformat(hour["hour"]).astimezone(UTC),
            hour["digest"],
            hour["events"],
            hour["units"],
        )
        for hour in line.hours
    ]


def found(line: InvoiceLine, hour: Hour) -> Found | None:
    """The line's entries in one of its hours, in the order of digests; None: the hour is gone.

    Entries are dropped from the ledger after their time, hours never are.
    """
    account_id = line.invoice.account_id
    closed = LedgerHour.objects.filter(account_id=account_id, hour=hour.hour).first()
    if closed is None:
        return None
    names = {
        name
        for total in closed.totals
        if total["meter"] == line.meter
        for name in total["split_by"]
    }
    entries = _of_line(chain.entries_of_hour(closed), line, names)
    amount = Cast(KeyTextTransform(line.meter, "units"), BigIntegerField())
    sums = entries.aggregate(events=Count("id"), units=Sum(amount, filter=Q(billable=True)))
    return Found(entries, sums["events"], sums["units"] or 0)


def _of_line(
    entries: QuerySet[UsageEvent], line: InvoiceLine, names: Collection[str]
) -> QuerySet[UsageEvent]:
    """names: the dimensions by which the hour summed the meter; its prices saw no other."""
    used = Q(units__has_key=line.meter)
    if line.meter == CALLS:
        used |= ~Q(outcome=UsageEvent.Outcome.REPORTED)
    entries = entries.filter(
        used,
        _matches(line.selects["filter"], names),
        mode=ApiKey.Mode.LIVE,
        period_start=line.period_start,
        terms_id__in=line.selects["terms"],
    )
    for other in line.selects["except"]:
        entries = entries.exclude(_matches(other, names))
    return entries


def _matches(stored: dict[str, object], names: Collection[str]) -> Q:
    wanted = rating.parse_filter(stored)
    if not {name for name, _ in wanted.dimensions} <= set(names):
        return Q(id__in=())
    condition = Q()
    if wanted.api:
        condition &= Q(api=wanted.api)
    if wanted.operation:
        condition &= Q(operation=wanted.operation)
    if wanted.dimensions:
        condition &= Q(metadata__contains=dict(wanted.dimensions))
    return condition
