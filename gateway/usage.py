"""What was used: the only reader of ledger and rollup for pages, billing and staff.

A *call* is one that was admitted; refused calls are none, nor is what was reported later. An
*error* is a call answered with a status of 400 or more, or abandoned; a *failure* one that the
backend or the gateway is to blame for: 500 or more, or abandoned. Sums are over live calls only
and read the rollup, so that their time doesn't grow with the number of calls: `start` and `end`
are thereby rounded to quarter hours. Every question about an account carries its id.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal
from uuid import UUID

import redis
import structlog
from django.db.models import F, Max, Q, QuerySet, Sum
from django.db.models.functions import Coalesce, Trunc

from gateway import histogram
from gateway.entries import EPOCH
from gateway.models import CreditDay, CreditUse, LatencyRollup, UsageEvent, UsageRollup
from keys import records
from keys.models import ApiKey

log = structlog.get_logger(__name__)

Step = Literal["quarter", "hour", "day"]
STEPS: dict[Step, timedelta] = {
    "quarter": timedelta(minutes=15),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
}
WEEK = timedelta(days=7)
ALL = Sum("calls")
ERRORS = Coalesce(Sum("calls", filter=Q(status_class__in=(0, 4, 5))), 0)
FAILURES = Coalesce(Sum("calls", filter=Q(status_class__in=(0, 5))), 0)


@dataclass(frozen=True, slots=True)
class PeriodUsage:
    """Sums over some time: calls, errors, and units by meter, billable ones also by terms id."""

    calls: int
    errors: int
    units: dict[str, int]
    billable_by_terms: dict[str, dict[str, int]]

    @property
    def billable_units(self) -> dict[str, int]:
        """By meter, whatever the terms."""
        total: Counter[str] = Counter()
        for by_meter in self.billable_by_terms.values():
            total.update(by_meter)
        return dict(total)


@dataclass(frozen=True, slots=True)
class PricedUnits:
    """Billable units of a meter that no price can tell apart.

    dimensions: what the calls' metadata said of the meter's dimensions; {} where it said nothing
    """

    terms_id: str
    api: str
    operation: str
    meter: str
    dimensions: dict[str, str]
    units: int


@dataclass(frozen=True, slots=True)
class Point:
    """One step of a series."""

    start: datetime
    calls: int
    errors: int


@dataclass(frozen=True, slots=True)
class Call:
    """One call as an account sees it: an event of the ledger or, without `event_id`, a refusal.

    A use that was reported later stands among them, and is marked.
    """

    event_id: UUID | None
    at: datetime
    key_id: UUID
    mode: str
    api: str
    method_path: str
    status: int
    code: str
    units: dict[str, int]
    billable: bool
    latency_ms: float | None
    is_reported: bool = False


@dataclass(frozen=True, slots=True)
class OperationUsage:
    """One operation of an API: method and path template, or "other"."""

    api: str
    operation: str
    calls: int
    errors: int
    failures: int
    latency_ms: float  # mean, to the last byte


@dataclass(frozen=True, slots=True)
class Latency:
    """How long calls took to the last byte: half of them less than `p50_ms`, and so on.

    Known to within a fifth (`gateway.histogram`); abandoned calls took no time that is known.
    """

    calls: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of all calls together, None without any, and by API and operation of those called."""

    overall: Latency | None
    by_operation: dict[tuple[str, str], Latency]


@dataclass(frozen=True, slots=True)
class Growth:
    """An account's calls in the last 7 days and in the 7 before."""

    account_id: UUID
    calls: int
    calls_before: int


@dataclass(frozen=True, slots=True)
class Owed:
    """Billable units of one account, meter and terms in one billing period.

    latest: the quarter hour of admission of the latest of them
    """

    account_id: UUID
    period_start: datetime
    meter: str
    terms_id: str
    units: int
    latest: datetime


def credits_drawn(account_id: UUID) -> dict[int, int]:
    """Credits drawn so far by grant, for settled calls that the ledger has."""
    return dict(CreditUse.objects.filter(account_id=account_id).values_list("grant_id", "credits"))


def credits_drawn_of(grant_ids: Iterable[int]) -> dict[int, int]:
    """Likewise of these grants, whoever has them."""
    found = CreditUse.objects.filter(grant_id__in=list(grant_ids))
    return dict(found.values_list("grant_id", "credits"))


def credits_by_day(account_id: UUID, limit: int) -> list[tuple[date, int]]:
    """Credits drawn on each day (UTC) on which any were, the latest first."""
    days = CreditDay.objects.filter(account_id=account_id, credits__gt=0).order_by("-day")
    return list(days.values_list("day", "credits")[:limit])


