"""Puts entries into the ledger and its rollups, in one statement and at the ledger's own time.

Whoever writes holds a partition's lock until its transaction ends. `recorded_at` is given out
under it and only grows, so that time which is sealed never gets another row: hours are closed
and usage is shipped by that, and neither looks back.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import connection

from gateway import histogram
from gateway.entries import Entry
from keys import records

LOCK = 0x6B73_1000  # plus the partition

COLUMNS = {
    "id": "uuid",
    "admitted_at": "timestamptz",
    "account_id": "uuid",
    "key_id": "uuid",
    "api": "text",
    "operation": "text",
    "mode": "text",
    "outcome": "text",
    "status": "int",
    "code": "text",
    "billable": "boolean",
    "units": "jsonb",
    "metadata": "jsonb",
    "latency_us": "bigint",
    "upstream_us": "bigint",
    "request_bytes": "bigint",
    "response_bytes": "bigint",
    "period_start": "timestamptz",
    "terms_id": "text",
    "credits": "jsonb",
}

# Each call has a row for the meter `calls`, which alone counts it, and one for every other
# meter it used; a reported use has rows for what it used only. Sorted, so that two drains lock
# rollup rows in one order.
STORE = f"""
WITH fresh AS (
    INSERT INTO gateway_usageevent ({", ".join(COLUMNS)}, recorded_at)
    SELECT given.*, %(recorded_at)s
    FROM json_to_recordset(%(entries)s) AS given({", ".join(map(" ".join, COLUMNS.items()))})
    ON CONFLICT DO NOTHING
    RETURNING *
), metered AS (
    SELECT fresh.*, used.*, coalesce(split.dimensions, '') AS dimensions
    FROM fresh CROSS JOIN LATERAL (
        SELECT 'calls' AS meter, 1 AS calls, coalesce((units ->> 'calls')::bigint, 0) AS amount
        WHERE outcome <> 'reported'
        UNION ALL
        SELECT key, 0, value::bigint FROM jsonb_each_text(units)
        WHERE key <> 'calls' OR outcome = 'reported'
    ) AS used
    LEFT JOIN LATERAL (
        SELECT json_object_agg(key, metadata ->> key ORDER BY key)::text AS dimensions
        FROM gateway_meter, jsonb_array_elements_text(gateway_meter.dimensions) AS declared(key)
        WHERE gateway_meter.name = used.meter AND metadata ? key
    ) AS split ON metadata <> '{{}}'
), rolled AS (
    INSERT INTO gateway_usagerollup AS held (
        quarter, account_id, key_id, api, operation, meter, dimensions, status_class, mode,
        period_start, terms_id, calls, units, billable_units, latency_us_sum, request_bytes_sum,
        response_bytes_sum
    )
    SELECT date_bin('15 minutes', admitted_at, 'epoch'), account_id, key_id, api, operation,
        meter, dimensions, status / 100, mode, period_start, terms_id,
        sum(calls), sum(amount), coalesce(sum(amount) FILTER (WHERE billable), 0),
        sum(latency_us * calls), sum(request_bytes * calls), sum(response_bytes * calls)
    FROM metered
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
    ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
    ON CONFLICT (account_id, quarter, key_id, api, operation, meter, dimensions, status_class,
        mode, period_start, terms_id)
    DO UPDATE SET
        calls = held.calls + excluded.calls,
        units = held.units + excluded.units,
        billable_units = held.billable_units + excluded.billable_units,
        latency_us_sum = held.latency_us_sum + excluded.latency_us_sum,
        request_bytes_sum = held.request_bytes_sum + excluded.request_bytes_sum,
        response_bytes_sum = held.response_bytes_sum + excluded.response_bytes_sum
), timed AS (
    INSERT INTO gateway_latencyrollup AS held (
        quarter, account_id, api, operation, mode, bucket, calls
    )
    SELECT date_bin('15 minutes', admitted_at, 'epoch'), account_id, api, operation, mode,
        width_bucket(latency_us, %(bounds)s::bigint[]), count(*)
    FROM fresh
    WHERE outcome = 'completed'
    GROUP BY 1, 2, 3, 4, 5, 6
    ORDER BY 1, 2, 3, 4, 5, 6
    ON CONFLICT (account_id, quarter, api, operation, mode, bucket)
    DO UPDATE SET calls = held.calls + excluded.calls
), drawn AS (
    INSERT INTO gateway_credituse AS held (grant_id, account_id, credits)
    SELECT key::bigint, account_id, sum(value::bigint)
    FROM fresh CROSS JOIN LATERAL jsonb_each_text(fresh.credits)
    GROUP BY 1, 2
    ORDER BY 1, 2
    ON CONFLICT (grant_id) DO UPDATE SET credits = held.credits + excluded.credits
)
SELECT count(*) FROM fresh
"""  # noqa: S608 - only the columns above are put in

# The moment that is given out, microseconds apart at the least.
TICK = """
INSERT INTO gateway_ledgerclock AS held (partition, at) VALUES (%s, %s)
ON CONFLICT (partition)
DO UPDATE SET at = greatest(held.at + interval '1 microsecond', excluded.at)
RETURNING at
"""


def try_lock(partition: int) -> bool:
    """Whether this transaction now holds the partition, until it ends; somebody else may."""
    return bool(_value("SELECT pg_try_advisory_xact_lock(%s)", LOCK + partition))


def lock(partition: int) -> None:
    """Waits for the partition and holds it until this transaction ends."""
    _value("SELECT pg_advisory_xact_lock(%s)", LOCK + partition)


def tick(partition: int, now: datetime) -> datetime:
    """The time to record at, later than all that was given out; for whoever holds the lock."""
    moment: datetime = _value(TICK, partition, now)
    return moment


def seal(now: datetime) -> datetime:
    """Seals the ledger up to now, in a transaction that must hold no other lock of it.

    What was recorded up to the returned moment is there to be read; all that is recorded from
    now on gets a later one. Nothing is recorded until the transaction ends.
    """
    for partition in records.PARTITIONS:
        lock(partition)
    latest = max(tick(partition, now) for partition in records.PARTITIONS)
    return max(tick(partition, latest) for partition in records.PARTITIONS)


def record(entries: Sequence[Entry], recorded_at: datetime) -> int:
    """Stores the entries that the ledger doesn't have; how many those were.

    For whoever holds the lock, with its `tick`, and has the months of the entries made
    (`gateway.partitions`). Raises `django.db.DataError` and `IntegrityError` for an entry that
    can't be stored.
    """
    given: dict[str, Any] = {
        "recorded_at": recorded_at,
        "entries": json.dumps(
            [{name: getattr(entry, name) for name in COLUMNS} for entry in entries], default=str
        ),
        "bounds": histogram.BOUNDS_US,
    }
    with connection.cursor() as cursor:
        cursor.execute(STORE, given)
        return int(cursor.fetchone()[0])


def _value(query: str, *given: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query, given)
        return cursor.fetchone()[0]
