"""Settles calls whose gateway died before it could: visible as `abandoned`, refunded, unbilled."""

from __future__ import annotations

import json
from typing import cast

import redis

from gateway.settle import SCRIPT, abandoned, corrections
from keys import records

BATCH = 1000


def sweep(connection: redis.Redis, partition: int, now_ms: int) -> int:
    """Settles opens of a partition whose deadline has passed; how many. Raises `RedisError`.

    A gateway that settles the same call at this moment is no harm: the first of the two counts.
    """
    settle = connection.register_script(SCRIPT.text)
    opens, due = records.open_name(partition), records.due_name(partition)
    names = (opens, due, records.usage_stream(partition))
    swept = 0
    while overdue := _overdue(connection, due, now_ms):
        for event_id in overdue:
            call = cast("bytes | None", connection.hget(opens, event_id.decode()))
            reserved = json.loads(call.split(b"\t")[8]) if call else {}
            correction = corrections(reserved, {})
            swept += int(
                settle(names, (records.tag(partition), event_id, abandoned(0), *correction))
            )
            connection.zrem(due, event_id)
    return swept


def _overdue(connection: redis.Redis, due: str, now_ms: int) -> list[bytes]:
    return cast("list[bytes]", connection.zrangebyscore(due, "-inf", now_ms, start=0, num=BATCH))
