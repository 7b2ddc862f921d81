"""What beat asks of the portal."""

from celery import shared_task
from django.utils import timezone

from portal import announcements


@shared_task(ignore_result=True)
def announce() -> None:
    """Sends the mails that are due."""
    announcements.send_waiting(timezone.now())
