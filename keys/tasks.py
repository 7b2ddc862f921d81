"""Beat's reminder to publish what has not reached the data plane yet."""

import structlog
from celery import shared_task

from keys import clock, publish

log = structlog.get_logger(__name__)


@shared_task(ignore_result=True)
def republish() -> None:
    """Publishes what lags behind its row: a revocation that was not confirmed, for example."""
    publish.clock_shift()
    count = publish.lagging(clock.now())
    if count:
        log.info("publish.caught_up", records=count)
