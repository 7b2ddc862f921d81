"""The bill that is coming: what an account would be charged when its month of usage ends.

An estimate from the usage known now, by the same `bills` as the invoice itself, and a forecast:
what it will be if usage goes on at the pace that it had so far. Charges nobody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fractions import Fraction

from billing import bills, catalogue, money, pricing, terms
from billing.models import SpendCap, Subscription
from gateway.usage import PricedUnits

# Before so much of a period has passed its pace says nothing.
EARLY = timedelta(hours=1)
EARLY_SHARE = 100
SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class BillLine:
    """`meter` is empty on the lines of what is paid ahead: the plan, add-ons.

    grows: with usage, until the period ends; else the amount is fixed
    forecast_minor: at the period's end; None: too early to say
    """

    text: str
    meter: str
    amount_minor: int
    currency: str
    forecast_minor: int | None = None
    grows: bool = False

    @property
    def amount(self) -> str:
        return money.text(self.amount_minor, self.currency)


@dataclass(frozen=True)
class Bill:
    """What is charged at `period_end`: usage since `period_start`, and the next base price.

    Usage under earlier terms of another currency has its lines and is not in the total.

    forecast_minor: the total at the period's end, if usage goes on as it did, the customer's own
        spend cap holding; None: too early to say
    """

    period_start: datetime
    period_end: datetime
    currency: str
    lines: tuple[BillLine, ...]
    forecast_minor: int | None = None

    @property
    def total_minor(self) -> int:
        return sum(line.amount_minor for line in self.lines if line.currency == self.currency)

    @property
    def total(self) -> str:
        return money.text(self.total_minor, self.currency)


def coming_bill(has: terms.Standing, used: Sequence[PricedUnits], now: datetime) -> Bill | None:
    """None for an account that has neither subscription nor contract.

    Base prices are paid ahead and usage afterwards. A base price stands on the bill only if
    something begins then: not after a planned end, and for yearly plans once a year. A planned
    change of plan or add-ons is what begins then.

    used: `usage.priced_units` of the period around `now`
    """
    price = has.price
    if price is None:
        return None
    start, end = terms.usage_periods(has, now)[:2]
    fixed = list(_paid_ahead(has, end))
    by_then = _at_this_pace(has, used, start, end, now)
    usage = _usage_lines(has, used, by_then)
    forecast = None
    if by_then is not None:
        forecast = sum(line.amount_minor for line in fixed) + _capped(has, usage, price.currency)
    return Bill(start, end, price.currency, (*fixed, *usage), forecast)


def _usage_lines(
    has: terms.Standing, used: Sequence[PricedUnits], by_then: Sequence[PricedUnits] | None
) -> list[BillLine]:
    """Lines that cost something, or will."""
    texts = bills.Texts()
    now = bills.rate(used, has)
    then = {rated.key: rated for rated in bills.rate(by_then, has)} if by_then is not None else None
    known = {rated.key for rated in now}
    further = [rated for key, rated in then.items() if key not in known] if then else []
    todays_id = pricing.priced_as(terms.terms_id(has))
    lines = []
    for rated in [*now, *(_unused(rated) for rated in further)]:
        line = rated.line
        forecast = then[rated.key].line.amount_minor if then is not None else None
        if line.amount_minor or forecast:
            grows = rated.terms_id == todays_id
            lines.append(
                BillLine(
                    texts.of(line), line.meter, line.amount_minor, line.currency, forecast, grows
                )
            )
    return lines


def _unused(rated: bills.Rated) -> bills.Rated:
    return replace(rated, line=replace(rated.line, units=0, amount_minor=0))


# ------------------------------------------------------------------ what is paid ahead


def _paid_ahead(has: terms.Standing, end: datetime) -> Iterator[BillLine]:
    if has.contract:
        contract = has.contract
        if contract.ends_at is None or contract.ends_at > end:
            yield _fixed(has.plan_name, contract.base_price_minor, contract.currency)
        return
    subscription = has.subscription
    if subscription is None or not _renews(subscription, end):
        return
    version = subscription.next_version or subscription.version
    yield _fixed(version.plan.name, version.base_price_minor, version.currency)
    for item in catalogue.items(version, has.staying)[1:]:
        yield _fixed(item.description, item.amount_minor, version.currency)


def _fixed(name: str, amount_minor: int, currency: str) -> BillLine:
    return BillLine(f"{name}, next period", "", amount_minor, currency, amount_minor)


def _renews(subscription: Subscription, end: datetime) -> bool:
    return (
        not subscription.cancel_at_period_end
        and subscription.state != Subscription.State.PAUSED
        and end >= subscription.period_end
    )


# ------------------------------------------------------------------ forecast


def _at_this_pace(
    has: terms.Standing,
    used: Sequence[PricedUnits],
    start: datetime,
    end: datetime,
    now: datetime,
) -> list[PricedUnits] | None:
    """Usage of the whole period, what is to come under today's terms; None: too early to say.

    Where the customer has calls stop at what is included, nothing comes past it.
    """
    elapsed, whole = now - start, end - start
    if elapsed < max(EARLY, whole / EARLY_SHARE):
        return None
    remaining = max(end - now, timedelta(0))
    todays_id = terms.terms_id(has)
    left = _left_where_calls_stop(has, used)
    coming = []
    for one in used:
        units = int(Fraction(remaining // SECOND, elapsed // SECOND) * one.units)
        if one.meter in left:
            units = min(units, left[one.meter])
            left[one.meter] -= units
        coming.append(replace(one, terms_id=todays_id, units=units))
    return [*used, *coming]


def _left_where_calls_stop(has: terms.Standing, used: Sequence[PricedUnits]) -> Counter[str]:
    subscription, price = has.subscription, has.price
    left = Counter[str]()
    if has.contract or subscription is None or price is None:
        return left
    if subscription.overage != Subscription.Overage.STOP:
        return left
    for meter in price.meters:
        so_far = sum(one.units for one in used if one.meter == meter.meter)
        left[meter.meter] = max(0, meter.included_units - so_far)
    return left


def _capped(has: terms.Standing, usage: Sequence[BillLine], currency: str) -> int:
    """What usage will cost: no more than the cap lets through, no less than it costs already."""
    counted = [line for line in usage if line.currency == currency]
    forecast = sum(line.forecast_minor or 0 for line in counted)
    owner = has.contract or has.subscription
    if owner is None or not forecast:
        return forecast
    cap = SpendCap.objects.filter(account_id=owner.account_id).first()
    if cap is None:
        return forecast
    return min(forecast, max(cap.cap_minor, sum(line.amount_minor for line in counted)))
