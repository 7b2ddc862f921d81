"""What is sold while we measure: one API, its customers and keys, published by the real code.

Also reads what was recorded: the stream that every script-running contestant writes, and the
ledger's table that the obvious DRF view writes.
"""

from __future__ import annotations

import time

from django.utils import timezone

from gateway import partitions
from gateway.models import UsageEvent
from keys import records
from tests import traffic

SMALL, LARGE = "/demo/v1/items/7", "/demo/v1/exports/7"
"""Answers of 200 bytes and of 20 KB."""
CUSTOMERS = 16
PLENTY = 10**9
SETTLED_SECONDS = 20.0


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
    """Entries of settled calls, once no call is open any more."""
    connection = records.connection()
    deadline = time.monotonic() + SETTLED_SECONDS
    while connection.hlen(records.open_name(0)):
        if time.monotonic() > deadline:
            raise RuntimeError("calls stayed open: they were never settled")
        time.sleep(0.02)
    return int(connection.xlen(records.usage_stream(0)))


def rows_in_ledger() -> int:
    """Calls in the ledger's table, once no more come in."""
    before, now = -1, UsageEvent.objects.count()
    while before != now:
        time.sleep(0.5)
        before, now = now, UsageEvent.objects.count()
    return now
