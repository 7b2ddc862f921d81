"""Fills a Redis that came up empty, a first start's too, before anything is admitted.

Records, then the counters of the running periods from the ledger, then routes, and the ready
marker last: until that is there the gateway answers 503. What a lost Redis had not yet been
drained of is lost with it, and is given away: it is in no counter.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import structlog
from django.db import connection, transaction

from gateway import consumption, recording, routes
from keys import clock, publish, records
from keys.identifiers import new_id

log = structlog.get_logger(__name__)

LOCK = 0x6B73_2000  # plus the partition

# Sets the marker (KEYS[1]) to how far the time is ahead, if Redis still is the one that was filled
# (KEYS[2]): one that was emptied once more meanwhile must be filled once more.
MARK = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""


def refill(partition: int, now: datetime) -> bool:
    """Fills the partition if it is not ready; whether it did so. Raises `redis.RedisError`."""
    redis = records.connection()
    ready, filling = records.ready_name(partition), records.filling_name(partition)
    if redis.exists(ready):
        return False
    with _alone(partition):
        if redis.exists(ready):
            return False
        filler = str(new_id())
        redis.set(filling, filler)
        published = publish.everything(partition, now)
        _wait_for_drain(partition)
        counters = _restore_counters(partition, now)
        routes.publish()
        ahead_seconds = clock.shift() // timedelta(seconds=1)
        is_ready = bool(redis.eval(MARK, 2, ready, filling, filler, ahead_seconds))
        publish.clock_shift()  # it may have been moved meanwhile
    log.info("redis.refilled", records=published, counters=counters, ready=is_ready)
    return is_ready


@contextmanager
def _alone(partition: int) -> Iterator[None]:
    """Waits until nobody else refills the partition and keeps it so.

    The lock is the connection's, not a transaction's: none is open while Redis is written.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [LOCK + partition])
        try:
            yield
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [LOCK + partition])


def _wait_for_drain(partition: int) -> None:
    """Lets a drain finish that has read its batch from the Redis that was lost."""
    with transaction.atomic():
        recording.lock(partition)


def _restore_counters(partition: int, now: datetime) -> int:
    """Puts back what each account has used of its running periods; how many counters.

    One that exists is left as it is: it knows of calls that are still open.
    """
    restored = 0
    for running in consumption.running(partition, now):
        pipeline = records.connection().pipeline(transaction=False)
        for name, units in running.of_ledger().items():
            expires_at = running.kept[name].expires_at
            lifetime = None if expires_at is None else expires_at - now
            pipeline.set(name, units, nx=True, ex=lifetime)
        restored += len(pipeline.execute())
    return restored
