"""Spend caps as the data plane has them: prices compiled to integers, and what usage costs.

`billing.caps` compiles, `gateway/scripts/admit.lua` does the same arithmetic at every call of an
account with a cap, `gateway.limits` tells what is spent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Segment = tuple[int, int, int, int, int]
"""From, base, step, rise, per: past `from` units, what is used costs
(base + rise for each started `step` of units) / per minor units."""


@dataclass(frozen=True, slots=True)
class MeterCost:
    """What units of a meter past the included ones cost, by segments that rise in `from`."""

    meter: str
    included: int
    segments: tuple[Segment, ...]

    def minor(self, used: int) -> int:
        """Minor units for so many units of the period, half a unit rounded up."""
        return self.minor_past(used - self.included)

    def minor_past(self, past: int) -> int:
        """Minor units for so many units past the included ones."""
        amount = 0
        for start, base, step, rise, per in self.segments:
            if past <= start:
                break
            exact = base + -(-(past - start) // step) * rise
            amount = (2 * exact + per) // (2 * per)
        return amount

    def to_json(self) -> dict[str, Any]:
        segments = [list(segment) for segment in self.segments]
        return {"meter": self.meter, "included": self.included, "segments": segments}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> MeterCost:
        segments = tuple(tuple(segment) for segment in stored["segments"])
        return cls(stored["meter"], stored["included"], segments)


@dataclass(frozen=True, slots=True)
class Earlier:
    """What a period had already cost when its terms changed, and the units that cost it.

    period_start: epoch seconds; what is said here holds in that period only
    included:     by meter what is left of the included units, where that isn't all of them
    past:         by meter the units that were past the included ones at the same price, from
                  which it goes on; what they cost is not in `spent_minor`
    """

    period_start: int
    spent_minor: int
    used: dict[str, int]
    included: dict[str, int] = field(default_factory=dict)
    past: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SpendCap:
    """The most that usage of a billing period may cost, over all meters that have a price."""

    cap_minor: int
    currency: str
    costs: tuple[MeterCost, ...]
    earlier: Earlier | None = None

    def spent_minor(self, used: Mapping[str, int], period_start: int = 0) -> int:
        """What so many units of the period that starts then cost."""
        earlier = self.earlier
        if earlier is None or earlier.period_start != period_start:
            earlier = Earlier(period_start, 0, {})
        spent = earlier.spent_minor
        for cost in self.costs:
            since = used.get(cost.meter, 0) - earlier.used.get(cost.meter, 0)
            past = max(since - earlier.included.get(cost.meter, cost.included), 0)
            spent += cost.minor_past(past + earlier.past.get(cost.meter, 0))
        return spent

    def to_json(self) -> dict[str, Any]:
        return {
            "cap_minor": self.cap_minor,
            "currency": self.currency,
            "costs": [cost.to_json() for cost in self.costs],
            "earlier": asdict(self.earlier) if self.earlier else None,
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> SpendCap:
        earlier = stored.get("earlier")
        return cls(
            stored["cap_minor"],
            stored["currency"],
            tuple(MeterCost.from_json(cost) for cost in stored["costs"]),
            Earlier(**earlier) if earlier else None,
        )
