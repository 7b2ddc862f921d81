"""What every template may use without its view saying so."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest


def site(_request: HttpRequest) -> dict[str, Any]:
    """Name and addresses of the seller's site, and whether this is the demo."""
    return {
        "site_name": settings.SITE_NAME,
        "site_url": settings.SITE_URL,
        "gateway_url": settings.GATEWAY_URL,
        "demo": settings.DEMO,
        "has_mailbox": settings.MAILBOX,
    }
