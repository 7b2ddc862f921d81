"""What a customer takes away: the ledger's entries as JSON lines or CSV, and usage by day.

An export covers whole hours of `recorded_at`, in the order in which usage was recorded, so that
a file holds just what its hours swear to. It is read and written piece by piece: its size makes
no difference to memory, nor its reader's pace to anybody else.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

from django.db import connection
from django.db.models import Sum
from django.db.models.functions import TruncDate

from gateway import chain, cloudevents
from gateway.cloudevents import HOUR, Entry, canonical, moment
from gateway.models import LedgerHour, UsageRollup
from keys.models import ApiKey

Format = Literal["jsonl", "csv"]

PIECE_BYTES = 64 * 1024
AT_ONCE = 8
"""Exports that may run at the same time: each holds a connection to Postgres."""
AT_ONCE_PER_ACCOUNT = 2
LOCKS, ACCOUNT_LOCKS = 0x6B73_4000, 0x6B73_4100

CSV_COLUMNS = (
    "id",
    "admitted_at",
    "recorded_at",
    "key",
    "api",
    "operation",
    "mode",
    "outcome",
    "status",
    "code",
    "billable",
    "latency_us",
    "upstream_us",
    "request_bytes",
    "response_bytes",
    "period",
    "terms",
    "metadata",
    "credits",
)
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


class Piece(NamedTuple):
    """Some bytes of an export, and the entries told of in it."""

    data: bytes
    entries: int


@dataclass(frozen=True, slots=True)
class Export:
    """An account's entries recorded from `start` until `end`, widened to whole hours."""

    account_id: UUID
    start: datetime
    end: datetime

    @classmethod
    def of(cls, account_id: UUID, start: datetime, end: datetime) -> Export:
        whole = chain.floor(end)
        return cls(account_id, chain.floor(start), whole if whole == end else whole + HOUR)

    def count(self) -> int:
        """The entries that there are now. Closed hours know their own."""
        closed = self._closed_until()
        counted = self._hours(closed).aggregate(entries=Sum("entries"))["entries"] or 0
        return int(counted) + chain.entries_of(self.account_id, closed, self.end).count()

    def pieces(self, format_: Format) -> Generator[Piece, None, None]:
        """The whole of it; closed, it ends its query."""
        return _collected(self._jsonl() if format_ == "jsonl" else self._csv())

    def _jsonl(self) -> Iterator[Piece]:
        """CloudEvents, a line each: entries, after those of a closed hour the hour itself."""
        for row in self._rows():
            if isinstance(row, LedgerHour):
                yield Piece(cloudevents.hour_line(row), 0)
            else:
                yield Piece(cloudevents.entry_line(row), 1)

    def _csv(self) -> Iterator[Piece]:
        """RFC 4180, a row for each entry, its units in a column for each meter."""
        meters = self._meters()
        yield Piece(_csv_row([*CSV_COLUMNS, *(f"units.{meter}" for meter in meters)]), 0)
        for row in self._rows():
            if not isinstance(row, LedgerHour):
                yield Piece(_csv_row(_cells(row, meters)), 1)

    def _rows(self) -> Iterator[Any]:
        """Entries, and each closed hour after its own."""
        closed = self._closed_until()
        for hour in self._hours(closed).order_by("hour").iterator(chunk_size=100):
            yield from chain.stream(chain.entries_of_hour(hour))
            yield hour
        yield from chain.stream(chain.entries_of(self.account_id, closed, self.end))

    def _closed_until(self) -> datetime:
        """Up to where in the range hours are closed."""
        return max(self.start, chain.closed_until() or self.start)

    def _hours(self, closed: datetime) -> Any:
        return LedgerHour.objects.filter(
            account_id=self.account_id, hour__gte=self.start, hour__lt=min(self.end, closed)
        )

    def _meters(self) -> list[str]:
        """All that the account ever used, `calls` first."""
        used = UsageRollup.objects.filter(account_id=self.account_id)
        names = set(used.order_by().values_list("meter", flat=True).distinct())
        return ["calls", *sorted(names - {"calls"})]


class Place:
    """One of the places for exports. The database session holds it, and gives it up if it ends."""

    def __init__(self, locks: list[tuple[int, int]]) -> None:
        self._locks = locks

    @classmethod
    def take(cls, account_id: UUID) -> Place | None:
        """None if the account has as many exports running as one may have, or all have."""
        own = account_id.int & 0x7FFF_FFFF
        mine = _first_free((ACCOUNT_LOCKS + number, own) for number in range(AT_ONCE_PER_ACCOUNT))
        if mine is None:
            return None
        place = cls([mine])
        anybodys = _first_free((LOCKS + number, 0) for number in range(AT_ONCE))
        if anybodys is None:
            place.leave()
            return None
        place._locks.append(anybodys)
        return place

    def leave(self) -> None:
        while self._locks:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s, %s)", self._locks.pop())


@dataclass(frozen=True, slots=True)
class DayUsage:
    """Live usage of one day (UTC, by admission), operation and meter."""

    day: date
    api: str
    operation: str
    meter: str
    calls: int
    units: int
    billable_units: int


def by_day(account_id: UUID, start: datetime, end: datetime) -> list[DayUsage]:
    """Reads the rollup, in quarter hours from `start` until `end`."""
    rows = (
        UsageRollup.objects.filter(
            account_id=account_id, mode=ApiKey.Mode.LIVE, quarter__gte=start, quarter__lt=end
        )
        .values("api", "operation", "meter", day=TruncDate("quarter", tzinfo=UTC))
        .annotate(all=Sum("calls"), used=Sum("units"), billable=Sum("billable_units"))
        .order_by("day", "api", "operation", "meter")
    )
    return [
        DayUsage(
            day=row["day"],
            api=row["api"],
            operation=row["operation"],
            meter=row["meter"],
            calls=row["all"],
            units=row["used"],
            billable_units=row["billable"],
        )
        for row in rows
    ]


def _collected(small: Iterable[Piece]) -> Generator[Piece, None, None]:
    """The same bytes in larger pieces."""
    parts: list[bytes] = []
    size = entries = 0
    for piece in small:
        parts.append(piece.data)
        size += len(piece.data)
        entries += piece.entries
        if size >= PIECE_BYTES:
            yield Piece(b"".join(parts), entries)
            parts, size, entries = [], 0, 0
    yield Piece(b"".join(parts), entries)


def _cells(entry: Entry, meters: list[str]) -> list[object]:
    return [
        entry.id,
        moment(entry.admitted_at),
        moment(entry.recorded_at),
        entry.key_id,
        entry.api,
        entry.operation,
        entry.mode,
        entry.outcome,
        entry.status,
        entry.code,
        "yes" if entry.billable else "no",
        entry.latency_us,
        entry.upstream_us,
        entry.request_bytes,
        entry.response_bytes,
        moment(entry.period_start),
        entry.terms_id,
        canonical(entry.metadata) if entry.metadata else "",
        canonical(entry.credits) if entry.credits else "",
        *(entry.units.get(meter, "") for meter in meters),
    ]


def _csv_row(cells: list[Any]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerow([_harmless(cell) for cell in cells])
    return out.getvalue().encode()


def _harmless(cell: object) -> object:
    """Text that a spreadsheet would take for a formula is marked as text."""
    if isinstance(cell, str) and cell.startswith(FORMULA_STARTS):
        return f"'{cell}"
    return cell


def _first_free(locks: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
    with connection.cursor() as cursor:
        for lock in locks:
            cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", lock)
            if cursor.fetchone() == (True,):
                return lock
    return None
