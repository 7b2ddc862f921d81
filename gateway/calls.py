"""Finds admitted calls by the ids that clients and backends were told in `Keystile-Event`.

A call moves from the opens to the stream to the ledger. It is looked for in that order, so that
none is missed on its way.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple, cast
from uuid import UUID

import redis
import structlog

from gateway.entries import EPOCH
from gateway.ledger import Delivered
from gateway.models import UsageEvent
from keys import records

log = structlog.get_logger(__name__)

# Of the stream so many entries are looked through, the newest: others are drained already,
# unless the drain is far behind.
MOST_OF_STREAM = 10_000


class Call(NamedTuple):
    """What was known of a call when it was admitted, at `at`."""

    account_id: UUID
    key_id: UUID
    mode: str
    period_start: datetime
    terms_id: str
    at: datetime
    api: str
    operation: str


def find(event_ids: Iterable[UUID], since: datetime) -> dict[UUID, Call]:
    """The calls admitted since then that have these ids.

    While Redis is away only those that the ledger has are found.
    """
    wanted = set(event_ids)
    found: dict[UUID, Call] = {}
    if not wanted:
        return found
    try:
        for partition in records.PARTITIONS:
            found |= _in_redis(partition, wanted)
    except redis.RedisError as error:
        log.warning("calls.redis_away", reason=str(error))
    rows = UsageEvent.objects.filter(id__in=wanted - set(found), admitted_at__gte=since)
    for row in rows.exclude(outcome=UsageEvent.Outcome.REPORTED):
        found[row.id] = Call(
            account_id=row.account_id,
            key_id=row.key_id,
            mode=row.mode,
            period_start=row.period_start,
            terms_id=row.terms_id,
            at=row.admitted_at,
            api=row.api,
            operation=row.operation,
        )
    return {event_id: call for event_id, call in found.items() if call.at >= since}


def _in_redis(partition: int, wanted: set[UUID]) -> dict[UUID, Call]:
    connection = records.connection()
    named = {str(event_id).encode(): event_id for event_id in wanted}
    opens = cast(list[bytes | None], connection.hmget(records.open_name(partition), list(named)))
    found = {
        event_id: _read(text)
        for event_id, text in zip(named.values(), opens, strict=True)
        if text is not None
    }
    if len(found) < len(named):
        stream = records.usage_stream(partition)
        for _, fields in cast(list[Delivered], connection.xrevrange(stream, count=MOST_OF_STREAM)):
            event_id = named.get(fields.get(b"id", b""))
            if event_id is not None:
                found[event_id] = _read(fields[b"open"])
    return found


def _read(opened: bytes) -> Call:
    """The call of an open, as scripts/admit.lua wrote it."""
    account, key, mode, period_s, terms, at_us, api, operation, *_ = opened.decode().split("\t")
    return Call(
        account_id=UUID(account),
        key_id=UUID(key),
        mode=mode,
        period_start=EPOCH + timedelta(seconds=int(period_s)),
        terms_id=terms,
        at=EPOCH + timedelta(microseconds=int(at_us)),
        api=api,
        operation=operation,
    )
