"""Usage that a backend reports after the call, or without one: tokens of a stream, jobs.

Owns that an id counts once per account, and how a report gets into the ledger, the quotas'
counters and the credits. What a report may name is judged by `gateway.reports`; how reports
arrive and are spelled is `portal.api.events`'.

A report tells of what has happened: no limit holds it back. It may go past a quota, which then
refuses the next call, and past the credits, which then pay for nothing more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from enum import Enum
from uuid import UUID

import redis
import structlog
from django.db import connection, transaction

from gateway import partitions, recording, usage
from gateway.consumption import COUNTER_OUTLIVES, LONGEST_PERIOD
from gateway.entries import Entry
from gateway.models import CALLS, ReportedEvent
from gateway.reports import FAULTS, Fault, Judge, Report, Use
from keys import records
from keys.entitlements import Terms
from keys.identifiers import new_id
from keys.models import Entitlement

log = structlog.get_logger(__name__)

# Of two requests with the same ids the second waits here for the first; in one order, so that
# they never wait for each other.
CLAIM = """
INSERT INTO gateway_reportedevent (account_id, event_id, usage_id, admitted_at, content)
SELECT * FROM unnest(%s::uuid[], %s::text[], %s::uuid[], %s::timestamptz[], %s::text[])
ORDER BY 1, 2
ON CONFLICT DO NOTHING
RETURNING account_id, event_id
"""

# KEYS: the ready marker, what this batch is known by, counters. ARGV: of each counter the units
# and the seconds after which it is forgotten, "" for never. Sent twice it counts once. A Redis
# that is being filled is told nothing: it gets the batch from the ledger.
COUNT = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if not redis.call('SET', KEYS[2], 1, 'NX', 'EX', 60) then return 0 end
for i = 3, #KEYS do
  local units, forgotten = tonumber(ARGV[2 * i - 5]), ARGV[2 * i - 4]
  if redis.call('INCRBY', KEYS[i], units) == units and forgotten ~= '' then
    redis.call('EXPIRE', KEYS[i], forgotten)
  end
end
return 1
"""

Identity = tuple[UUID, str]


class Kept(Enum):
    """A report that the ledger has."""

    NEW = "new"
    KNOWN = "known"  # from an earlier report that said the same


def store(reports: Sequence[Report], now: datetime) -> list[Kept | Fault]:
    """Puts the reports into the ledger, each once: what became of each, in their order.

    All that can be kept is kept, in one transaction. Raises `django.db.Error`, and then nothing
    was kept. While Redis is away the counters lag until they are compared with the ledger.
    """
    judge = Judge(reports, now)
    judged = [judge.judge(report) for report in reports]
    first: dict[Identity, Use] = {}
    for use in judged:
        if isinstance(use, Use):
            first.setdefault(use.identity, use)
    partitions.ensure(use.entry.admitted_at for use in first.values())
    with transaction.atomic():
        held = _claim(first.values())
        new = {identity: use for identity, use in first.items() if identity not in held}
        for partition in sorted({use.partition for use in new.values()}):
            _record(partition, [use for use in new.values() if use.partition == partition], now)
    log.info("usage.reported", reports=len(reports), new=len(new))
    said = held | {identity: use.content for identity, use in new.items()}

    def outcome(use: Use) -> Kept | Fault:
        if said[use.identity] != use.content:
            return Fault("conflict", FAULTS["conflict"])
        return Kept.NEW if new.get(use.identity) is use else Kept.KNOWN

    return [use if isinstance(use, Fault) else outcome(use) for use in judged]


def _claim(uses: Collection[Use]) -> dict[Identity, str]:
    """Takes the ids of the uses; of those that were taken before, what was reported then."""
    columns = zip(
        *((*use.identity, use.entry.id, use.entry.admitted_at, use.content) for use in uses),
        strict=True,
    )
    with connection.cursor() as cursor:
        cursor.execute(CLAIM, [list(column) for column in columns] or [[]] * 5)
        claimed = set(cursor.fetchall())
    taken = {use.identity for use in uses} - claimed
    if not taken:
        return {}
    rows = ReportedEvent.objects.filter(
        account_id__in={account_id for account_id, _ in taken},
        event_id__in={event_id for _, event_id in taken},
    )
    return {
        (account_id, event_id): content
        for account_id, event_id, content in rows.values_list("account_id", "event_id", "content")
        if (account_id, event_id) in taken
    }


