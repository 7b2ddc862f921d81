"""Recomputes the ledger's closed hours and says which don't hold what they swore to.

Reads all of it, changes nothing. What it can't see: the newest hours of an account being
removed together with their entries and the rollup. Those who keep an export or an invoice
have the digests of them (docs/ledger.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import groupby
from typing import Any
from uuid import UUID

from django.db import DataError, connection
from django.db.models import QuerySet
from psycopg.errors import InvalidTextRepresentation, NumericValueOutOfRange

from gateway import chain, cloudevents, partitions
from gateway.cloudevents import Entry
from gateway.models import LedgerHour, UsageEvent, UsageRollup

EVERYTHING = datetime.min.replace(tzinfo=UTC)

UNREADABLE = (InvalidTextRepresentation, NumericValueOutOfRange)

# One statement sees one state of both tables, whatever is drained meanwhile.
ROLLUP_DIFFERENCES = """
WITH entry AS (
    SELECT mode, period_start, terms_id, api, operation, meter,
        sum(calls) AS calls, sum(amount) AS units,
        sum(CASE WHEN billable THEN amount ELSE 0 END) AS billable
    FROM gateway_usageevent CROSS JOIN LATERAL (
        SELECT 'calls' AS meter, 1 AS calls, coalesce((units ->> 'calls')::bigint, 0) AS amount
        WHERE outcome <> 'reported'
        UNION ALL
        SELECT key, 0, value::bigint FROM jsonb_each_text(
            CASE jsonb_typeof(units) WHEN 'object' THEN units ELSE '{}' END
        )
        WHERE key <> 'calls' OR outcome = 'reported'
    ) AS used
    WHERE account_id = %(account)s AND admitted_at >= %(start)s
    GROUP BY 1, 2, 3, 4, 5, 6
), rolled AS (
    SELECT mode, period_start, terms_id, api, operation, meter,
        sum(calls) AS calls, sum(units) AS units, sum(billable_units) AS billable
    FROM gateway_usagerollup
    WHERE account_id = %(account)s AND quarter >= %(start)s
        AND date_trunc('month', quarter AT TIME ZONE 'UTC')::date = ANY(%(months)s)
    GROUP BY 1, 2, 3, 4, 5, 6
)
SELECT mode, api, operation, meter,
    coalesce(entry.calls, 0), coalesce(rolled.calls, 0),
    coalesce(entry.units, 0), coalesce(rolled.units, 0),
    coalesce(entry.billable, 0), coalesce(rolled.billable, 0)
FROM entry FULL JOIN rolled USING (mode, period_start, terms_id, api, operation, meter)
WHERE (entry.calls, entry.units, entry.billable)
    IS DISTINCT FROM (rolled.calls, rolled.units, rolled.billable)
ORDER BY 1, 2, 3, 4
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that isn't as it was sworn. `hour` is None where no single one is meant."""

    account_id: UUID
    hour: datetime | None
    what: str


