"""After the kills: what clients saw against the ledger, the rollup and the quota."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter

import psycopg
import redis

from gateway.sweep import sweep
from tests.installation import OPENS, STREAM, Load, wait_for
from tests.product import Product

SETTLE_SECONDS, DRAIN_SECONDS = 10, 120
_EVENT = re.compile(r"\d\d:\d\d:\d\d (\S+)")


def close(victim: Product, calling: Load, account: str, blows: Counter[str]) -> int:
    """Waits for the ledger and prints the table: 0, or 1 if anything is lost or billed twice."""
    seen = calling.seen
    connection = redis.Redis.from_url(victim.facts["redis_url"])
    settle_until = time.monotonic() + SETTLE_SECONDS
    while connection.hlen(OPENS) and time.monotonic() < settle_until:
        time.sleep(0.1)
    # What is open now was a killed gateway's: swept before its time.
    swept = sweep(connection, 0, int(time.time() * 1000) + 10**7)
    wait_for(lambda: not connection.xlen(STREAM), DRAIN_SECONDS, "the stream is drained")

    with psycopg.connect(victim.facts["database_url"]) as database:
        rows = database.execute(
            "SELECT id::text, billable, outcome FROM gateway_usageevent WHERE account_id = %s",
            [account],
        ).fetchall()
        rolled = database.execute(
            "SELECT coalesce(sum(billable_units), 0), coalesce(sum(calls), 0)"
            " FROM gateway_usagerollup WHERE account_id = %s AND meter = 'calls'",
            [account],
        ).fetchone()
        quarantined = database.execute("SELECT count(*) FROM gateway_quarantinedentry").fetchone()
    counter = sum(
        int(connection.get(name) or 0) for name in connection.scan_iter(f"used:*:{account}:live:*")
    )
    assert rolled is not None and quarantined is not None  # noqa: PT018
    recorded = {row[0] for row in rows}
    billed = {row[0] for row in rows if row[1]}
    answered = set(seen.events)
    unanswered = len(billed - answered)
    unbilled = len(answered - billed)
    most_unbilled = blows["gateway"] * calling.connections

    facts = [
        ("blows", ", ".join(f"{count} x {blow}" for blow, count in sorted(blows.items()))),
        ("answered 200, whole", len(seen.events)),
        ("refused 503", seen.statuses[503]),
        ("broken off", seen.broken),
        ("slowest answer, s", f"{seen.slowest_seconds:.2f}"),
        ("in the ledger", len(rows)),
        ("  of these billed", len(billed)),
        ("  of these abandoned", sum(row[2] == "abandoned" for row in rows)),
        ("settled by the sweep", swept),
    ]
    checks = [
        ("answers that nobody promises", len(seen.strange), len(seen.strange) == 0),
        ("answered and not in the ledger", len(answered - recorded), answered <= recorded),
        ("in the ledger twice", len(rows) - len(recorded), len(rows) == len(recorded)),
        ("billed, never answered whole", unanswered, unanswered <= seen.broken),
        ("answered, unbilled (gateway killed)", unbilled, unbilled <= most_unbilled),
        ("rollup: units billed", rolled[0], rolled[0] == len(billed)),
        ("rollup: calls", rolled[1], rolled[1] == len(rows)),
        ("quota counter", counter, counter == len(billed)),
        ("quarantined", quarantined[0], quarantined[0] == 0),
        ("tracebacks of the gateway", (found := _tracebacks(victim)), found == 0),
    ]
    for name, value in facts:
        sys.stdout.write(f"  {name:<38}{value}\n")
    for name, figure, holds in checks:
        sys.stdout.write(f"  {name:<38}{figure:<12}{'ok' if holds else 'WRONG'}\n")
    for strange in seen.strange[:5]:
        sys.stdout.write(f"  {strange}\n")
    return 0 if all(holds for _, _, holds in checks) else 1


def _tracebacks(victim: Product) -> int:
    """In what the supervisor wrote of its gateways: events, with their indented lines."""
    role, found = "", 0
    for line in victim.log.read_text(errors="replace").splitlines():
        if event := _EVENT.match(line):
            role = event[1]
        found += role == "gateway" and "Traceback" in line
    return found
