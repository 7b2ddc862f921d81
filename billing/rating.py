"""Turns metered quantities into priced lines. Reads no database; sends nothing.

Prices are `Decimal` major units, amounts integers of minor units; each line is rounded once,
half up, when everything on it has been added.

A unit belongs to exactly one price of its meter: the first special price whose filter it
matches, else the meter's own. What a period includes of a meter is used up in the same order.
A unit past that belongs to exactly one tier: the first tier starts with the first of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from itertools import chain
from typing import Any, Protocol

from billing import money

TIER_MODES = ("graduated", "volume", "package")


class Quantity(Protocol):
    """Billable units that no price can tell apart, such as `gateway.usage.PricedUnits`.

    dimensions: what the calls said of the meter's dimensions
    """

    @property
    def meter(self) -> str: ...
    @property
    def units(self) -> int: ...
    @property
    def api(self) -> str: ...
    @property
    def operation(self) -> str: ...
    @property
    def dimensions(self) -> Mapping[str, str]: ...


@dataclass(frozen=True)
class Filter:
    """Some of a meter's units: all that it names must be so, what it leaves empty may be anything.

    dimensions: (name, value), sorted by name
    """

    api: str = ""
    operation: str = ""
    dimensions: tuple[tuple[str, str], ...] = ()

    def matches(self, units: Quantity) -> bool:
        return (
            self.api in ("", units.api)
            and self.operation in ("", units.operation)
            and all(units.dimensions.get(name) == value for name, value in self.dimensions)
        )

    @property
    def text(self) -> str:
        """“holidays GET /v1/next/{country}, model large”; "" for everything."""
        where = " ".join(filter(None, (self.api, self.operation)))
        named = [f"{name} {value}" for name, value in self.dimensions]
        return ", ".join(filter(None, (where, *named)))


EVERYTHING = Filter()
_FILTER = ("api", "operation", "dimensions")


@dataclass(frozen=True)
class Tier:
    """Units up to and including the `up_to`-th past the included ones; None: all others."""

    up_to: int | None
    price: Decimal
    per: int


@dataclass(frozen=True)
class SpecialPrice:
    """What the units that a filter matches cost past the included ones, in the meter's mode."""

    filter: Filter
    tiers: tuple[Tier, ...]


@dataclass(frozen=True)
class MeterPrice:
    """What one meter includes per period and what units past that cost; no tiers: nothing.

    special: in the order in which they are looked through
    """

    meter: str
    included_units: int
    tier_mode: str = "graduated"
    tiers: tuple[Tier, ...] = ()
    special: tuple[SpecialPrice, ...] = ()

    @property
    def in_order(self) -> tuple[SpecialPrice, ...]:
        """All its prices as they are looked through; the last one takes every unit."""
        return (*self.special, SpecialPrice(EVERYTHING, self.tiers))

    def filter_of(self, units: Quantity) -> Filter:
        """That of the one price that these units have."""
        return next(one.filter for one in self.in_order if one.filter.matches(units))


@dataclass(frozen=True)
class Price:
    """What one period of some terms costs."""

    currency: str
    base_price_minor: int
    meters: tuple[MeterPrice, ...]


@dataclass(frozen=True)
class Line:
    """One line of a bill. `meter` is empty on the base price's line.

    included_units: what earlier lines of the meter have left of its included units
    filter: of the price; `EVERYTHING` on the line of a meter's own price
    """

    meter: str
    units: int
    included_units: int
    amount_minor: int
    currency: str
    filter: Filter = EVERYTHING

    @property
    def past_included(self) -> int:
        return max(0, self.units - self.included_units)


@dataclass(frozen=True)
class Before:
    """What was used earlier in a period, under terms whose place others have taken.

    The units that those include are used up by it, and prices that they share go on in the
    tier that was reached.

    units: by meter
    past:  past the included ones, by meter, mode and price
    """

    units: Mapping[str, int] = field(default_factory=dict)
    past: Mapping[tuple[str, str, SpecialPrice], int] = field(default_factory=dict)

    def then(self, price: Price, lines: Iterable[Line]) -> Before:
        """With what these lines, rated by this price, say."""
        units, past = Counter(self.units), Counter(self.past)
        found = {(line.meter, line.filter): line for line in lines}
        for meter in price.meters:
            for one in meter.in_order:
                if line := found.get((meter.meter, one.filter)):
                    units[meter.meter] += line.units
                    past[meter.meter, meter.tier_mode, one] += line.past_included
        return Before(units, past)


