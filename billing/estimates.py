"""The bill that is coming: what an account would be charged when its month of usage ends.

An estimate from the usage known now, by the same `rating` as the bill itself. Charges nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from billing import money, rating, terms
from gateway.models import Meter


@dataclass(frozen=True)
class BillLine:
    """`meter` is empty on the line of the base price."""

    text: str
    meter: str
    amount_minor: int
    currency: str

    @property
    def amount(self) -> str:
        return money.text(self.amount_minor, self.currency)


@dataclass(frozen=True)
class Bill:
    """What is charged at `period_end`: usage since `period_start`, and the next base price.

    Usage under earlier terms of another currency has its lines and is not in the total.
    """

    period_start: datetime
    period_end: datetime
    currency: str
    lines: tuple[BillLine, ...]

    @property
    def total_minor(self) -> int:
        return sum(line.amount_minor for line in self.lines if line.currency == self.currency)

    @property
    def total(self) -> str:
        return money.text(self.total_minor, self.currency)


def coming_bill(
    has: terms.Standing, used: Mapping[str, Mapping[str, int]], now: datetime
) -> Bill | None:
    """None for an account that has neither subscription nor contract.

    Base prices are paid ahead and usage afterwards. A base price stands on the bill only if
    something begins then: not after a planned end, and for yearly plans once a year.

    used: billable units of the period around `now`, by terms id and meter. Each of the terms
    rates what was used under it; what a contract saw that is deleted now, today's terms rate.
    """
    price = terms.price(has)
    if price is None:
        return None
    start, end = terms.usage_periods(has, now)[:2]
    todays: list[tuple[str, int]] = []
    earlier: list[rating.Line] = []
    for terms_id, units in sorted(used.items()):
        its_price = None if terms_id == terms.terms_id(has) else terms.price_of(terms_id)
        if its_price is None:
            todays += units.items()
        else:
            earlier += rating.rate(its_price, units.items())[1:]
    base, *metered = rating.rate(price, todays)
    labels = dict(Meter.objects.values_list("name", "label"))
    lines = []
    if _base_price_due(has, end):
        text = f"{has.plan_name}, next period"
        lines.append(BillLine(text, "", base.amount_minor, base.currency))
    for line in metered + earlier:
        if line.amount_minor:
            text = f"{line.past_included:,} {labels[line.meter]} past {line.included_units:,}"
            lines.append(BillLine(text, line.meter, line.amount_minor, line.currency))
    return Bill(start, end, price.currency, tuple(lines))


def _base_price_due(has: terms.Standing, end: datetime) -> bool:
    if has.contract:
        return has.contract.ends_at is None or has.contract.ends_at > end
    subscription = has.subscription
    return (
        subscription is not None
        and not subscription.cancel_at_period_end
        and end >= subscription.period_end
    )
