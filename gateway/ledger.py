"""Moves settled calls from the usage stream into the ledger and its rollup, exactly once.

The stream is the queue. A batch is read, stored in one transaction under the partition's
advisory lock, and deleted from the stream after commit; killed in between, it is read again
and the ledger's primary key turns it away. The rollups are fed by the rows really inserted, in
the same transaction. What can't be stored is put into quarantine and never blocks the rest.

Refusals are drained too: their counters only grow, so that storing them again is harmless.
"""

import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import NamedTuple, cast
from uuid import UUID

import structlog
from django.db import DatabaseError, connection, transaction

from gateway import partitions, recording
from gateway.entries import Entry, parse
from gateway.models import QuarantinedEntry
from keys import records

log = structlog.get_logger(__name__)

BATCH = 1000
# By then no gateway counts into a minute any more, whose name is from Redis' clock.
MINUTE_IS_OVER = timedelta(minutes=2)

# Classes of SQLSTATE: data, constraints, limits such as an index's row size. All others say that
# the database can't do its work now.
ENTRYS_FAULT = ("22", "23", "54")

# When, from where and for what a key was used last. Said twice it changes nothing.
STAMP = """
UPDATE keys_apikey
SET last_used_at = latest.at, last_used_address = latest.address,
    last_used_operation = latest.operation
FROM unnest(%s::uuid[], %s::timestamptz[], %s::inet[], %s::text[])
    AS latest(key_id, at, address, operation)
WHERE id = latest.key_id AND (last_used_at IS NULL OR last_used_at < latest.at)
"""

STORE_REFUSALS = """
INSERT INTO gateway_refusalrollup AS held (account_id, key_id, code, minute, count)
SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::text[], %s::timestamptz[], %s::bigint[])
ORDER BY 1, 2, 3, 4
ON CONFLICT (account_id, minute, key_id, code)
DO UPDATE SET count = excluded.count WHERE held.count < excluded.count
"""


Delivered = tuple[bytes, dict[bytes, bytes]]  # a stream id and the entry's fields


class Call(NamedTuple):
    """A stream entry that could be read."""

    stream_id: bytes
    fields: dict[bytes, bytes]
    entry: Entry


class Reject(NamedTuple):
    """A stream entry that can't be stored, and why."""

    stream_id: bytes
    fields: dict[bytes, bytes]
    error: str


class Lag(NamedTuple):
    """Entries in the stream, and for how long its oldest has waited there."""

    entries: int
    seconds: float


def drain(partition: int, clock: Callable[[], datetime], budget_seconds: float = 10) -> int:
    """Drains the partition's stream until it is empty or the time is over; calls stored.

    Leaves the work to another drain that is at it. Raises `redis.RedisError` and
    `django.db.Error`, with every entry either stored or still in the stream.
    """
    deadline = time.monotonic() + budget_seconds
    total = 0
    with _without_garbage_collection():
        while time.monotonic() < deadline:
            stored = drain_batch(partition, clock())
            if stored is None:
                break
            total += stored
    return total


def drain_batch(partition: int, now: datetime) -> int | None:
    """Stores the oldest entries of the stream, recorded at `now`: how many calls were new.

    None if there is nothing to do here: an empty stream, or another drain at work.
    """
    redis = records.connection()
    stream = records.usage_stream(partition)
    delivered = cast(list[Delivered], redis.xrange(stream, count=BATCH))
    if not delivered:
        return None
    calls, rejects = _read(delivered)
    partitions.ensure(call.entry.admitted_at for call in calls)
    with transaction.atomic():
        if not recording.try_lock(partition):
            return None
        stored, refused = _store(calls, recording.tick(partition, now))
        _stamp(calls)
        _quarantine(partition, rejects + refused)
    redis.xdel(stream, *(stream_id for stream_id, _ in delivered))
    return stored


def lag(partition: int) -> Lag:
    """What waits for the ledger. Raises `redis.RedisError`."""
    pipeline = records.connection().pipeline(transaction=False)
    stream = records.usage_stream(partition)
    pipeline.xrange(stream, count=1)
    pipeline.xlen(stream)
    pipeline.time()
    oldest, entries, (seconds, microseconds) = pipeline.execute()
    if not oldest:
        return Lag(0, 0.0)
    entered_ms = int(oldest[0][0].split(b"-")[0])
    return Lag(entries, max(0.0, seconds + microseconds / 1e6 - entered_ms / 1000))


def drain_refusals(partition: int) -> None:
    """Copies the counters of refused calls; those of minutes that are over leave Redis."""
    redis = records.connection()
    name = records.refused_name(partition)
    over = records.moment(partition) - MINUTE_IS_OVER
    counted, finished = [], []
    for field, count in redis.hscan_iter(name, count=BATCH):
        account, key, code, minute_s = field.decode().split("|")
        minute = datetime.fromtimestamp(int(minute_s), UTC)
        counted.append((UUID(account), UUID(key), code, minute, int(count)))
        if minute < over:
            finished.append(field)
    if counted:
        with connection.cursor() as cursor:
            cursor.execute(STORE_REFUSALS, [list(column) for column in zip(*counted, strict=True)])
    if finished:
        redis.hdel(name, *finished)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """A batch makes tens of thousands of objects and no cycles: to look for some takes a third of
    the time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _read(delivered: list[Delivered]) -> tuple[list[Call], list[Reject]]:
    calls, rejects = [], []
    for stream_id, entry_fields in delivered:
        try:
            calls.append(Call(stream_id, entry_fields, parse(entry_fields)))
        except ValueError as error:
            rejects.append(Reject(stream_id, entry_fields, str(error)))
    return calls, rejects


def _store(calls: list[Call], recorded_at: datetime) -> tuple[int, list[Reject]]:
    """How many of the calls were new, and those that Postgres refused, found by bisection."""
    if not calls:
        return 0, []
    try:
        return recording.record([call.entry for call in calls], recorded_at), []
    except DatabaseError as error:
        state = getattr(error.__cause__, "sqlstate", None) or ""  # none: the connection is lost
        if state[:2] not in ENTRYS_FAULT:
            raise
        if len(calls) == 1:
            return 0, [Reject(calls[0].stream_id, calls[0].fields, str(error))]
    middle = len(calls) // 2
    older, newer = (_store(half, recorded_at) for half in (calls[:middle], calls[middle:]))
    return older[0] + newer[0], older[1] + newer[1]


def _stamp(calls: list[Call]) -> None:
    """Says on the keys how each was used last, in an order that all drains have."""
    latest: dict[UUID, Entry] = {}
    for entry in sorted((call.entry for call in calls), key=attrgetter("admitted_at")):
        latest[entry.key_id] = entry
    rows = [
        (key_id, entry.admitted_at, entry.client or None, f"{entry.api} {entry.operation}")
        for key_id, entry in sorted(latest.items())
    ]
    if rows:
        with connection.cursor() as cursor:
            cursor.execute(STAMP, [list(column) for column in zip(*rows, strict=True)])


def _quarantine(partition: int, rejects: list[Reject]) -> None:
    for reject in rejects:
        log.error("usage.quarantined", stream_id=reject.stream_id.decode(), reason=reject.error)
    QuarantinedEntry.objects.bulk_create(
        [
            QuarantinedEntry(
                partition=partition,
                stream_id=reject.stream_id.decode(),
                payload=json.dumps(
                    {
                        name.decode("latin-1"): value.decode("latin-1")
                        for name, value in reject.fields.items()
                    }
                ).encode(),
                error=reject.error,
            )
            for reject in rejects
        ],
        ignore_conflicts=True,
    )
