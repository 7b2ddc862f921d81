"""How far into a period's quota an account is, and where its pace leads.

Pure arithmetic over an entitlement, counts and a moment; reads no database.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from keys.entitlements import Terms, current_period
from keys.models import Entitlement

# Before this much of a period has passed, a pace says nothing.
FORECAST_AFTER = timedelta(hours=6)
NEARLY_USED_PERCENT = 80


@dataclass(frozen=True)
class Quota:
    """Billable units of one meter in one half-open period, and how many the plan includes."""

    meter: str
    used: int
    included: int
    refuses_past_included: bool
    period_start: datetime
    period_end: datetime
    now: datetime
    credits_per_unit: int = 0

    @property
    def left(self) -> int:
        return max(self.included - self.used, 0)

    @property
    def over(self) -> int:
        """Units past the included ones, such as a backend may report later."""
        return max(self.used - self.included, 0)

    @property
    def percent(self) -> int:
        """Of the included units, 0 to 100, rounded down: 100 means all of them."""
        return min(100 * self.used // self.included, 100) if self.included else 100

    @property
    def even_pace_percent(self) -> int:
        """Where an evenly used quota would stand now."""
        return int(100 * self._elapsed / (self.period_end - self.period_start))

    @property
    def tone(self) -> str:
        """The meter's colour: "" as it should be, "warn" nearly used, "bad" refusing."""
        if self.percent == 100 and self.refuses_past_included:
            return "bad"
        return "warn" if self.percent >= NEARLY_USED_PERCENT else ""

    @property
    def used_up_at(self) -> datetime | None:
        """When the included units are gone at the pace of the period so far.

        None where they last until the period ends, are gone already, or it is too early.
        """
        if not self.included or not self.used or self._elapsed < FORECAST_AFTER:
            return None
        moment = self.period_start + self._elapsed * (self.included / self.used)
        return moment if self.now < moment < self.period_end else None

    @property
    def forecast(self) -> int | None:
        """Units at the period's end at the pace so far; None where it is too early."""
        if self._elapsed < FORECAST_AFTER:
            return None
        return round(self.used * ((self.period_end - self.period_start) / self._elapsed))

    @property
    def _elapsed(self) -> timedelta:
        return self.now - self.period_start


def period_of(entitlement: Entitlement | None, now: datetime) -> tuple[datetime, datetime] | None:
    """The billing period that holds `now`; None without terms, or past all known periods."""
    period = current_period(entitlement, now) if entitlement is not None else None
    if period is None or period[1] is None:
        return None
    return datetime.fromtimestamp(period[0], UTC), datetime.fromtimestamp(period[1], UTC)


def of_period(
    entitlement: Entitlement,
    period: tuple[datetime, datetime],
    used: Mapping[str, int],
    now: datetime,
) -> list[Quota]:
    """One quota per meter that the terms name, `calls` first. `used`: billable units."""
    meters = Terms.from_json(entitlement.terms).meters
    return [
        Quota(
            meter=name,
            used=used.get(name, 0),
            included=terms.included,
            refuses_past_included=terms.past == "refuse",
            credits_per_unit=terms.credits_per_unit,
            period_start=period[0],
            period_end=period[1],
            now=now,
        )
        for name, terms in sorted(meters.items(), key=lambda item: (item[0] != "calls", item[0]))
    ]
