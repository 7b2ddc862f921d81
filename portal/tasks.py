"""What beat asks of the portal."""

from celery import shared_task

from keys import clock
from portal import announcements
from portal.api import idempotency


@shared_task(ignore_result=True)
def announce() -> None:
    """Sends the mails that are due."""
    announcements.send_waiting(clock.now())


@shared_task(ignore_result=True)
def forget_key_requests() -> None:
    """Deletes the memory of requests that made keys, once nobody repeats them any more."""
    idempotency.forget(clock.now())
