"""What a backend's report of a later use says, and whether it can be stored as it is.

Judges by what exists: meters, accounts, keys, calls, operations, billing periods. Stores nothing;
`gateway.reported` does.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from gateway import calls
from gateway.calls import Call
from gateway.consumption import LONGEST_PERIOD
from gateway.entries import Entry
from gateway.models import Meter, Operation, UsageEvent, UsageRollup
from keys.entitlements import current_period
from keys.identifiers import id_at
from keys.models import ApiKey, Entitlement

LONGEST_AHEAD = timedelta(minutes=5)
LONGEST_AGO = timedelta(days=35)
NO_KEY = UUID(int=0)
"""The key of a use for which none was named."""
STATUS = 200
"""What the ledger has as the status of a use, which had none."""


@dataclass(frozen=True, slots=True)
class Report:
    """One use as its sender tells of it; None and empty text are what was left out.

    id:    the sender's own
    event: the call that it belongs to, which says whose, when and of what it was
    at:    when it happened; None: now
    """

    id: str
    units: dict[str, int]
    metadata: dict[str, str]
    account: UUID | None = None
    event: UUID | None = None
    key: UUID | None = None
    at: datetime | None = None
    api: str = ""
    operation: str = ""

    def digest(self) -> str:
        """SHA-256 of all that it says."""
        told = self.account, self.event, self.key, self.at, self.api, self.operation
        text = json.dumps([self.id, self.units, self.metadata, *map(str, told)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class Fault(NamedTuple):
    """Why a report is not kept: a code, and a sentence for people."""

    code: str
    detail: str


FAULTS = {
    "unknown_meter": "A meter in `units` does not exist.",
    "unknown_account": "No account that ever had a plan has this id.",
    "unknown_event": "No call of the last 35 days has this id.",
    "event_mismatch": "The report names another account, key, API or operation than its event.",
    "unknown_key": "The account has no key with this id.",
    "unknown_operation": "The API does not exist, or has no such operation.",
    "time_out_of_range": "The time is more than 5 minutes ahead or 35 days ago.",
    "no_period": "The account has no billing period that holds this time.",
    "conflict": "The account has a use with this id and other content, which stays as it was.",
}


class Use(NamedTuple):
    """A report that can be stored: as its row, for an account of this partition.

    content:        the report's digest
    own_quota_from: the start of the period by which its key's own quota counts; None: it has none
    """

    event_id: str
    content: str
    entry: Entry
    partition: int
    own_quota_from: datetime | None

    @property
    def identity(self) -> tuple[UUID, str]:
        """What counts once."""
        return self.entry.account_id, self.event_id


class Judge:
    """Judges reports that came together: what they name is read for all of them at once."""

    def __init__(self, reports: Sequence[Report], now: datetime):
        self._now = now
        self._meters = set(Meter.objects.values_list("name", flat=True))
        self._calls = calls.find({r.event for r in reports if r.event}, since=now - LONGEST_AGO)
        called = self._calls.values()
        self._keys = ApiKey.objects.in_bulk(
            {r.key for r in reports if r.key} | {call.key_id for call in called}
        )
        self._entitlements = Entitlement.objects.select_related("account").in_bulk(
            {r.account for r in reports if r.account} | {call.account_id for call in called}
        )
        self._operations: defaultdict[str, set[str]] = defaultdict(set)
        named = Operation.objects.filter(api__slug__in={r.api for r in reports if r.api})
        for slug, method, template in named.values_list("api__slug", "method", "path_template"):
            self._operations[slug].add(f"{method.upper()} {template}")
        self._earlier = _earlier_periods(self._entitlements.values(), reports, now)

    def judge(self, report: Report) -> Use | Fault:
        unknown = set(report.units) - self._meters
        if unknown:
            return Fault("unknown_meter", f"There is no meter “{min(unknown)}”.")
        call = self._call_of(report) if report.event else self._told_by(report)
        if isinstance(call, Fault):
            return call
        entitlement = self._entitlements[call.account_id]
        key = self._keys.get(call.key_id)
        has_quota = key is not None and key.monthly_quota is not None
        entry = Entry(
            id=id_at(call.at),
            admitted_at=call.at,
            account_id=call.account_id,
            key_id=call.key_id,
            api=call.api,
            operation=call.operation,
            mode=call.mode,
            outcome=UsageEvent.Outcome.REPORTED.value,
            status=STATUS,
            code="",
            billable=call.mode == ApiKey.Mode.LIVE,
            units=report.units,
            metadata=report.metadata,
            latency_us=0,
            upstream_us=0,
            request_bytes=0,
            response_bytes=0,
            period_start=call.period_start,
            terms_id=call.terms_id,
            credits=None,
            client="",
        )
        own_quota_from = self._period_start(entitlement, call.at) if has_quota else None
        return Use(report.id, report.digest(), entry, entitlement.account.partition, own_quota_from)

    def _call_of(self, report: Report) -> Call | Fault:
        """The call that the report belongs to."""
        call = self._calls.get(report.event) if report.event else None
        if call is None or call.account_id not in self._entitlements:
            return _fault("unknown_event")
        told = (report.account, call.account_id), (report.key, call.key_id)
        names = (report.api, call.api), (report.operation, call.operation)
        if any(said and said != is_so for said, is_so in (*told, *names)):
            return _fault("event_mismatch")
        return call

    def _told_by(self, report: Report) -> Call | Fault:
        """What a report without an event says itself, as if it were a call."""
        at = report.at or self._now
        if not self._now - LONGEST_AGO <= at <= self._now + LONGEST_AHEAD:
            return _fault("time_out_of_range")
        entitlement = self._entitlements.get(report.account) if report.account else None
        if entitlement is None:
            return _fault("unknown_account")
        key = self._keys.get(report.key) if report.key else None
        if report.key and (key is None or key.account_id != report.account):
            return _fault("unknown_key")
        if (report.api or report.operation) and not self._sells(report.api, report.operation):
            return _fault("unknown_operation")
        period_start = self._period_start(entitlement, at)
        if period_start is None:
            return _fault("no_period")
        mode = key.mode if key else ApiKey.Mode.LIVE.value
        if mode == ApiKey.Mode.TEST:
            period_start = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return Call(
            account_id=entitlement.pk,
            key_id=key.pk if key else NO_KEY,
            mode=mode,
            period_start=period_start,
            terms_id=entitlement.terms_id,
            at=at,
            api=report.api,
            operation=report.operation,
        )

    def _sells(self, api: str, operation: str) -> bool:
        return operation in self._operations[api] if operation else bool(self._operations[api])

    def _period_start(self, entitlement: Entitlement, at: datetime) -> datetime | None:
        """Of the billing period that holds the moment; None where that is not known."""
        period = current_period(entitlement, at)
        if period is not None:
            return datetime.fromtimestamp(period[0], UTC)
        earlier = self._earlier.get(entitlement.pk, ())
        return max((start for start in earlier if start <= at), default=None)


def _earlier_periods(
    entitlements: Collection[Entitlement], reports: Sequence[Report], now: datetime
) -> dict[UUID, set[datetime]]:
    """Starts of periods before those that entitlements know, by account, as the ledger has them.

    Asked for only where a report is that old.
    """
    oldest = min((report.at for report in reports if report.at), default=now)
    accounts = {
        row.pk for row in entitlements if row.periods and oldest.timestamp() < row.periods[0]
    }
    found: defaultdict[UUID, set[datetime]] = defaultdict(set)
    if accounts:
        rows = UsageRollup.objects.filter(
            account_id__in=accounts,
            mode=ApiKey.Mode.LIVE,
            quarter__gte=now - LONGEST_AGO - LONGEST_PERIOD,
        )
        for account_id, start in rows.values_list("account_id", "period_start").distinct():
            found[account_id].add(start)
    return found


def _fault(code: str) -> Fault:
    return Fault(code, FAULTS[code])