def _record(partition: int, uses: Sequence[Use], now: datetime) -> None:
    """Stores uses that are new, and counts them once that is committed."""
    recording.lock(partition)
    entries = _with_credits([use.entry for use in uses])
    recording.record(entries, recording.tick(partition, now))
    transaction.on_commit(_Counters(partition, uses, entries, now).add)


class _Purse:
    """An account's credits, as the ledger has drawn of them: calls on their way are not in it.

    terms: with grants, and meters that they pay for
    """

    def __init__(self, account_id: UUID, terms: Terms):
        drawn = usage.credits_drawn(account_id)
        self._account_id = account_id
        self._grants = terms.grants
        self._left = {grant.id: grant.amount - drawn.get(grant.id, 0) for grant in terms.grants}
        self._meters = {
            name: meter for name, meter in terms.meters.items() if meter.past == "credits"
        }
        self._used: dict[datetime, Counter[str]] = {}

    def pay(self, entry: Entry) -> Entry:
        """The entry with what it draws, in the grants' order; what they don't cover is unpaid."""
        if not entry.billable:
            return entry
        start = entry.period_start
        if start not in self._used:
            used = usage.of_period(self._account_id, start).billable_units
            self._used[start] = Counter(used)
        due = sum(self._price(meter, entry) for meter in self._meters)
        self._used[start].update(entry.units)
        drawn: dict[str, int] = {}
        for grant in self._grants:
            part = min(self._left[grant.id], due)
            is_over = grant.expires_at is not None and (
                grant.expires_at <= entry.admitted_at.timestamp()
            )
            if part > 0 and not is_over:
                self._left[grant.id] -= part
                due -= part
                drawn[str(grant.id)] = part
        return entry._replace(credits=drawn or None)

    def _price(self, meter: str, entry: Entry) -> int:
        """Of the units past the included ones, in credits."""
        terms, before = self._meters[meter], self._used[entry.period_start][meter]
        after = before + entry.units.get(meter, 0)
        past = max(after - terms.included, 0) - max(before - terms.included, 0)
        return past * terms.credits_per_unit


def _with_credits(entries: Sequence[Entry]) -> list[Entry]:
    """The drain waits meanwhile: nothing is asked about accounts that credits pay nothing for."""
    purses = {}
    for row in Entitlement.objects.filter(pk__in={entry.account_id for entry in entries}):
        terms = Terms.from_json(row.terms)
        if terms.grants and any(meter.past == "credits" for meter in terms.meters.values()):
            purses[row.pk] = _Purse(row.pk, terms)
    return [
        purses[entry.account_id].pay(entry) if entry.account_id in purses else entry
        for entry in entries
    ]


# ------------------------------------------------------------------ counters


class _Counters:
    """What is added to counters of a partition, and when each may be forgotten."""

    def __init__(
        self, partition: int, uses: Sequence[Use], entries: Sequence[Entry], now: datetime
    ):
        self._partition = partition
        self._now = now
        self._units: Counter[str] = Counter()
        self._forgotten: dict[str, int | str] = {}
        for use, entry in zip(uses, entries, strict=True):
            for meter, units in entry.units.items():
                self._use(entry.account_id, entry.mode, entry.period_start, meter, units)
            if use.own_quota_from is not None:
                calls = entry.units.get(CALLS, 0)
                self._use(entry.key_id, entry.mode, use.own_quota_from, CALLS, calls)
            for grant, drawn in (entry.credits or {}).items():
                name = records.drawn_name(partition, int(grant))
                self._units[name] += drawn
                self._forgotten[name] = ""

    def _use(self, holder: UUID, mode: str, start: datetime, meter: str, units: int) -> None:
        if units:
            name = records.used_name(self._partition, holder, mode, start, meter)
            self._units[name] += units
            forgotten = start + LONGEST_PERIOD + COUNTER_OUTLIVES
            self._forgotten[name] = (forgotten - self._now) // timedelta(seconds=1)

    def add(self) -> None:
        """Adds all of it at once; a Redis that is away is left to the hourly comparison."""
        names = [
            records.ready_name(self._partition),
            records.counted_name(self._partition, new_id()),
            *self._units,
        ]
        given = (
            part for name in self._units for part in (self._units[name], self._forgotten[name])
        )
        try:
            records.connection().eval(COUNT, len(names), *names, *given)
        except redis.RedisError as error:
            log.warning("usage.reported_uncounted", reason=str(error))