@dataclass(slots=True)
class Audit:
    """One run, which counts what it has seen.

    since: hours and quarter hours from here on
    on_hour: called after each hour that was checked
    retired: hours with entries that retention may have removed: what they say is still sworn to,
    their entries can't be counted any more
    """

    since: datetime
    on_hour: Callable[[], None]
    months: frozenset[date] = field(init=False)
    accounts: int = 0
    hours: int = 0
    entries: int = 0
    retired: int = 0

    def __post_init__(self) -> None:
        self.months = frozenset(partitions.months())

    def faults(self, account_id: UUID) -> Iterator[Fault]:
        """The account's, in the order of hours, then those of its rollup."""
        self.accounts += 1
        yield from self._of_hours(account_id, chain.closed_until() or EVERYTHING)
        yield from self._of_rollup(account_id)

    def _of_hours(self, account_id: UUID, until: datetime) -> Iterator[Fault]:
        """Walks the account's entries and its hours side by side."""
        mine = LedgerHour.objects.filter(account_id=account_id)
        closed = mine.filter(hour__gte=self.since, hour__lt=until).order_by("hour")
        before = mine.filter(hour__lt=self.since).order_by("-hour").first()
        previous = before.digest if before else ""
        recorded = chain.stream(chain.entries_of(account_id, self.since, until))
        by_hour = groupby(recorded, key=lambda entry: chain.floor(entry.recorded_at))
        held = next(by_hour, None)
        for hour in closed.iterator(chunk_size=500):
            self.hours += 1
            while held is not None and held[0] < hour.hour:
                yield self._unclosed(account_id, *held)
                held = next(by_hour, None)
            entries: Iterable[Entry] = ()
            if held is not None and held[0] == hour.hour:
                entries = held[1]
            for what in self._of_hour(hour, previous, entries):
                yield Fault(account_id, hour.hour, what)
            if held is not None and held[0] == hour.hour:
                held = next(by_hour, None)
            previous = hour.digest
            self.on_hour()
        while held is not None:
            yield self._unclosed(account_id, *held)
            held = next(by_hour, None)

    def _of_hour(self, hour: LedgerHour, previous: str, entries: Iterable[Entry]) -> Iterator[str]:
        sums, unreadable = chain.Sums(_declared(hour.totals)), 0
        for entry in entries:
            self.entries += 1
            try:
                sums.add(entry)
            except (AttributeError, TypeError, ValueError):
                unreadable += 1
        if hour.previous != previous:
            yield "it doesn't follow the hour before it: one was changed, removed or put in"
        if hour.digest != cloudevents.hour_digest(hour):
            yield "its own digest is not that of what it says"
        if not self.months.issuperset(_months_of(hour)):
            self.retired += 1
        elif unreadable:
            yield f"{unreadable} of its entries can't be read"
        elif sums.entries != hour.entries:
            yield f"it was closed with {hour.entries} entries and has {sums.entries}"
        elif sums.entries_digest != hour.entries_digest:
            yield "an entry was changed, or one exchanged for another"
        elif sums.totals != hour.totals:
            yield "its totals are not those of its entries"

    def _unclosed(self, account_id: UUID, hour: datetime, entries: Iterable[Any]) -> Fault:
        count = sum(1 for _ in entries)
        self.entries += count
        return Fault(account_id, hour, f"it has {count} entries and no closed hour")

    def _of_rollup(self, account_id: UUID) -> Iterator[Fault]:
        given: dict[str, Any] = {
            "account": account_id,
            "start": self.since,
            "months": list(self.months),
        }
        try:
            with connection.cursor() as cursor:
                cursor.execute(ROLLUP_DIFFERENCES, given)
                differences = cursor.fetchall()
        except DataError as error:
            if not isinstance(error.__cause__, UNREADABLE):
                raise
            yield Fault(account_id, None, "its units can't be summed: some are no numbers")
            return
        for mode, api, operation, meter, *figures in differences:
            entries, rolled = (f"{c}/{u}/{b}" for c, u, b in (figures[::2], figures[1::2]))
            what = (
                f"{mode} {api} {operation}, {meter}: calls/units/billable are {entries} in the "
                f"ledger and {rolled} in the rollup"
            )
            yield Fault(account_id, None, what)


def accounts() -> list[UUID]:
    """All that ever had usage."""
    models: tuple[type[LedgerHour | UsageEvent | UsageRollup], ...]
    models = (LedgerHour, UsageEvent, UsageRollup)
    found: set[UUID] = set()
    for model in models:
        ids: QuerySet[Any] = model.objects.order_by().values_list("account_id", flat=True)
        found.update(ids.distinct())
    return sorted(found)


def _months_of(hour: LedgerHour) -> Iterator[date]:
    """The months that the hour's entries may have been admitted in."""
    first, last = (
        at.astimezone(UTC).date() for at in (hour.earliest_admitted_at, hour.latest_admitted_at)
    )
    for number in range(first.year * 12 + first.month - 1, last.year * 12 + last.month):
        yield date(number // 12, number % 12 + 1, 1)


def _declared(totals: list[dict[str, Any]]) -> dict[str, list[str]]:
    """By meter, the dimensions that it had when the hour was closed."""
    try:
        return {total["meter"]: list(total["split_by"]) for total in totals}
    except (KeyError, TypeError):
        return {}  # nobody's totals; those of the entries will be different
