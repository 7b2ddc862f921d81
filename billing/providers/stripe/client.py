"""Opens Stripe's client library, and says what its errors mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import requests
import stripe
from django.conf import settings
from urllib3.exceptions import NewConnectionError

from billing.providers import ProviderUnavailable

_TIMEOUT_SECONDS = (5, 20)  # to connect, to answer


def open_client(*, repeats: int = 0) -> stripe.StripeClient:
    """Asks again by itself only where told to; whoever asks knows what may be repeated.

    A repeated write carries the idempotency key of the first try. Raises `ProviderUnavailable`
    where no key is set.
    """
    if not settings.STRIPE_SECRET_KEY:
        raise ProviderUnavailable("STRIPE_SECRET_KEY is not set.")
    return stripe.StripeClient(
        settings.STRIPE_SECRET_KEY,
        base_addresses={"api": settings.STRIPE_API_BASE},
        max_network_retries=repeats,
        http_client=stripe.RequestsClient(timeout=_TIMEOUT_SECONDS),
    )


@contextmanager
def asking() -> Iterator[stripe.StripeClient]:
    """A client for payments: asks a second time where no answer came, or a 5xx.

    Whatever the library raises leaves as `ProviderUnavailable`.
    """
    client = open_client(repeats=1)
    try:
        yield client
    except stripe.StripeError as error:
        raise ProviderUnavailable(f"Stripe: {error}") from error


def never_left(error: stripe.StripeError) -> bool:
    """Whether no connection came about, so that nothing can have been done."""
    cause = error.__cause__
    if isinstance(cause, requests.ConnectTimeout):
        return True
    inner = cause.args[0] if isinstance(cause, requests.ConnectionError) and cause.args else None
    return isinstance(getattr(inner, "reason", inner), NewConnectionError)
