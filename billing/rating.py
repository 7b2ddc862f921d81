"""Turns metered quantities into priced lines. Reads no database; sends nothing.

Prices are `Decimal` major units, amounts integers of minor units; each line is rounded once,
half up, when everything on it has been added. A unit belongs to exactly one tier: tiers count
the units past the included ones, the first tier starts with the first of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from billing import money

TIER_MODES = ("graduated", "volume", "package")


@dataclass(frozen=True)
class Tier:
    """Units up to and including the `up_to`-th past the included ones; None: all others."""

    up_to: int | None
    price: Decimal
    per: int


@dataclass(frozen=True)
class MeterPrice:
    """What one meter includes per period and what units past that cost; no tiers: nothing."""

    meter: str
    included_units: int
    tier_mode: str = "graduated"
    tiers: tuple[Tier, ...] = ()


@dataclass(frozen=True)
class Price:
    """What one period of some terms costs."""

    currency: str
    base_price_minor: int
    meters: tuple[MeterPrice, ...]


@dataclass(frozen=True)
class Line:
    """One line of a bill. `meter` is empty on the base price's line."""

    meter: str
    units: int
    included_units: int
    amount_minor: int
    currency: str

    @property
    def past_included(self) -> int:
        return max(0, self.units - self.included_units)


def parse_tiers(raw: Any, mode: str) -> tuple[Tier, ...]:
    """Stored tiers (`[{"up_to": 10000, "price": "6.00", "per": 1000}, …]`) as values.

    ValueError with a sentence for people: unknown fields, prices that aren't decimal strings
    of at least 0, `up_to` that doesn't rise, a last tier that doesn't run on, package tiers
    that end within a package (a started package must belong to one tier).
    """
    if mode not in TIER_MODES:
        raise ValueError(f"The tier mode is one of {', '.join(TIER_MODES)}.")
    if not isinstance(raw, list):
        raise ValueError("Tiers are a list.")
    tiers = tuple(_parse_tier(item) for item in raw)
    floor = 0
    for tier in tiers[:-1]:
        if tier.up_to is None or tier.up_to <= floor:
            raise ValueError("Each tier but the last ends with a higher “up_to” than before.")
        if mode == "package" and (tier.up_to - floor) % tier.per:
            raise ValueError("A package tier ends with a whole package.")
        floor = tier.up_to
    if tiers and tiers[-1].up_to is not None:
        raise ValueError("The last tier has “up_to”: null, so that no unit lacks a price.")
    return tiers


def _parse_tier(item: Any) -> Tier:
    if not isinstance(item, dict) or set(item) != {"up_to", "price", "per"}:
        raise ValueError("A tier has exactly “up_to”, “price” and “per”.")
    up_to, price, per = item["up_to"], item["price"], item["per"]
    if not (up_to is None or type(up_to) is int):
        raise ValueError("“up_to” is a whole number, or null in the last tier.")
    if type(per) is not int or per < 1:
        raise ValueError("“per” is a whole number of units, at least 1.")
    if not isinstance(price, str):
        raise ValueError('“price” is a decimal string such as "6.00".')
    try:
        amount = Decimal(price)
    except InvalidOperation as error:
        raise ValueError(f"“{price}” is not a decimal number.") from error
    if not amount.is_finite() or amount < 0:
        raise ValueError("A price is at least 0.")
    return Tier(up_to, amount, per)


def rate(price: Price, quantities: Iterable[tuple[str, int]]) -> tuple[Line, ...]:
    """The bill of one period: the base price's line, then one line per priced meter.

    `quantities` are (meter, billable units), in any number of pieces: only their sums count.
    Meters that the price doesn't name cost nothing and get no line.
    """
    used: Counter[str] = Counter()
    for meter, units in quantities:
        if units < 0:
            raise ValueError(f"{units} units of {meter}: usage is never negative.")
        used[meter] += units
    base = Line("", 1, 0, price.base_price_minor, price.currency)
    return (base, *(_line(meter, used[meter.meter], price.currency) for meter in price.meters))


def _line(meter: MeterPrice, units: int, currency: str) -> Line:
    past = max(0, units - meter.included_units)
    amount = money.to_minor(_amount(past, meter.tier_mode, meter.tiers), currency)
    return Line(meter.meter, units, meter.included_units, amount, currency)


def _amount(units: int, mode: str, tiers: Sequence[Tier]) -> Fraction:
    """Major units, exact: a third of a cent per call must not be rounded call by call."""
    if not tiers or units == 0:
        return Fraction(0)
    if mode == "volume":
        reached = next(tier for tier in tiers if tier.up_to is None or units <= tier.up_to)
        return units * Fraction(reached.price) / reached.per
    amount, floor = Fraction(0), 0
    for tier in tiers:
        ceiling = units if tier.up_to is None else min(units, tier.up_to)
        if ceiling <= floor:
            break
        within = ceiling - floor
        packages_or_share = (
            -(-within // tier.per) if mode == "package" else Fraction(within, tier.per)
        )
        amount += packages_or_share * Fraction(tier.price)
        floor = ceiling
    return amount