NOTHING = Before()


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


def parse_special(raw: Any, mode: str) -> tuple[SpecialPrice, ...]:
    """Stored special prices as values: `[{"api": "holidays", "operation": "GET /v1/next",
    "dimensions": {"model": "large"}, "tiers": […]}, …]`; of the first three, one at least.

    ValueError with a sentence for people.
    """
    if not isinstance(raw, list):
        raise ValueError("Special prices are a list.")
    special = tuple(_parse_special(item, mode) for item in raw)
    if len({one.filter for one in special}) != len(special):
        raise ValueError("Two special prices are for the same units.")
    return special


def _parse_special(item: Any, mode: str) -> SpecialPrice:
    if not isinstance(item, dict) or not {"tiers"} < set(item) <= {*_FILTER, "tiers"}:
        raise ValueError(
            "A special price has “tiers”, and says by “api”, “operation” or “dimensions” what "
            "they are for."
        )
    texts = [item[name] for name in ("api", "operation") if name in item]
    if "dimensions" in item:
        dimensions = item["dimensions"]
        if not (isinstance(dimensions, dict) and dimensions):
            raise ValueError('“dimensions” are an object such as {"model": "large"}.')
        texts += dimensions.values()
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError("“api”, “operation” and each of “dimensions” are texts.")
    if tiers := parse_tiers(item["tiers"], mode):
        return SpecialPrice(parse_filter(item), tiers)
    raise ValueError("A special price has tiers.")


def parse_filter(stored: Mapping[str, Any]) -> Filter:
    """The inverse of `filter_json`."""
    dimensions = stored.get("dimensions", {})
    return Filter(
        stored.get("api", ""), stored.get("operation", ""), tuple(sorted(dimensions.items()))
    )


def filter_json(units: Filter) -> dict[str, Any]:
    """A filter as it is stored: what it names, and nothing else."""
    named = {
        "api": units.api,
        "operation": units.operation,
        "dimensions": dict(units.dimensions),
    }
    return {name: value for name, value in named.items() if value}


def rate(
    price: Price, quantities: Iterable[Quantity], before: Before = NOTHING
) -> tuple[Line, ...]:
    """The bill of one period: the base price's line, then one line for each price of a meter.

    `quantities` may come in any number of pieces: only their sums count. Meters that the price
    doesn't name cost nothing and get no line.
    """
    used: Counter[tuple[str, Filter]] = Counter()
    meters = {meter.meter: meter for meter in price.meters}
    for quantity in quantities:
        if quantity.units < 0:
            raise ValueError(
                f"{quantity.units} units of {quantity.meter}: usage is never negative."
            )
        if meter := meters.get(quantity.meter):
            used[meter.meter, meter.filter_of(quantity)] += quantity.units
    base = Line("", 1, 0, price.base_price_minor, price.currency)
    usage = (_lines(meter, used, price.currency, before) for meter in price.meters)
    return (base, *chain.from_iterable(usage))


def _lines(
    meter: MeterPrice, used: Mapping[tuple[str, Filter], int], currency: str, before: Before
) -> Iterator[Line]:
    left = max(0, meter.included_units - before.units.get(meter.meter, 0))
    for one in meter.in_order:
        units = used.get((meter.meter, one.filter), 0)
        past = max(0, units - left)
        already = before.past.get((meter.meter, meter.tier_mode, one), 0)
        amount = _amount(already + past, meter.tier_mode, one.tiers)
        amount -= _amount(already, meter.tier_mode, one.tiers)
        minor = money.to_minor(amount, currency)
        yield Line(meter.meter, units, left, minor, currency, one.filter)
        left = max(0, left - units)


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