def of_period(
    account_id: UUID, period_start: datetime, period_end: datetime | None = None
) -> PeriodUsage:
    """Usage in the billing period that began at `period_start`; its end makes it quicker."""
    rows = _live(account_id).filter(
        period_start=period_start, quarter__gte=_floor(period_start, "quarter")
    )
    return _sum(rows if period_end is None else rows.filter(quarter__lt=period_end))


def priced_units(
    account_id: UUID, period_start: datetime, period_end: datetime
) -> list[PricedUnits]:
    """What is to be paid of a billing period, as far as prices can tell it apart; no zeros."""
    sums = (
        _live(account_id)
        .filter(
            period_start=period_start,
            quarter__gte=_floor(period_start, "quarter"),
            quarter__lt=period_end,
        )
        .values("terms_id", "api", "operation", "meter", "dimensions")
        .annotate(billable=Sum("billable_units"))
        .filter(billable__gt=0)
        .order_by("terms_id", "api", "operation", "meter", "dimensions")
    )
    return [
        PricedUnits(
            terms_id=row["terms_id"],
            api=row["api"],
            operation=row["operation"],
            meter=row["meter"],
            dimensions=json.loads(row["dimensions"] or "{}"),
            units=row["billable"],
        )
        for row in sums
    ]


def today(account_id: UUID, now: datetime) -> PeriodUsage:
    """Usage since midnight UTC."""
    return _sum(_live(account_id).filter(quarter__gte=_floor(now, "day")))


