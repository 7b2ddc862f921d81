"""What a run has left behind, as anybody could read it: log files, Postgres, Redis."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg
import redis
from psycopg.rows import dict_row

from billing.models import Shipment
from gateway.counters import Check
from tests.product import Product
from tests.torture.blows import Struck
from tests.torture.reporter import Reporter
from tests.torture.stage import Caller

Row = dict[str, Any]
LEDGER = """
SELECT id::text, account_id::text AS account, key_id::text AS key, mode, outcome, status, code,
    billable, units, credits, extract(epoch FROM period_start)::bigint AS period_s,
    extract(epoch FROM admitted_at)::float AS admitted
FROM gateway_usageevent WHERE account_id = ANY(%s::uuid[])
"""
ROLLUP = """
SELECT account_id::text AS account, meter, sum(calls)::bigint AS calls,
    sum(billable_units)::bigint AS billed
FROM gateway_usagerollup WHERE account_id = ANY(%s::uuid[]) GROUP BY 1, 2
"""
REPORTED = """
SELECT known.account_id::text AS account, known.event_id AS report,
    event.account_id::text AS booked, event.units, event.billable, event.outcome
FROM gateway_reportedevent AS known
LEFT JOIN gateway_usageevent AS event ON event.id = known.usage_id
"""
DRAWN = "SELECT grant_id, credits FROM gateway_credituse WHERE account_id = ANY(%s::uuid[])"
QUARANTINE = "SELECT error FROM gateway_quarantinedentry"


@dataclass(frozen=True)
class Run:
    """What happened.

    logs:    the folder of the clients' logs
    reached: ids of the calls that the backend was asked
    reporter: what the backend reported later
    comparisons: of counters with the books, meanwhile and afterwards
    drained: seconds from the last answer until every call was in the ledger
    unshipped: what the payment provider does not count, though it should
    provider: units that it counts, by account and meter
    violations: what was wrong with what it was sent
    """

    product: Product
    callers: list[Caller]
    logs: Path
    reached: set[str]
    struck: list[Struck]
    reporter: Reporter
    comparisons: list[Check]
    drained: float
    unshipped: list[Shipment]
    provider: dict[tuple[str, str], int]
    violations: list[str]


@dataclass(frozen=True)
class Books:
    """What is written of it: by the clients, in Postgres, and in Redis' counters by name.

    rows:     of calls
    reported: rows of usage that was reported later
    known:    reports, each with its row
    """

    seen: list[Row]
    rows: list[Row]
    reported: list[Row]
    known: list[Row]
    rolled: list[Row]
    drawn: dict[int, int]
    quarantined: list[Row]
    counters: dict[str, int]

    @classmethod
    def read(cls, run: Run) -> Books:
        accounts = sorted({caller.account for caller in run.callers})
        with psycopg.connect(run.product.facts["database_url"], row_factory=dict_row) as database:
            rows = database.execute(LEDGER, [accounts]).fetchall()
            rolled = database.execute(ROLLUP, [accounts]).fetchall()
            drawn = database.execute(DRAWN, [accounts]).fetchall()
            known = database.execute(REPORTED).fetchall()
            quarantined = database.execute(QUARANTINE).fetchall()
        holders = {*accounts, *(caller.key for caller in run.callers)}
        grants = {str(row["grant_id"]) for row in drawn}
        with redis.Redis.from_url(run.product.facts["redis_url"]) as store:
            names = {
                name.decode() for kind in ("used:*", "drawn:*") for name in store.scan_iter(kind)
            }
            counted = {
                name: int(store.get(name) or 0)
                for name in names
                if name.split(":")[2] in holders | grants
            }
        return cls(
            seen=[
                json.loads(line)
                for log in sorted(run.logs.glob("client-*.jsonl"))
                for line in log.read_text().splitlines()
            ],
            rows=[row for row in rows if row["outcome"] != "reported"],
            reported=[row for row in rows if row["outcome"] == "reported"],
            known=known,
            rolled=rolled,
            drawn={row["grant_id"]: row["credits"] for row in drawn},
            quarantined=quarantined,
            counters=counted,
        )

    @cached_property
    def by_id(self) -> dict[str, Row]:
        return {row["id"]: row for row in self.rows}

    @cached_property
    def good(self) -> set[str]:
        """Ids of the calls that were answered 2xx, to the end."""
        return {call["event"] for call in self.seen if call["complete"] and is_good(call)}

    @cached_property
    def abandoned(self) -> list[Row]:
        return [row for row in self.rows if row["outcome"] == "abandoned"]


def is_good(call: Row) -> bool:
    return 200 <= call["status"] < 300
