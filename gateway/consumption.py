"""What the data plane's counters should hold: units charged to quotas, and credits drawn.

Owns the answer to which counters there are of running periods and what the ledger says of each.
`gateway.refill` puts that into a Redis that came back empty, `gateway.counters` compares it with
what is there. Reads Postgres; asks nothing of Redis.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection

from gateway.entries import Entry
from gateway.models import CALLS, Api, CreditUse, Meter, UsageEvent
from gateway.settle import Outcome
from keys import records
from keys.entitlements import current_period
from keys.models import ApiKey, Entitlement

CHUNK = 200  # accounts: the drain waits while so many are compared
# As in scripts/admit.lua: a counter outlives its period by this.
COUNTER_OUTLIVES = timedelta(days=40)
# And a period without a known end is as long as the one before, or as this.
LONGEST_PERIOD = timedelta(days=31)

# Holder by holder, as an index finds them: what is grouped inside can't become one join over all.
# What is billable was charged.
LIVE = """
SELECT asked.holder_id, summed.*
FROM unnest(%(holders)s::uuid[], %(accounts)s::uuid[], %(starts)s::timestamptz[])
    AS asked(holder_id, account_id, start)
CROSS JOIN LATERAL (
    SELECT held.meter, sum(held.billable_units)::bigint
    FROM gateway_usagerollup AS held
    WHERE held.account_id = asked.account_id
        AND held.quarter > asked.start - interval '15 minutes'
        AND held.period_start = asked.start
        AND held.mode = 'live'
        AND asked.holder_id IN (held.account_id, held.key_id)
    GROUP BY 1
) AS summed
"""

# Nothing of test calls is billable, and the rollup does not say which of them were charged: it
# says in which quarter hours there are any, and their rows tell.
TEST = """
SELECT asked.holder_id, summed.*
FROM unnest(%(holders)s::uuid[], %(accounts)s::uuid[], %(starts)s::timestamptz[],
    %(ends)s::timestamptz[]) AS asked(holder_id, account_id, start, ends)
CROSS JOIN LATERAL (
    SELECT DISTINCT held.quarter
    FROM gateway_usagerollup AS held
    WHERE held.account_id = asked.account_id
        AND held.quarter > asked.start - interval '15 minutes'
        AND held.quarter < asked.ends
        AND held.mode = 'test'
        AND asked.holder_id IN (held.account_id, held.key_id)
) AS busy
CROSS JOIN LATERAL (
    SELECT used.meter, sum(used.units::bigint)::bigint,
        event.api, event.outcome, event.status, event.code
    FROM gateway_usageevent AS event, jsonb_each_text(event.units) AS used(meter, units)
    WHERE event.account_id = asked.account_id
        AND event.admitted_at >= greatest(busy.quarter, asked.start)
        AND event.admitted_at < least(busy.quarter + interval '15 minutes', asked.ends)
        AND event.mode = 'test'
        AND asked.holder_id IN (event.account_id, event.key_id)
    GROUP BY 1, 3, 4, 5, 6
) AS summed
"""


class Holder(NamedTuple):
    """Who has a counter by meter: an account, or a key that has a quota of its own.

    start, end: the period that is counted, half-open; for an account's test calls today, UTC
    """

    account_id: UUID
    start: datetime
    end: datetime


class Kept(NamedTuple):
    """A counter's account, and when the counter may go; None: never."""

    account_id: UUID
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Charge:
    """What one call was charged with, wherever it is on its way into the ledger.

    units:   by meter
    credits: drawn, by grant
    """

    account_id: UUID
    key_id: UUID
    mode: str
    period_start: datetime
    admitted_at: datetime
    units: Mapping[str, int]
    credits: Mapping[int, int]


