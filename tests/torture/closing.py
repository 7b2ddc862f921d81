"""Brings a run to its end when nobody calls any more: drained, counted, shipped, closed."""

from __future__ import annotations

import time
from datetime import timedelta

import redis
from django.db import connection
from django.utils import timezone

from billing import shipping
from billing.models import Shipment
from gateway import chain, counters
from gateway.counters import Check
from gateway.sweep import sweep
from keys import records
from tests.installation import OPENS, STREAM, wait_for
from tests.product import Product

SETTLE_SECONDS = 3.0
MOST_DRAIN_SECONDS = 120
MOST_CHECKS = 10
MOST_CLOSING_SECONDS = 60
ROUND = timedelta(minutes=6)  # longer than a claim, and than the longest backoff
MOST_SHIPPING_SECONDS = 90


def wait_for_ledger(product: Product) -> float:
    """Returns once every call is in the ledger; after how many seconds."""
    started = time.monotonic()
    with redis.Redis.from_url(product.facts["redis_url"]) as store:
        while store.hlen(OPENS) and time.monotonic() < started + SETTLE_SECONDS:
            time.sleep(0.05)
        # The living have settled theirs. What is open now was a dead gateway's: swept before
        # its deadline, which is minutes away.
        sweep(store, 0, int(time.time() * 1000) + 10**7)
        wait_for(lambda: not store.xlen(STREAM), MOST_DRAIN_SECONDS, "the stream is drained")
    return time.monotonic() - started


def compare() -> list[Check]:
    """Compares counters as long as that corrects any: those of reports may lack some.

    What a killed process had committed and not counted yet takes two comparisons.
    """
    connection.close()  # it may be older than a crash of Postgres
    checks: list[Check] = []
    while not checks or checks[-1].sighted or checks[-1].corrected:
        checks += [counters.check(partition, timezone.now()) for partition in records.PARTITIONS]
        assert len(checks) < MOST_CHECKS, checks[-1]
    return checks


def ship_the_rest() -> list[Shipment]:
    """Ships all that is in the ledger; what had not arrived in the end.

    What a killed worker has claimed, and what the provider refused for now, waits for minutes:
    the clock of this is moved instead.
    """
    now = timezone.now()
    shipping.collect(now)
    until = time.monotonic() + MOST_SHIPPING_SECONDS
    while Shipment.objects.filter(state__in=shipping.WAITING).exists() and time.monotonic() < until:
        now += ROUND
        if not shipping.send("stripe", now):
            time.sleep(0.5)  # the worker is at it, or the provider is to be left alone
    return list(Shipment.objects.filter(provider="stripe").exclude(state="sent"))


def close_hours() -> None:
    """Closes all hours that have entries: the one that it is now, too."""
    soon = timezone.now() + timedelta(hours=1)

    def are_closed() -> bool:
        chain.close_hours(soon)  # it does nothing while the worker is at it
        until = chain.closed_until()
        return until is not None and until >= chain.floor(soon)

    wait_for(are_closed, MOST_CLOSING_SECONDS, "hours are closed")
