"""Closes the ledger's hours: each account's gets a digest of its entries and of the hour before.

An hour holds what was recorded in it, whenever it was admitted. It is closed once
`recording.seal` says that nothing more can be recorded in it, once and in order, for every
account that has entries there. What a closed hour says is never changed: a late row is
recorded, and thereby closed, later. `gateway.audit` recomputes all of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from typing import Any
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import Min, QuerySet

from gateway import cloudevents, recording
from gateway.alone import alone
from gateway.cloudevents import HOUR, Entry
from gateway.entries import dimensions
from gateway.models import LedgerClosing, LedgerHour, Meter, UsageEvent
from keys.models import ApiKey

log = structlog.get_logger(__name__)

LOCK = "gateway.chain"
ROWS_AT_ONCE = 2000


def closed_until() -> datetime | None:
    """All hours before it are closed, and those from it on are not; None: none yet."""
    return LedgerClosing.objects.values_list("closed_until", flat=True).first()


def close_hours(now: datetime) -> int:
    """Closes the hours that are over; how many of them had entries.

    A transaction for each hour: killed in between, it goes on where it was. Leaves the work to
    another that is at it. Must not be called in a transaction.
    """
    closed = closed_until()
    if closed is not None and closed >= floor(now):
        return 0
    with alone(LOCK) as is_alone:
        if not is_alone:
            return 0
        with transaction.atomic():
            end = floor(recording.seal(now))
        return _close_before(end, now)


def entries_of(account_id: UUID, start: datetime, end: datetime) -> QuerySet[UsageEvent]:
    """What was recorded for the account from `start` until `end`, in the order of digests."""
    return UsageEvent.objects.filter(
        account_id=account_id, recorded_at__gte=start, recorded_at__lt=end
    ).order_by("recorded_at", "id")


def entries_of_hour(hour: LedgerHour) -> QuerySet[UsageEvent]:
    """The entries of a closed hour, found by the index on admission."""
    admitted = (hour.earliest_admitted_at, hour.latest_admitted_at)
    return entries_of(hour.account_id, hour.hour, hour.hour + HOUR).filter(
        admitted_at__range=admitted
    )


def stream(events: QuerySet[UsageEvent]) -> Iterator[Any]:
    """The events as `cloudevents.Entry`, read little by little through a cursor of the server's.

    Outside of a transaction the server keeps the result aside and no lock on the ledger: who
    reads slowly is in nobody's way.
    """
    rows = events.values_list(*cloudevents.COLUMNS, named=True)
    return rows.iterator(chunk_size=ROWS_AT_ONCE)


def floor(at: datetime) -> datetime:
    """The start of the moment's hour, UTC."""
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


class Sums:
    """What an hour swears to about its entries, which are added in their order.

    declared: by meter, the dimensions that its usage is summed by
    """

    def __init__(self, declared: Mapping[str, list[str]]) -> None:
        self.entries = 0
        self.earliest_admitted_at = self.latest_admitted_at = datetime.min.replace(tzinfo=UTC)
        self._digest = hashlib.sha256()
        self._declared = declared
        self._groups: dict[tuple[str, ...], list[int]] = {}

    def add(self, entry: Entry) -> None:
        self._digest.update(cloudevents.entry_line(entry))
        if not self.entries or entry.admitted_at < self.earliest_admitted_at:
            self.earliest_admitted_at = entry.admitted_at
        self.latest_admitted_at = max(self.latest_admitted_at, entry.admitted_at)
        self.entries += 1
        if entry.mode != ApiKey.Mode.LIVE:
            return
        period = cloudevents.moment(entry.period_start)
        for meter, units in _used(entry):
            split = dimensions(entry.metadata, self._declared.get(meter, ()))
            key = (period, entry.terms_id, entry.api, entry.operation, meter, split)
            group = self._groups.setdefault(key, [0, 0, 0])
            group[0] += 1
            group[1] += units
            group[2] += units if entry.billable else 0

    @property
    def entries_digest(self) -> str:
        return self._digest.hexdigest()

    @property
    def totals(self) -> list[dict[str, Any]]:
        """Live usage, sorted by what it is summed by. `split_by`: what dimensions might have been
        there, without which nobody could sum again what has none.
        """
        return [
            {
                "period": period,
                "terms": terms,
                "api": api,
                "operation": operation,
                "meter": meter,
                "dimensions": json.loads(split or "{}"),
                "split_by": sorted(self._declared.get(meter, ())),
                "events": events,
                "units": units,
                "billable": billable,
            }
            for (period, terms, api, operation, meter, split), (events, units, billable) in sorted(
                self._groups.items()
            )
        ]


def _used(entry: Entry) -> Iterator[tuple[str, int]]:
    """Units by meter as the rollup has them: each call has `calls`, if none of them."""
    if entry.outcome != UsageEvent.Outcome.REPORTED and "calls" not in entry.units:
        yield "calls", 0
    yield from entry.units.items()


def _close_before(end: datetime, now: datetime) -> int:
    hour = closed_until() or _next_recorded(datetime.min.replace(tzinfo=UTC), end)
    declared = dict(Meter.objects.exclude(dimensions=[]).values_list("name", "dimensions"))
    closed = 0
    while hour < end:
        found = list(_hours(hour, declared, now))
        following = hour + HOUR if found else _next_recorded(hour, end)
        with transaction.atomic():
            LedgerHour.objects.bulk_create(found, batch_size=500)
            LedgerClosing.objects.update_or_create(pk=1, defaults={"closed_until": following})
        if found:
            closed += 1
            log.info("hour.closed", hour=hour.isoformat(), accounts=len(found))
        hour = following
    if closed_until() is None:
        LedgerClosing.objects.create(pk=1, closed_until=end)
    return closed


def _hours(hour: datetime, declared: Mapping[str, list[str]], now: datetime) -> Iterator[Any]:
    """The hour of each account that has entries in it, chained and not yet stored."""
    recorded = UsageEvent.objects.filter(recorded_at__gte=hour, recorded_at__lt=hour + HOUR)
    rows = stream(recorded.order_by("account_id", "recorded_at", "id"))
    for account_id, entries in groupby(rows, key=attrgetter("account_id")):
        sums = Sums(declared)
        for entry in entries:
            sums.add(entry)
        before = LedgerHour.objects.filter(account_id=account_id).order_by("-hour").first()
        made = LedgerHour(
            account_id=account_id,
            hour=hour,
            entries=sums.entries,
            entries_digest=sums.entries_digest,
            totals=sums.totals,
            earliest_admitted_at=sums.earliest_admitted_at,
            latest_admitted_at=sums.latest_admitted_at,
            previous=before.digest if before else "",
            closed_at=now,
        )
        made.digest = cloudevents.hour_digest(made)
        yield made


def _next_recorded(start: datetime, end: datetime) -> datetime:
    """The first hour from `start` on in which something was recorded; `end` if none before it."""
    recorded = UsageEvent.objects.filter(recorded_at__gte=start, recorded_at__lt=end)
    first: datetime | None = recorded.aggregate(first=Min("recorded_at"))["first"]
    return end if first is None else floor(first)
