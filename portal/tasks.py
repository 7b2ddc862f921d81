"""What beat asks of the portal."""

from celery import shared_task
from django.utils import timezone

from portal import announcements
from portal.api import idempotency


@shared_task(ignore_result=True)
def announce() -> None:
    """Sends the mails that are due."""
    announcements.send_waiting(timezone.now())


@shared_task(ignore_result=True)
def forget_key_requests() -> None:
    """Deletes the memory of requests that made keys, once nobody repeats them any more."""
    idempotency.forget(timezone.now())
