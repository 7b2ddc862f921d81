"""What is on sale (APIs, operations, meters) and what was used of it (ledger, rollups)."""

from gateway.models.catalogue import (
    CALLS,
    SCOPE,
    Api,
    Meter,
    Operation,
    Routes,
    WrittenJSONField,
)
from gateway.models.ledger import (
    CounterCorrection,
    CreditDay,
    CreditUse,
    LatencyRollup,
    LedgerClock,
    LedgerClosing,
    LedgerHour,
    QuarantinedEntry,
    RefusalRollup,
    ReportedEvent,
    UsageEvent,
    UsageRollup,
)

__all__ = [
    "CALLS",
    "SCOPE",
    "Api",
    "CounterCorrection",
    "CreditDay",
    "CreditUse",
    "LatencyRollup",
    "LedgerClock",
    "LedgerClosing",
    "LedgerHour",
    "Meter",
    "Operation",
    "QuarantinedEntry",
    "RefusalRollup",
    "ReportedEvent",
    "Routes",
    "UsageEvent",
    "UsageRollup",
    "WrittenJSONField",
]
