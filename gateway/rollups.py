"""Adds entries that are new in the ledger to its sums, from which pages and billing read.

Usage, latencies and credits drawn. Who adds is `gateway.recording`, in the transaction that
stored the entries; nothing else changes a sum.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection

from gateway import histogram
from gateway.entries import EPOCH, Entry, dimensions
from gateway.models import CALLS, Meter, UsageEvent

QUARTER = timedelta(minutes=15)

Row = tuple[Any, ...]

USAGE = {
    "account_id": "uuid",
    "quarter": "timestamptz",
    "key_id": "uuid",
    "api": "text",
    "operation": "text",
    "meter": "text",
    "dimensions": "text",
    "status_class": "smallint",
    "mode": "text",
    "period_start": "timestamptz",
    "terms_id": "text",
}
USAGE_SUMS = (
    "calls",
    "units",
    "billable_units",
    "latency_us_sum",
    "request_bytes_sum",
    "response_bytes_sum",
)
LATENCY = {
    "account_id": "uuid",
    "quarter": "timestamptz",
    "api": "text",
    "operation": "text",
    "mode": "text",
    "bucket": "smallint",
}
CREDIT = {"grant_id": "bigint", "account_id": "uuid"}
CREDIT_DAY = {"account_id": "uuid", "day": "date"}


def add(entries: Sequence[Entry]) -> None:
    """Adds each entry to the sums that it belongs to."""
    _add("gateway_usagerollup", USAGE, tuple(USAGE), USAGE_SUMS, _usage(entries))
    _add("gateway_latencyrollup", LATENCY, tuple(LATENCY), ("calls",), _latencies(entries))
    _add("gateway_credituse", CREDIT, ("grant_id",), ("credits",), _credits(entries))
    _add("gateway_creditday", CREDIT_DAY, tuple(CREDIT_DAY), ("credits",), _credit_days(entries))


def _usage(entries: Iterable[Entry]) -> list[Row]:
    """Rows of `UsageRollup`. A call has one for the meter `calls`, which alone counts it, and one
    for every other meter that it used; what was reported later has rows for what it used only.
    """
    declared = dict(Meter.objects.exclude(dimensions=[]).values_list("name", "dimensions"))
    sums: defaultdict[Row, list[int]] = defaultdict(lambda: [0] * 6)
    for entry in entries:
        is_call = entry.outcome != UsageEvent.Outcome.REPORTED
        for meter, units in ({CALLS: 0} | entry.units if is_call else entry.units).items():
            key = (
                entry.account_id,
                _quarter(entry),
                entry.key_id,
                entry.api,
                entry.operation,
                meter,
                dimensions(entry.metadata, declared[meter]) if meter in declared else "",
                entry.status // 100,
                entry.mode,
                entry.period_start,
                entry.terms_id,
            )
            sum_ = sums[key]
            sum_[1] += units
            if entry.billable:
                sum_[2] += units
            if is_call and meter == CALLS:
                sum_[0] += 1
                sum_[3] += entry.latency_us
                sum_[4] += entry.request_bytes
                sum_[5] += entry.response_bytes
    return [(*key, *sum_) for key, sum_ in sums.items()]


def _latencies(entries: Iterable[Entry]) -> list[Row]:
    """Rows of `LatencyRollup`, of calls that came to an end."""
    calls = Counter(
        (
            entry.account_id,
            _quarter(entry),
            entry.api,
            entry.operation,
            entry.mode,
            bisect_right(histogram.BOUNDS_US, entry.latency_us),
        )
        for entry in entries
        if entry.outcome == UsageEvent.Outcome.COMPLETED
    )
    return [(*key, count) for key, count in calls.items()]


def _credits(entries: Iterable[Entry]) -> list[Row]:
    """Rows of `CreditUse`."""
    drawn: Counter[tuple[int, UUID]] = Counter()
    for entry in entries:
        for grant, part in (entry.credits or {}).items():
            drawn[int(grant), entry.account_id] += part
    return [(*key, total) for key, total in drawn.items()]


def _credit_days(entries: Iterable[Entry]) -> list[Row]:
    """Rows of `CreditDay`."""
    drawn: Counter[tuple[UUID, date]] = Counter()
    for entry in entries:
        if entry.credits:
            drawn[entry.account_id, entry.admitted_at.astimezone(UTC).date()] += sum(
                entry.credits.values()
            )
    return [(*key, total) for key, total in drawn.items()]


def _quarter(entry: Entry) -> datetime:
    return entry.admitted_at - (entry.admitted_at - EPOCH) % QUARTER


def _add(
    table: str, key: dict[str, str], unique: Sequence[str], sums: Sequence[str], rows: list[Row]
) -> None:
    """Adds the rows to a table's sums; sorted, so that any two who add lock them in one order.

    key:  the columns that come first in a row, with their types; the sums follow
    """
    if not rows:
        return
    columns = key | dict.fromkeys(sums, "bigint")
    given = json.dumps(
        [dict(zip(columns, row, strict=True)) for row in sorted(rows)],
        default=str,
        ensure_ascii=False,
    )
    query = f"""
        INSERT INTO {table} AS held ({", ".join(columns)})
        SELECT * FROM json_to_recordset(%s) AS given({", ".join(map(" ".join, columns.items()))})
        ON CONFLICT ({", ".join(unique)})
        DO UPDATE SET {", ".join(f"{name} = held.{name} + excluded.{name}" for name in sums)}
    """  # noqa: S608 - only names that stand above are put in
    with connection.cursor() as cursor:
        cursor.execute(query, [given])
