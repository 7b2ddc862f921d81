"""Time-ordered identifiers (UUIDv7, RFC 9562 §5.7) for everything that outsiders see."""

import secrets
from datetime import datetime
from uuid import UUID

import uuid_utils.compat

_VERSION, _VARIANT = 7 << 76, 2 << 62


def new_id() -> UUID:
    """A UUIDv7 drawn now: sorts by creation, says nothing but its millisecond."""
    return uuid_utils.compat.uuid7()


def id_at(moment: datetime) -> UUID:
    """A UUIDv7 as if it were drawn then: sorts by that moment."""
    milliseconds = int(moment.timestamp() * 1000)
    drawn = secrets.randbits(12) << 64 | secrets.randbits(62)
    return UUID(int=milliseconds << 80 | _VERSION | _VARIANT | drawn)
