"""What became of an account's credits, day by day: given, drawn, expired, taken back.

Pure: its owner finds the grants (`billing.allowances`) and the ledger's sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Literal

from billing.allowances import Held


@dataclass(frozen=True)
class Turn:
    """credits: above 0 where there are more of them afterwards"""

    day: date
    kind: Literal["given", "drawn", "expired", "taken_back"]
    credits: int
    text: str


def turns(holdings: Iterable[Held], drawn: Sequence[tuple[date, int]], now: datetime) -> list[Turn]:
    """The latest first; of one day, what took credits stands above what brought them.

    drawn: credits by day of admission, UTC
    """
    found = [Turn(day, "drawn", -amount, "Drawn by calls") for day, amount in drawn]
    for held in holdings:
        grant = held.grant
        name = grant.reason or grant.get_source_display()
        found.append(Turn(_day(grant.created_at), "given", grant.amount, name))
        if not held.unspent:
            continue
        if grant.taken_back_at is not None:
            day = _day(grant.taken_back_at)
            found.append(Turn(day, "taken_back", -held.unspent, f"Taken back: {name}"))
        elif grant.expires_at is not None and grant.expires_at <= now:
            day = _day(grant.expires_at)
            found.append(Turn(day, "expired", -held.unspent, f"Expired: {name}"))
    return sorted(found, key=lambda turn: (turn.day, -turn.credits), reverse=True)


def _day(moment: datetime) -> date:
    return moment.astimezone(UTC).date()
