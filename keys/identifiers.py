"""Time-ordered identifiers (UUIDv7, RFC 9562 §5.7) for everything that outsiders see."""

from uuid import UUID

import uuid_utils.compat


def new_id() -> UUID:
    """A UUIDv7 drawn now: sorts by creation, says nothing but its millisecond."""
    return uuid_utils.compat.uuid7()
