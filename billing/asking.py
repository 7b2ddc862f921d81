"""When a provider is asked about a hosted session that is open: of a checkout or a top-up.

Rows have `created_at`, `synced_at` and `provider_session_id`; what is asked is their owners'.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import F, QuerySet

# A session left open is asked about less and less often, in proportion to its age.
_ASK_AFTER = timedelta(seconds=10)
_ASK_SHARE_OF_AGE = 10
_ASK_AT_ONCE = 100
# Opening a session takes seconds: after this long without one, it was interrupted.
_OPENED_WITHIN = timedelta(hours=1)


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
