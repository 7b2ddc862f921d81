"""Opens Stripe's client library, and says what its errors mean."""

from __future__ import annotations

import requests
import stripe
from django.conf import settings
from urllib3.exceptions import NewConnectionError

from billing.providers import ProviderUnavailable

_TIMEOUT_SECONDS = (5, 20)  # to connect, to answer


def open_client() -> stripe.StripeClient:
    """Repeats nothing by itself: whoever asks knows what may be repeated.

    Raises `ProviderUnavailable` where no key is set.
    """
    if not settings.STRIPE_SECRET_KEY:
        raise ProviderUnavailable("STRIPE_SECRET_KEY is not set.")
    return stripe.StripeClient(
        settings.STRIPE_SECRET_KEY,
        base_addresses={"api": settings.STRIPE_API_BASE},
        max_network_retries=0,
        http_client=stripe.RequestsClient(timeout=_TIMEOUT_SECONDS),
    )


def never_left(error: stripe.StripeError) -> bool:
    """Whether no connection came about, so that nothing can have been done."""
    cause = error.__cause__
    if isinstance(cause, requests.ConnectTimeout):
        return True
    inner = cause.args[0] if isinstance(cause, requests.ConnectionError) and cause.args else None
    return isinstance(getattr(inner, "reason", inner), NewConnectionError)
