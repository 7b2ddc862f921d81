"""Puts entries into the ledger and its rollups, in one transaction and at the ledger's own time.

Whoever writes holds a partition's lock until its transaction ends. `recorded_at` is given out
under it and only grows, so that time which is sealed never gets another row: hours are closed
and usage is shipped by that, and neither looks back.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import IntegrityError, connection, transaction

from gateway import rollups
from gateway.entries import Entry
from gateway.models import UsageEvent
from keys import records

LOCK = 0x6B73_1000  # plus the partition

# The columns of `gateway.entries.Entry`, in its order, as COPY takes them.
COLUMNS = {
    "id": "uuid",
    "admitted_at": "timestamptz",
    "account_id": "uuid",
    "key_id": "uuid",
    "api": "varchar",
    "operation": "varchar",
    "mode": "varchar",
    "outcome": "varchar",
    "status": "int2",
    "code": "varchar",
    "billable": "bool",
    "units": "jsonb",
    "metadata": "jsonb",
    "latency_us": "int8",
    "upstream_us": "int8",
    "request_bytes": "int8",
    "response_bytes": "int8",
    "period_start": "timestamptz",
    "terms_id": "varchar",
    "credits": "jsonb",
}
COPY = f"""
COPY gateway_usageevent ({", ".join(COLUMNS)}, recorded_at) FROM STDIN (FORMAT BINARY)
"""

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
    (`gateway.partitions`). Raises `django.db.DatabaseError`, with nothing stored.
    """
    if not entries:
        return 0
    with transaction.atomic():
        if _is_repeated(entries):
            entries = _unrecorded(entries)
        try:
            with transaction.atomic():
                _insert(entries, recorded_at)
        except IntegrityError:
            entries = _unrecorded(entries)
            _insert(entries, recorded_at)
        rollups.add(entries)
    return len(entries)


def _is_repeated(entries: Sequence[Entry]) -> bool:
    """Whether a batch was delivered before, as after a kill or to two drains: then its first entry
    is there, or its last. What this doesn't see, the ledger's key turns away.
    """
    ends = [(entry.id, entry.admitted_at) for entry in (entries[0], entries[-1])]
    return UsageEvent.objects.filter(pk__in=ends).exists()


def _insert(entries: Sequence[Entry], recorded_at: datetime) -> None:
    with (
        connection.wrap_database_errors,
        connection.cursor() as cursor,
        cursor.copy(COPY) as rows,
    ):
        rows.set_types([*COLUMNS.values(), "timestamptz"])
        for entry in entries:
            rows.write_row((*entry[: len(COLUMNS)], recorded_at))


def _unrecorded(entries: Sequence[Entry]) -> list[Entry]:
    """The entries that the ledger doesn't have, each once. Nobody adds any: the lock is held."""
    given = {(entry.id, entry.admitted_at): entry for entry in entries}
    moments = [admitted_at for _, admitted_at in given]
    there = UsageEvent.objects.filter(
        id__in={event_id for event_id, _ in given},
        admitted_at__range=(min(moments), max(moments)),
    )
    for key in there.values_list("id", "admitted_at"):
        given.pop(key, None)
    return list(given.values())


def _value(query: str, *given: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query, given)
        return cursor.fetchone()[0]
