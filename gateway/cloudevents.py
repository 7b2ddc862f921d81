"""Entries and hours of the ledger as CloudEvents 1.0, in the one form that digests are made of.

A line is JSON with sorted keys, no space outside of strings, in UTF-8, integers only: whoever
has it can make its digest with nothing but SHA-256. The form is a promise to those who keep
exports (docs/ledger.md); it depends on no setting and never changes for what is recorded.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from gateway.models import LedgerHour

ENTRY_TYPE = "com.keystile.ledger.entry"
HOUR_TYPE = "com.keystile.ledger.hour"
HOUR = timedelta(hours=1)

COLUMNS = (
    "id",
    "admitted_at",
    "recorded_at",
    "account_id",
    "key_id",
    "api",
    "operation",
    "mode",
    "outcome",
    "status",
    "code",
    "billable",
    "units",
    "metadata",
    "latency_us",
    "upstream_us",
    "request_bytes",
    "response_bytes",
    "period_start",
    "terms_id",
    "credits",
)


class Entry(Protocol):
    """A row of the ledger with `COLUMNS`: all that it holds."""

    id: UUID
    admitted_at: datetime
    recorded_at: datetime
    account_id: UUID
    key_id: UUID
    api: str
    operation: str
    mode: str
    outcome: str
    status: int
    code: str
    billable: bool
    units: dict[str, int]
    metadata: dict[str, str]
    latency_us: int
    upstream_us: int
    request_bytes: int
    response_bytes: int
    period_start: datetime
    terms_id: str
    credits: dict[str, int] | None


_encode = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
).encode


def canonical(value: Any) -> str:
    """JSON as it is digested: keys sorted by code point, no spaces, UTF-8 unescaped."""
    return _encode(value)


def moment(at: datetime) -> str:
    """RFC 3339 in UTC, with microseconds where there are any."""
    return at.isoformat().replace("+00:00", "Z")


def entry_line(entry: Entry) -> bytes:
    """One entry as a line, its end included."""
    account = str(entry.account_id)
    event = {
        "specversion": "1.0",
        "type": ENTRY_TYPE,
        "source": f"/gateway/{entry.api}",
        "id": str(entry.id),
        "time": moment(entry.admitted_at),
        "subject": account,
        "datacontenttype": "application/json",
        "data": {
            "account": account,
            "key": str(entry.key_id),
            "api": entry.api,
            "operation": entry.operation,
            "mode": entry.mode,
            "outcome": entry.outcome,
            "status": entry.status,
            "code": entry.code,
            "billable": entry.billable,
            "units": entry.units,
            "metadata": entry.metadata,
            "credits": entry.credits,
            "latency_us": entry.latency_us,
            "upstream_us": entry.upstream_us,
            "request_bytes": entry.request_bytes,
            "response_bytes": entry.response_bytes,
            "period": moment(entry.period_start),
            "terms": entry.terms_id,
            "recorded_at": moment(entry.recorded_at),
        },
    }
    return _encode(event).encode() + b"\n"


def hour_digest(hour: LedgerHour) -> str:
    """SHA-256 of what the hour swears to, which its own `digest` ought to be."""
    return hashlib.sha256(canonical(_sworn(hour)).encode()).hexdigest()


def hour_line(hour: LedgerHour) -> bytes:
    """A closed hour as a line, its end included; stands after the lines of its entries."""
    event = {
        "specversion": "1.0",
        "type": HOUR_TYPE,
        "source": "/ledger",
        "id": hour.digest,
        "time": moment(hour.hour + HOUR),
        "subject": str(hour.account_id),
        "datacontenttype": "application/json",
        "data": {**_sworn(hour), "digest": hour.digest},
    }
    return _encode(event).encode() + b"\n"


def _sworn(hour: LedgerHour) -> dict[str, Any]:
    return {
        "account": str(hour.account_id),
        "hour": moment(hour.hour),
        "previous": hour.previous,
        "entries": hour.entries,
        "entries_digest": hour.entries_digest,
        "totals": hour.totals,
    }