class Running:
    """The counters of some accounts' running periods.

    kept: by name, those that hold nothing included
    """

    def __init__(self, partition: int, entitlements: Sequence[Entitlement], now: datetime):
        self._partition = partition
        self._account_ids = [row.pk for row in entitlements]
        self._holders = _holders(entitlements, now)
        self._unbilled = dict(Api.objects.values_list("slug", "unbilled_statuses"))
        meters = {CALLS, *Meter.objects.values_list("name", flat=True)}
        self.kept: dict[str, Kept] = {}
        for (holder_id, mode), holder in self._holders.items():
            kept = Kept(holder.account_id, holder.end + COUNTER_OUTLIVES)
            for meter in meters if holder_id == holder.account_id else (CALLS,):
                self.kept[self._name(holder_id, mode, holder, meter)] = kept
        for row in entitlements:
            for granted in row.terms.get("grants", ()):
                self.kept[records.drawn_name(partition, granted["id"])] = Kept(row.pk, None)

    def of_ledger(self) -> Counter[str]:
        """What the ledger says that each counter holds; those without usage are left out.

        Counters that it alone knows of (of a meter that is no longer sold) are kept, too.
        """
        total: Counter[str] = Counter()
        for use in CreditUse.objects.filter(account_id__in=self._account_ids):
            name = records.drawn_name(self._partition, use.grant_id)
            self.kept[name] = Kept(use.account_id, None)
            total[name] = use.credits
        for holder_id, meter, units in self._rows(LIVE, ApiKey.Mode.LIVE):
            self._add(total, holder_id, ApiKey.Mode.LIVE, meter, units)
        for holder_id, meter, units, *ended in self._rows(TEST, ApiKey.Mode.TEST):
            if self._counts(*ended):
                self._add(total, holder_id, ApiKey.Mode.TEST, meter, units)
        return +total

    def settled(self, entry: Entry) -> Charge:
        """What a settled call kept of what it was charged with."""
        if entry.mode == ApiKey.Mode.LIVE:
            is_charged = entry.billable
        else:
            is_charged = self._counts(entry.api, entry.outcome, entry.status, entry.code)
        return Charge(
            account_id=entry.account_id,
            key_id=entry.key_id,
            mode=entry.mode,
            period_start=entry.period_start,
            admitted_at=entry.admitted_at,
            units=entry.units if is_charged else {},
            credits={int(grant): drawn for grant, drawn in (entry.credits or {}).items()},
        )

    def charge(self, total: Counter[str], charge: Charge) -> None:
        """Adds a call that the ledger doesn't have to what the counters hold."""
        for holder_id in (charge.account_id, charge.key_id):
            holder = self._holders.get((holder_id, charge.mode))
            if holder is None:
                continue
            if charge.mode == ApiKey.Mode.LIVE:
                is_counted = charge.period_start == holder.start
            else:
                is_counted = holder.start <= charge.admitted_at < holder.end
            if is_counted:
                for meter, units in charge.units.items():
                    self._add(total, holder_id, charge.mode, meter, units)
        for grant_id, drawn in charge.credits.items():
            name = records.drawn_name(self._partition, grant_id)
            if name in self.kept:
                total[name] += drawn

    def _counts(self, api: str, outcome: str, status: int, code: str) -> bool:
        """Whether a test call that ended like that was charged, as its API says today."""
        ended = Outcome()
        ended.status, ended.code = status, code
        return outcome == UsageEvent.Outcome.REPORTED or (
            outcome == UsageEvent.Outcome.COMPLETED
            and ended.is_charged(self._unbilled.get(api, ()))
        )

    def _add(self, total: Counter[str], holder_id: UUID, mode: str, meter: str, units: int) -> None:
        holder = self._holders[holder_id, mode]
        if meter == CALLS or holder_id == holder.account_id:  # a key's quota is of calls
            name = self._name(holder_id, mode, holder, meter)
            self.kept.setdefault(name, Kept(holder.account_id, holder.end + COUNTER_OUTLIVES))
            total[name] += units

    def _name(self, holder_id: UUID, mode: str, holder: Holder, meter: str) -> str:
        return records.used_name(self._partition, holder_id, mode, holder.start, meter)

    def _rows(self, query: str, mode: str) -> list[tuple[Any, ...]]:
        asked = [(of[0], holder) for of, holder in self._holders.items() if of[1] == mode]
        if not asked:
            return []
        given: dict[str, Any] = {
            "holders": [holder_id for holder_id, _ in asked],
            "accounts": [holder.account_id for _, holder in asked],
            "starts": [holder.start for _, holder in asked],
            "ends": [holder.end for _, holder in asked],
        }
        with connection.cursor() as cursor:
            cursor.execute(query, given)
            return list(cursor.fetchall())


def running(partition: int, now: datetime) -> Iterator[Running]:
    """The counters of all accounts of a partition, some accounts at a time."""
    rows = Entitlement.objects.filter(account__partition=partition).iterator(CHUNK)
    while some := list(islice(rows, CHUNK)):
        yield Running(partition, some, now)


def _holders(entitlements: Sequence[Entitlement], now: datetime) -> dict[tuple[UUID, str], Holder]:
    """By id and mode. An account outside all of its periods has none."""
    live, test = ApiKey.Mode.LIVE.value, ApiKey.Mode.TEST.value
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    holders = {}
    for row in entitlements:
        period = _period(row, now)
        if period is not None:
            holders[row.pk, live] = Holder(row.pk, *period)
            holders[row.pk, test] = Holder(row.pk, today, today + timedelta(days=1))
    with_quota = ApiKey.objects.filter(
        account_id__in=[row.pk for row in entitlements], monthly_quota__isnull=False
    ).exclude(state=ApiKey.State.REVOKED)
    for key in with_quota:
        if (key.account_id, live) in holders:
            # Test calls count by the day, against a key's own quota all the same by the period.
            holders[key.pk, key.mode] = holders[key.account_id, live]
    return holders


def _period(entitlement: Entitlement, now: datetime) -> tuple[datetime, datetime] | None:
    period = current_period(entitlement, now)
    if period is None:
        return None
    start = datetime.fromtimestamp(period[0], UTC)
    if period[1] is not None:
        return start, datetime.fromtimestamp(period[1], UTC)
    before = entitlement.periods[-2:-1]
    length = timedelta(seconds=period[0] - before[0]) if before else LONGEST_PERIOD
    return start, start + length
