"""Spend caps: prices compiled for the gateway into integers. Reads no database.

`rating` stays the source: for every quantity the gateway's figure is the bill's line, but for
volume prices, where it is the most that this quantity or a smaller one costs. A call that is
given back lowers the quantity, and must not raise the cost past the cap. Where a meter has
special prices it is the most that so many units may cost: the gateway counts a meter's units
together, and learns what they were for only from the answers. Prices with more places than
exact arithmetic has room for are rounded up.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import ceil, lcm

from billing import money, rating
from keys.spend import Earlier, MeterCost, Segment, SpendCap

# The gateway's script calculates in doubles, exact below this.
EXACT_BELOW = 2**53


def compile_cap(cap_minor: int, price: rating.Price, earlier: Earlier | None = None) -> SpendCap:
    """A cap on the usage of one period at this price, after what it had cost at others."""
    unit = 10 ** money.exponent(price.currency)
    most_per = max(EXACT_BELOW // (4 * (cap_minor + 1)), 1)
    costs = tuple(
        MeterCost(
            meter.meter,
            meter.included_units,
            tuple(_segment(*line, most_per) for line in _lines(meter, unit)),
        )
        for meter in price.meters
        if meter.tiers
    )
    return SpendCap(cap_minor, price.currency, costs, _going_on(earlier, costs))


def _going_on(earlier: Earlier | None, costs: tuple[MeterCost, ...]) -> Earlier | None:
    """Without what the units cost from which prices go on: the gateway counts them again."""
    if earlier is None or not earlier.past:
        return earlier
    counted = sum(cost.minor_past(earlier.past.get(cost.meter, 0)) for cost in costs)
    return replace(earlier, spent_minor=earlier.spent_minor - counted)


Line = tuple[int, Fraction, int, Fraction]
"""From, base, step, rise: past `from` units each started step adds `rise` minor units to base."""


def _lines(meter: rating.MeterPrice, unit: int) -> list[Line]:
    if meter.special:
        return [_dearest(meter, unit)]
    if meter.tier_mode == "volume":
        return _volume(meter.tiers, unit)
    lines: list[Line] = []
    floor, base = 0, Fraction(0)
    for tier in meter.tiers:
        step = tier.per if meter.tier_mode == "package" else 1
        rise = Fraction(tier.price) * unit * step / tier.per
        lines.append((floor, base, step, rise))
        if tier.up_to is not None:
            base += -(-(tier.up_to - floor) // step) * rise
            floor = tier.up_to
    return lines


def _volume(tiers: tuple[rating.Tier, ...], unit: int) -> list[Line]:
    """All units at the price of the tier reached; flat where that would be less than before."""
    lines: list[Line] = []
    floor, peak = 0, Fraction(0)
    for tier in tiers:
        rise = Fraction(tier.price) * unit / tier.per
        start: int | None = floor
        if (floor + 1) * rise < peak:
            lines.append((floor, peak, 1, Fraction(0)))
            start = int(peak // rise) if rise else None
        if start is not None and (tier.up_to is None or start < tier.up_to):
            lines.append((start, start * rise, 1, rise))
        if tier.up_to is not None:
            floor, peak = tier.up_to, max(peak, tier.up_to * rise)
    return lines


def _dearest(meter: rating.MeterPrice, unit: int) -> Line:
    """A straight line above all that units can cost, however they fall to the meter's prices.

    Each price may have begun a package that isn't full, and may have rounded up by a half.
    """
    rise, base = Fraction(0), Fraction(len(meter.special), 2)
    for one in meter.in_order:
        rise = max(rise, *(Fraction(tier.price) / tier.per * unit for tier in one.tiers))
        if meter.tier_mode == "package":
            base += max(
                Fraction(tier.price) * unit * (tier.per - 1) / tier.per for tier in one.tiers
            )
    return 0, base, 1, rise


def _segment(start: int, base: Fraction, step: int, rise: Fraction, most_per: int) -> Segment:
    per = min(lcm(base.denominator, rise.denominator), most_per)
    return start, ceil(base * per), step, ceil(rise * per), per
