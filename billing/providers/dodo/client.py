"""Opens Dodo Payments' client library, and says what its errors mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from itertools import count
from ssl import SSLContext
from typing import TypeVar

import httpx
from django.conf import settings
from dodopayments import APIError, APIStatusError, DefaultHttpxClient, DodoPayments
from dodopayments.pagination import SyncDefaultPageNumberPagination

from billing.providers import ProviderUnavailable

_TIMEOUT = httpx.Timeout(20, connect=5)
_PAGE = 100  # items of a list at once, the most that Dodo gives
# Ours to mend, or for later: everything else from 400 to 499 is a word about what was asked.
_NOT_ABOUT_IT = (401, 403, 408, 425, 429)

Answer = TypeVar("Answer")


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
        http_client=DefaultHttpxClient(verify=_trusted(), timeout=_TIMEOUT),
    )


@cache
def _trusted() -> SSLContext:
    """Read once: the certificates take longer to load than an answer to come."""
    return httpx.create_ssl_context()


@contextmanager
def asking() -> Iterator[DodoPayments]:
    """A client whose failures are all `ProviderUnavailable`."""
    try:
        with open_client() as client:
            yield client
    except APIError as error:
        raise ProviderUnavailable(f"Dodo: {said(error)}") from error
    except json.JSONDecodeError as error:
        raise ProviderUnavailable("Dodo: The answer is no JSON.") from error


def understood(answer: object, kind: type[Answer]) -> Answer:
    """The answer, if it is what was asked for; the library lets anything pass.

    Raises `ProviderUnavailable`.
    """
    if not isinstance(answer, kind):
        raise ProviderUnavailable(f"Dodo: The answer has no {kind.__name__}.")
    return answer


def moment(answer: object) -> datetime:
    """A time of an answer, with its zone. Raises `ProviderUnavailable`."""
    found = understood(answer, datetime)
    if found.tzinfo is None:
        raise ProviderUnavailable("Dodo: A time without its zone.")
    return found


def every(
    list_page: Callable[[int, int], SyncDefaultPageNumberPagination[Answer]],
) -> Iterator[Answer]:
    """All items of a list, asked for by page number and page size.

    The library's own way takes Dodo's first page, 0, for page 1, and leaves the second out.
    """
    for number in count():
        page = understood(list_page(number, _PAGE), SyncDefaultPageNumberPagination)
        items = understood(page.items, list)
        yield from items
        if len(items) < _PAGE:
            return


def never_left(error: APIError) -> bool:
    """Whether no connection came about, so that nothing can have been done."""
    return isinstance(error.__cause__, (httpx.ConnectError, httpx.ConnectTimeout))


def refused(error: APIStatusError) -> bool:
    """Whether Dodo said no to what was asked, in words of its own, and would again."""
    status = error.status_code
    about_it = 400 <= status < 500 and status not in _NOT_ABOUT_IT
    return about_it and isinstance(error.body, dict)


def said(error: APIError) -> str:
    """The error in Dodo's words, which are `{"code": …, "message": …}`."""
    if not isinstance(error, APIStatusError):
        return f"No answer: {type(error.__cause__ or error).__name__}"
    body = error.body if isinstance(error.body, dict) else {}
    return f"{error.status_code}: {body.get('message') or error.message}"
