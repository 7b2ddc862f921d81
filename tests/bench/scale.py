"""Asks what the dashboard asks of a ledger with few calls and of one with many.

Rows come by COPY and their sums by one statement each; then every question is timed. The calls
of both ledgers are spread over the same days, customers and operations.
"""

from __future__ import annotations

import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from statistics import median
from uuid import UUID

from django.db import connection
from django.utils import timezone

from gateway import histogram, partitions, usage
from portal.run.data_folder import StartError
from tests.bench.report import table

DEFAULT_ROWS = "1000000,50000000"
DAYS = 60
PERIOD = timedelta(days=30)
CUSTOMERS = 5
"""The first of them makes half of all calls; it is the one that is asked about."""
OPERATIONS = ("GET /v1/items/{item}", "GET /v1/exports/{export}", "POST /v1/items")
KINDS = 5000
CHUNK = 20_000
REPEATS = 9
TYPICAL_LATENCY_US = 20_000

COPY = """
COPY gateway_usageevent (id, admitted_at, recorded_at, account_id, key_id, api, operation, mode,
    outcome, status, code, billable, units, metadata, latency_us, upstream_us, request_bytes,
    response_bytes, period_start, terms_id) FROM STDIN
"""
SUMS = """
TRUNCATE gateway_usagerollup, gateway_latencyrollup;
INSERT INTO gateway_usagerollup (quarter, account_id, key_id, api, operation, meter, dimensions,
    status_class, mode, period_start, terms_id, calls, units, billable_units, latency_us_sum,
    request_bytes_sum, response_bytes_sum)
SELECT date_bin('15 minutes', admitted_at, 'epoch'), account_id, key_id, api, operation, 'calls',
    '', status / 100, mode, period_start, terms_id, count(*), count(*),
    count(*) FILTER (WHERE billable), sum(latency_us), sum(request_bytes), sum(response_bytes)
FROM gateway_usageevent GROUP BY 1, 2, 3, 4, 5, 8, 9, 10, 11;
INSERT INTO gateway_latencyrollup (quarter, account_id, api, operation, mode, bucket, calls)
SELECT date_bin('15 minutes', admitted_at, 'epoch'), account_id, api, operation, mode,
    width_bucket(latency_us, %s::bigint[]), count(*)
FROM gateway_usageevent GROUP BY 1, 2, 3, 4, 5, 6;
"""


def run(text: str) -> int:
    """Loads so many rows (`SCALE_ROWS`: two numbers, the smaller first) and prints the table."""
    if not re.fullmatch("[1-9][0-9]*,[1-9][0-9]*", text):
        raise StartError(f"SCALE_ROWS must be two numbers of rows: {DEFAULT_ROWS}")
    sizes = [int(part) for part in text.split(",")]
    end = timezone.now()
    partitions.ensure(end - timedelta(days=day) for day in range(DAYS + 1))
    there, columns = 0, []
    for size in sizes:
        _say(f"loading {size - there:,} calls")
        began = time.monotonic()
        _load(size - there, there, end)
        there = size
        with connection.cursor() as cursor:
            cursor.execute(SUMS, [histogram.BOUNDS_US])
            cursor.execute("VACUUM ANALYZE")
        _say(f"  took {time.monotonic() - began:,.0f} s")
        columns.append(_column(end))
    rows = [
        [name, few, many] for (name, few), (_, many) in zip(*map(dict.items, columns), strict=True)
    ]
    sys.stdout.write(table(["", *(f"{size:,} calls" for size in sizes)], rows) + "\n")
    return 0


def _load(count: int, first_id: int, end: datetime) -> None:
    with connection.cursor() as cursor, cursor.copy(COPY) as copy:
        for chunk in _chunks(count, first_id, end):
            copy.write(chunk)


def _chunks(count: int, first_id: int, end: datetime) -> Iterator[str]:
    """Rows as COPY reads them, evenly over the days; what they say is drawn of some kinds."""
    draw = random.Random(count)  # noqa: S311 - the same each time
    kinds = [_kind(draw) for _ in range(KINDS)]
    start = end - timedelta(days=DAYS)
    step = timedelta(days=DAYS) / count
    periods = [f"{start:%Y-%m-%d %H:%M:%S}+00", f"{start + PERIOD:%Y-%m-%d %H:%M:%S}+00"]
    for chunk in range(0, count, CHUNK):
        lines = []
        for number in range(chunk, min(chunk + CHUNK, count)):
            at = start + number * step
            kind = kinds[draw.randrange(KINDS)]
            period = periods[at - start >= PERIOD]
            lines.append(f"{first_id + number:032x}\t{at}\t{at}\t{kind}\t{period}\tversion:1\n")
        yield "".join(lines)


def _kind(draw: random.Random) -> str:
    customer = 0 if draw.random() < 0.5 else draw.randrange(1, CUSTOMERS)
    latency_us = int(draw.lognormvariate(0, 0.7) * TYPICAL_LATENCY_US)
    status = 200 if draw.random() < 0.97 else 404
    return "\t".join(
        map(
            str,
            (
                _customer(customer),
                _customer(customer),
                "demo",
                draw.choice(OPERATIONS),
                "live",
                "completed",
                status,
                "",
                True,
                '{"calls": 1}',
                "{}",
                latency_us,
                latency_us,
                0,
                200,
            ),
        )
    )


def _customer(number: int) -> UUID:
    return UUID(int=number + 1)


def _column(now: datetime) -> dict[str, str]:
    """What is asked, with what it took; then how much there is."""
    asked, start = _customer(0), (now - PERIOD).replace(microsecond=0)
    questions: dict[str, Callable[[], object]] = {
        "the period": lambda: usage.of_period(asked, start, now),
        "what is to be paid": lambda: usage.priced_units(asked, start, now),
        "today": lambda: usage.today(asked, now),
        "a day by hours": lambda: usage.series(asked, now - timedelta(days=1), now, "hour"),
        "30 days by days": lambda: usage.series(asked, start, now, "day"),
        "operations": lambda: usage.by_operation(asked, start, now),
        "percentiles": lambda: usage.latencies(asked, start, now),
        "recent calls": lambda: usage.recent(asked, 10),
    }
    column = {name: _milliseconds(ask) for name, ask in questions.items()}
    with connection.cursor() as cursor:
        for name, query in {
            "ledger": "SELECT pg_size_pretty(sum(pg_total_relation_size(inhrelid))) "
            "FROM pg_inherits WHERE inhparent = 'gateway_usageevent'::regclass",
            "rows of usage": "SELECT count(*) FROM gateway_usagerollup",
            "rows of latencies": "SELECT count(*) FROM gateway_latencyrollup",
        }.items():
            cursor.execute(query)
            (found,) = cursor.fetchone()
            column[name] = found if isinstance(found, str) else f"{found:,}"
    return column


def _milliseconds(ask: Callable[[], object]) -> str:
    """Median (least–most), once it has been asked before."""
    if not ask():
        raise RuntimeError("a question without an answer proves nothing")
    took = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        ask()
        took.append((time.perf_counter() - began) * 1000)
    return f"{median(took):.1f} ms ({min(took):.1f}–{max(took):.1f})"


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
