"""Beat's reminders to the gateway's bookkeeping. A message says "go and look", never what."""

import structlog
from celery import shared_task
from django.conf import settings

from gateway import chain, counters, ledger, partitions, refill, routes
from gateway.sweep import may_sweep
from gateway.sweep import sweep as sweep_partition
from keys import clock, records

log = structlog.get_logger(__name__)


@shared_task(ignore_result=True)
def drain() -> None:
    """Moves settled calls and counted refusals into Postgres."""
    for partition in records.PARTITIONS:
        ledger.drain(partition, clock.exactly)
        ledger.drain_refusals(partition)


@shared_task(ignore_result=True)
def sweep() -> None:
    """Settles calls whose gateway died, by the clock that set their deadlines."""
    redis = records.connection()
    seconds, microseconds = redis.time()
    now_ms = seconds * 1000 + microseconds // 1000
    for partition in records.PARTITIONS:
        if may_sweep(redis, partition, now_ms):
            sweep_partition(redis, partition, now_ms)


@shared_task(ignore_result=True)
def make_partitions() -> None:
    """Makes the ledger's coming months."""
    partitions.make_ahead(clock.now())


@shared_task(ignore_result=True)
def close_hours() -> None:
    """Closes the ledger's hours that are over."""
    chain.close_hours(clock.now())


@shared_task(ignore_result=True)
def drop_partitions() -> None:
    """Drops the ledger's months that the seller need not keep."""
    partitions.drop_old(clock.now(), settings.LEDGER_RETENTION_MONTHS)


@shared_task(ignore_result=True)
def fill_redis() -> None:
    """Fills a Redis that came back empty: until then no call is admitted."""
    for partition in records.PARTITIONS:
        refill.refill(partition, clock.now())


@shared_task(ignore_result=True)
def republish_routes() -> None:
    """Publishes routes whose newest version is not there."""
    routes.republish()


@shared_task(ignore_result=True)
def check_counters() -> None:
    """Compares the counters of quotas and credits with the books."""
    for partition in records.PARTITIONS:
        try:
            counters.check(partition, clock.now())
        except counters.NotComparable as error:
            log.warning("counters.not_compared", partition=partition, reason=str(error))
