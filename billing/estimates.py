"""The bill that is coming: what an account would be charged when its month of usage ends.

An estimate from the usage known now, by the same `bills` as the invoice itself. Charges nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from billing import bills, money, terms
from gateway.usage import PricedUnits


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


def coming_bill(has: terms.Standing, used: Sequence[PricedUnits], now: datetime) -> Bill | None:
    """None for an account that has neither subscription nor contract.

    Base prices are paid ahead and usage afterwards. A base price stands on the bill only if
    something begins then: not after a planned end, and for yearly plans once a year.

    used: `usage.priced_units` of the period around `now`
    """
    price = terms.price(has)
    if price is None:
        return None
    start, end = terms.usage_periods(has, now)[:2]
    lines = []
    if _base_price_due(has, end):
        text = f"{has.plan_name}, next period"
        lines.append(BillLine(text, "", price.base_price_minor, price.currency))
    texts = bills.Texts()
    for rated in bills.rate(used, has):
        line = rated.line
        if line.amount_minor:
            lines.append(BillLine(texts.of(line), line.meter, line.amount_minor, line.currency))
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
