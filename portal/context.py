"""What every template may use without its view saying so."""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.http import HttpRequest

from keys import clock


def site(_request: HttpRequest) -> dict[str, Any]:
    """Name and addresses of the seller's site, and whether this is the demo.

    ahead_seconds: by which its time was moved, and then `moved_to`: what that makes it
    """
    ahead_seconds = clock.shift() // timedelta(seconds=1)
    return {
        "site_name": settings.SITE_NAME,
        "site_url": settings.SITE_URL,
        "gateway_url": settings.GATEWAY_URL,
        "demo": settings.DEMO,
        "ahead_seconds": ahead_seconds,
        "moved_to": clock.now() if ahead_seconds else None,
        "has_mailbox": settings.MAILBOX,
    }
