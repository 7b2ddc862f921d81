"""What is sold while we measure: one API, its customers and keys, published by the real code.

Also reads what was recorded: the stream that every script-running contestant writes, and the
ledger's table that the obvious DRF view writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from django.utils import timezone

from gateway import partitions
from gateway.models import UsageEvent
from keys import records
from tests import traffic

SMALL, LARGE = "/demo/v1/items/7", "/demo/v1/exports/7"
"""Answers of 200 bytes and of 20 KB."""
CUSTOMERS = 16
PLENTY = 10**9
SETTLED_SECONDS = 30.0
REST_SECONDS = 0.4


def open_shop(upstream_url: str) -> list[str]:
    """Puts the API on sale; returns the keys of its customers, none of whom reaches a limit."""
    partitions.make_ahead(timezone.now())
    traffic.put_on_sale(upstream_url, {"GET /v1/items/{item}": {}, "GET /v1/exports/{export}": {}})
    return [key_with_quota(PLENTY) for _ in range(CUSTOMERS)]


def key_with_quota(calls: int) -> str:
    """The key of a new customer who may make so many calls."""
    return traffic.make_customer(traffic.terms(limit=calls)).secret


def forget_stream() -> None:
    """Empties the stream, which nothing drains here; at a million entries nothing is admitted."""
    records.connection().unlink(records.usage_stream(0))


def entries_in_stream() -> int:
    """Entries of settled calls, once no call is open any more and none comes in."""
    connection = records.connection()

    def count() -> int | None:
        is_open = connection.hlen(records.open_name(0))
        return None if is_open else int(connection.xlen(records.usage_stream(0)))

    return _at_rest(count)


def rows_in_ledger() -> int:
    """Calls in the ledger's table, once none comes in any more."""
    return _at_rest(UsageEvent.objects.count)


def _at_rest(count: Callable[[], int | None]) -> int:
    """The count once it stays; None is not yet.

    A client that has hung up may have left a request that nobody has read so far.
    """
    deadline = time.monotonic() + SETTLED_SECONDS
    before, now = None, count()
    while now is None or before != now:
        if time.monotonic() > deadline:
            raise RuntimeError("calls stayed open: they were never settled")
        time.sleep(REST_SECONDS)
        before, now = now, count()
    return now
