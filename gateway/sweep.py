"""Settles calls whose gateway died before it could: visible as `abandoned`, refunded, unbilled."""

from __future__ import annotations

import json

import redis

from gateway.renewal import LEASE, Lease
from gateway.settle import SCRIPT, abandoned, corrections
from keys import records

BATCH = 1000


def may_sweep(connection: redis.Redis, partition: int, now_ms: int, lease: Lease = LEASE) -> bool:
    """Whether Redis was there, each time it was asked this, for a whole lease. Raises `RedisError`.

    While it is away living gateways can neither put deadlines off nor settle. Overdue is only
    what they leave so with Redis before them; asked less often than twice in a lease, it is no.
    """
    since = records.sweeping_name(partition)
    pipeline = connection.pipeline(transaction=True)
    pipeline.set(since, now_ms, nx=True)
    pipeline.pexpire(since, lease.lasts_ms // 2)
    pipeline.get(since)
    *_, since_ms = pipeline.execute()
    return now_ms - int(since_ms) >= lease.lasts_ms


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
