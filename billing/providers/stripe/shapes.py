"""Takes Stripe's answers and events apart, whichever API version they are in.

What is not there, or is of another kind than it should be, is empty: whoever needs it says so.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def part(holder: Any, *names: str) -> dict[str, Any]:
    """The object that lies inside, however deep."""
    for name in names:
        holder = holder.get(name) if isinstance(holder, dict) else None
    return holder if isinstance(holder, dict) else {}


def entries(holder: Any, *names: str) -> list[dict[str, Any]]:
    """The objects of a list, Stripe's own kind (`data`) or a plain one."""
    *path, last = names
    inside = part(holder, *path).get(last) if path or isinstance(holder, dict) else None
    if isinstance(inside, dict):
        inside = inside.get("data")
    return [one for one in inside if isinstance(one, dict)] if isinstance(inside, list) else []


def text(holder: Any, name: str) -> str:
    held = holder.get(name) if isinstance(holder, dict) else None
    return held if isinstance(held, str) else ""


def whole(holder: Any, name: str) -> int:
    held = holder.get(name) if isinstance(holder, dict) else None
    return held if isinstance(held, int) else 0


def id_of(reference: Any) -> str:
    """Of what Stripe gives as an id, or expanded; empty for what is neither."""
    return reference if isinstance(reference, str) else text(reference, "id")


def moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