def series(account_id: UUID, start: datetime, end: datetime, step: Step) -> list[Point]:
    """Calls step by step (UTC) from the one that holds `start` until `end`, none left out."""
    first = _floor(start, step)
    rows = _live(account_id).filter(meter="calls", quarter__gte=first, quarter__lt=end)
    moment = F("quarter") if step == "quarter" else Trunc("quarter", step, tzinfo=UTC)
    by_step = {
        row["moment"]: (row["all"], row["errors"])
        for row in rows.values(moment=moment).annotate(all=ALL, errors=ERRORS)
    }
    starts = [first + number * STEPS[step] for number in range(-((first - end) // STEPS[step]))]
    return [Point(start, *by_step.get(start, (0, 0))) for start in starts]


def recent(account_id: UUID, limit: int, key_id: UUID | None = None) -> list[Call]:
    """The latest calls of the account, or of one key of it: in any mode, refusals included.

    Refusals are known for a day, the latest 20 of them, and not while Redis is away.
    """
    completed, reported = UsageEvent.Outcome.COMPLETED, UsageEvent.Outcome.REPORTED
    events = UsageEvent.objects.filter(account_id=account_id).order_by("-admitted_at")
    refusals = _refusals(account_id)
    if key_id is not None:
        events = events.filter(key_id=key_id)
        refusals = [refusal for refusal in refusals if refusal.key_id == key_id]
    calls = [
        Call(
            event_id=event.id,
            at=event.admitted_at,
            key_id=event.key_id,
            mode=event.mode,
            api=event.api,
            method_path=event.operation,
            status=event.status,
            code=event.code,
            units=event.units,
            billable=event.billable,
            latency_ms=event.latency_us / 1000 if event.outcome == completed else None,
            is_reported=event.outcome == reported,
        )
        for event in events[:limit]
    ]
    return sorted(calls + refusals, key=lambda call: call.at, reverse=True)[:limit]


def by_operation(account_id: UUID, start: datetime, end: datetime) -> list[OperationUsage]:
    """The account's operations, the most called first."""
    return _operations(_live(account_id), start, end, "-all", limit=None)


def latencies(account_id: UUID, start: datetime, end: datetime) -> Latencies:
    """How long the account's calls took."""
    rows = LatencyRollup.objects.filter(
        account_id=account_id,
        mode=ApiKey.Mode.LIVE,
        quarter__gte=_floor(start, "quarter"),
        quarter__lt=end,
    )
    everything: Counter[int] = Counter()
    by_operation: defaultdict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    for row in rows.values("api", "operation", "bucket").annotate(all=ALL):
        everything[row["bucket"]] += row["all"]
        by_operation[row["api"], row["operation"]][row["bucket"]] = row["all"]
    return Latencies(
        overall=_latency(everything) if everything else None,
        by_operation={name: _latency(calls) for name, calls in by_operation.items()},
    )


def top_operations(start: datetime, end: datetime, limit: int) -> list[OperationUsage]:
    """The most called operations, all accounts together."""
    return _operations(_everybodys(), start, end, "-all", limit)


def failing_operations(start: datetime, end: datetime, limit: int) -> list[OperationUsage]:
    """The operations with the most failures, all accounts together; only those with any."""
    worst = _operations(_everybodys(), start, end, "-failures", limit)
    return [operation for operation in worst if operation.failures]


def growth(now: datetime, limit: int) -> list[Growth]:
    """The accounts whose calls grew most, in calls: the last 7 days against the 7 before."""
    middle = now - WEEK
    grown = (
        _everybodys()
        .filter(meter="calls", quarter__gte=middle - WEEK, quarter__lt=now)
        .values("account_id")
        .annotate(
            after=Coalesce(Sum("calls", filter=Q(quarter__gte=middle)), 0),
            before=Coalesce(Sum("calls", filter=Q(quarter__lt=middle)), 0),
        )
        .filter(after__gt=F("before"))
        .order_by(F("before") - F("after"), "account_id")
    )
    return [Growth(row["account_id"], row["after"], row["before"]) for row in grown[:limit]]


def owed(account_ids: Iterable[UUID], periods_since: datetime, until: datetime) -> list[Owed]:
    """Billable usage of the periods that began at `periods_since` or later, up to `until`.

    In the order of periods and, within each, of their latest use.
    """
    rows = _everybodys().filter(
        account_id__in=set(account_ids),
        quarter__gte=_floor(periods_since, "quarter"),
        quarter__lt=until,
        period_start__gte=periods_since,
    )
    sums = (
        rows.values("account_id", "period_start", "meter", "terms_id")
        .annotate(used=Sum("billable_units"), latest=Max("quarter"))
        .filter(used__gt=0)
        .order_by("period_start", "latest", "account_id", "meter", "terms_id")
    )
    return [
        Owed(
            account_id=row["account_id"],
            period_start=row["period_start"],
            meter=row["meter"],
            terms_id=row["terms_id"],
            units=row["used"],
            latest=row["latest"],
        )
        for row in sums
    ]


def _everybodys() -> QuerySet[UsageRollup]:
    return UsageRollup.objects.filter(mode=ApiKey.Mode.LIVE)


def _live(account_id: UUID) -> QuerySet[UsageRollup]:
    return _everybodys().filter(account_id=account_id)


def _sum(rows: QuerySet[UsageRollup]) -> PeriodUsage:
    sums = list(
        rows.values("meter", "terms_id").annotate(
            all=ALL, errors=ERRORS, used=Sum("units"), billable=Sum("billable_units")
        )
    )
    units: Counter[str] = Counter()
    billable: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for row in sums:
        units[row["meter"]] += row["used"]
        billable[row["terms_id"]][row["meter"]] = row["billable"]
    return PeriodUsage(
        calls=sum(row["all"] for row in sums),
        errors=sum(row["errors"] for row in sums),
        units=dict(units),
        billable_by_terms=dict(billable),
    )


def _operations(
    rows: QuerySet[UsageRollup], start: datetime, end: datetime, order: str, limit: int | None
) -> list[OperationUsage]:
    sums = (
        rows.filter(calls__gt=0, quarter__gte=_floor(start, "quarter"), quarter__lt=end)
        .values("api", "operation")
        .annotate(all=ALL, errors=ERRORS, failures=FAILURES, latency_us=Sum("latency_us_sum"))
        .order_by(order, "api", "operation")
    )
    return [
        OperationUsage(
            api=row["api"],
            operation=row["operation"],
            calls=row["all"],
            errors=row["errors"],
            failures=row["failures"],
            latency_ms=row["latency_us"] / row["all"] / 1000,
        )
        for row in sums[:limit]
    ]


def _latency(calls: Counter[int]) -> Latency:
    p50_ms, p95_ms, p99_ms = (
        histogram.percentile_us(calls, share) / 1000 for share in (0.5, 0.95, 0.99)
    )
    return Latency(calls.total(), p50_ms, p95_ms, p99_ms)


def _refusals(account_id: UUID) -> list[Call]:
    """The latest refused calls, from Redis; modes and the way there from the account's keys."""
    keys = {
        key_id: (mode, partition)
        for key_id, mode, partition in ApiKey.objects.filter(account_id=account_id).values_list(
            "pk", "mode", "partition"
        )
    }
    names = {records.refusals_name(partition, account_id) for _, partition in keys.values()}
    try:
        latest = [
            json.loads(text) for name in names for text in records.connection().lrange(name, 0, -1)
        ]
    except redis.RedisError as error:
        log.warning("usage.refusals_unavailable", reason=str(error))
        return []
    return [
        Call(
            event_id=None,
            at=datetime.fromtimestamp(refusal["at_ms"] / 1000, UTC),
            key_id=UUID(refusal["key"]),
            mode=keys[UUID(refusal["key"])][0],
            api=refusal["api"],
            method_path=refusal["op"],
            status=refusal["status"],
            code=refusal["code"],
            units={},
            billable=False,
            latency_ms=None,
        )
        for refusal in latest
        if UUID(refusal["key"]) in keys
    ]


def _floor(moment: datetime, step: Step) -> datetime:
    """The start, UTC, of the step that holds the moment."""
    return moment - (moment - EPOCH) % STEPS[step]
