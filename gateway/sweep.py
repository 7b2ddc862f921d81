"""Settles calls whose gateway died before it could: visible as `abandoned`, refunded, unbilled."""

from __future__ import annotations

import json

import redis

from gateway.settle import SCRIPT, abandoned, corrections
from keys import records

BATCH = 1000


def sweep(connection: redis.Redis, partition: int, now_ms: int) -> int:
    """Settles opens of a partition whose deadline has passed; how many. Raises `RedisError`.

    Looks at every open: there are no more than calls at this moment. A gateway that settles the
    same call meanwhile is no harm: the first of the two counts.
    """
    settle = connection.register_script(SCRIPT.text)
    opens = records.open_name(partition)
    names = (opens, records.usage_stream(partition))
    swept = 0
    for event_id, call in connection.hscan_iter(opens, count=BATCH):
        *_, reserved, deadline_ms, _back = call.split(b"\t")
        if int(deadline_ms) <= now_ms:
            correction = corrections(json.loads(reserved), {})
            swept += int(
                settle(names, (records.tag(partition), event_id, abandoned(0), *correction))
            )
    return swept
