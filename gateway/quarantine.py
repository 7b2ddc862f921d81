"""Entries that the ledger could not store: tried again, or given up, by staff.

`gateway.ledger` puts them there. They stay as they are, with what became of them. Decides nothing
about who may do so.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from gateway import entries
from gateway.models import QuarantinedEntry
from keys import records


def fields(entry: QuarantinedEntry) -> dict[Any, Any]:
    """The entry's fields, byte for byte as they were in the stream."""
    return {
        name.encode("latin-1"): value.encode("latin-1")
        for name, value in json.loads(bytes(entry.payload)).items()
    }


def replay(entry: QuarantinedEntry, now: datetime) -> None:
    """Puts the entry back into the stream, for the next drain to store.

    Twice is no harm, nor is a kill in between: the ledger has each event once. What can't be
    stored again comes back into quarantine as an entry of its own. Raises ValueError saying what
    is wrong with one that can't even be read, and `redis.RedisError`; it then stays where it is.
    """
    given = fields(entry)
    entries.parse(given)
    records.connection().xadd(records.usage_stream(entry.partition), given)
    _close(entry, QuarantinedEntry.Resolution.REPLAYED, "", now)


def discard(entry: QuarantinedEntry, reason: str, now: datetime) -> None:
    """Gives the entry up, for a reason: its call will be in no bill, and is in no quota."""
    _close(entry, QuarantinedEntry.Resolution.DISCARDED, reason, now)


def _close(
    entry: QuarantinedEntry, resolution: QuarantinedEntry.Resolution, reason: str, now: datetime
) -> None:
    QuarantinedEntry.objects.filter(pk=entry.pk, closed_at=None).update(
        closed_at=now, resolution=resolution, reason=reason
    )
