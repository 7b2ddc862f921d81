"""A provider is asked about a hosted session, of a checkout or a top-up: when, and what it says.

Both have the same columns for that. What is asked, and what follows when it is paid, is theirs.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import F, QuerySet

from billing.models import Checkout, TopUp
from billing.providers import CheckoutState

# A session left open is asked about less and less often, in proportion to its age.
_ASK_AFTER = timedelta(seconds=10)
_ASK_SHARE_OF_AGE = 10
_ASK_AT_ONCE = 100
# Opening a session takes seconds: after this long without one, it was interrupted.
_OPENED_WITHIN = timedelta(hours=1)
# The same words in both rows' states.
_ENDINGS = ("failed", "expired")
WRITTEN = ("state", "payment_pending", "error", "applied_ticket", "synced_at")
"""What `note` writes into a row, for its `update_fields`."""


def due(rows: QuerySet[Any], now: datetime) -> list[UUID]:
    """Those of the rows to ask about now, the longest unasked first."""
    waiting = rows.exclude(provider_session_id="").order_by(F("synced_at").asc(nulls_first=True))
    return [
        row.pk
        for row in waiting.only("pk", "created_at", "synced_at").iterator()
        if now - (row.synced_at or row.created_at)
        >= max(_ASK_AFTER, (now - row.created_at) / _ASK_SHARE_OF_AGE)
    ][:_ASK_AT_ONCE]


def interrupted(rows: QuerySet[Any], now: datetime) -> QuerySet[Any]:
    """Those of the open rows that never got a session, so that nobody can pay at it."""
    return rows.filter(provider_session_id="", created_at__lte=now - _OPENED_WITHIN)


def note(row: Checkout | TopUp, ticket: int, said: CheckoutState, now: datetime) -> None:
    """Writes into the row what its provider said, but for what follows when it is paid."""
    row.applied_ticket, row.synced_at = ticket, now
    row.payment_pending = said.status == "pending"
    row.error = said.error[:200]
    if said.status in _ENDINGS:
        row.state = said.status


def is_let_down(row: Checkout | TopUp, was_on_its_way: bool) -> bool:
    """Whether a payment failed whose buyer was told not to wait for it."""
    retriable = row.state == "open" and row.error and not row.payment_pending
    return was_on_its_way and bool(row.state == "failed" or retriable)
