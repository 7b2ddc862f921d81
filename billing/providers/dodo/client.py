"""Opens Dodo Payments' client library, and says what its errors mean."""

from __future__ import annotations

import httpx
from django.conf import settings
from dodopayments import APIError, APIStatusError, DodoPayments

from billing.providers import ProviderUnavailable

_TIMEOUT = httpx.Timeout(20, connect=5)


def open_client() -> DodoPayments:
    """Repeats nothing by itself: the library sends no idempotency key of its own.

    Raises `ProviderUnavailable` where no key is set.
    """
    if not settings.DODO_PAYMENTS_API_KEY:
        raise ProviderUnavailable("DODO_PAYMENTS_API_KEY is not set.")
    return DodoPayments(
        bearer_token=settings.DODO_PAYMENTS_API_KEY,
        base_url=settings.DODO_PAYMENTS_BASE_URL,
        timeout=_TIMEOUT,
        max_retries=0,
    )


def never_left(error: APIError) -> bool:
    """Whether no connection came about, so that nothing can have been done."""
    return isinstance(error.__cause__, (httpx.ConnectError, httpx.ConnectTimeout))


def said(error: APIError) -> str:
    """The error in Dodo's words, which are `{"code": …, "message": …}`."""
    if not isinstance(error, APIStatusError):
        return f"No answer: {type(error.__cause__ or error).__name__}"
    body = error.body if isinstance(error.body, dict) else {}
    return f"{error.status_code}: {body.get('message') or error.message}"
