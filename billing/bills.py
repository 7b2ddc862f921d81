"""Lines of usage on a bill: each of the terms rates what was used under it; their words.

The same for the coming bill and for invoices.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

from billing import pricing, rating, terms
from gateway.models import Meter
from gateway.usage import PricedUnits


@dataclass(frozen=True)
class Rated:
    """One line of usage.

    terms_id: of the terms that rated it, as `pricing.priced_as`; "" where no price is known
    used_under: the terms that it was used under, others too where a deleted contract's are among
        them
    """

    terms_id: str
    used_under: tuple[str, ...]
    line: rating.Line
    price: rating.MeterPrice | None

    @property
    def key(self) -> tuple[str, str, rating.Filter]:
        """What tells it from the other lines of a period."""
        return self.terms_id, self.line.meter, self.line.filter

    @property
    def looked_through_before(self) -> tuple[rating.Filter, ...]:
        """Filters of the special prices that units of this line don't match."""
        filters = [one.filter for one in self.price.in_order] if self.price else []
        return tuple(takewhile(lambda other: other != self.line.filter, filters))

    def has(self, used: PricedUnits) -> bool:
        """Whether these units are on the line."""
        return (
            used.meter == self.line.meter
            and used.terms_id in self.used_under
            and (self.price is None or self.price.filter_of(used) == self.line.filter)
        )


def rate(used: Iterable[PricedUnits], has: terms.Standing) -> list[Rated]:
    """The usage lines of one period, those of today's terms first.

    Each of the terms rates what was used under it; what a contract saw that is deleted now,
    today's terms rate. What the terms don't price has a line that costs nothing. Plan versions
    and add-ons that came one after the other include no unit twice (`pricing.in_turn`).
    """
    todays_id = pricing.priced_as(terms.terms_id(has))
    prices = {todays_id: has.price}
    ids: dict[str, str] = {}
    by_terms: defaultdict[str, list[PricedUnits]] = defaultdict(list)
    for quantity in used:
        if quantity.terms_id not in ids:
            ids[quantity.terms_id] = pricing.priced_as(quantity.terms_id)
        its_id = ids[quantity.terms_id]
        if its_id not in prices:
            prices[its_id] = pricing.price_of(its_id)
        by_terms[its_id if prices[its_id] else todays_id].append(quantity)
    rated: dict[str, list[Rated]] = {}
    before = rating.NOTHING
    for its_id, price in pricing.in_turn({its_id: prices[its_id] for its_id in by_terms}):
        carried = before if pricing.carries_over(its_id) else rating.NOTHING
        rated[its_id] = _rate(its_id, price, by_terms[its_id], carried)
        if price and pricing.carries_over(its_id):
            before = before.then(price, [one.line for one in rated[its_id]])
    order = sorted(by_terms, key=lambda its_id: (its_id != todays_id, its_id))
    return [one for its_id in order for one in rated[its_id]]


def _rate(
    terms_id: str, price: rating.Price | None, used: list[PricedUnits], before: rating.Before
) -> list[Rated]:
    under = tuple(sorted({quantity.terms_id for quantity in used}))
    priced = {meter.meter: meter for meter in price.meters} if price else {}
    currency = price.currency if price else ""
    lines = rating.rate(price, used, before)[1:] if price else ()
    rated = [Rated(terms_id, under, line, priced[line.meter]) for line in lines]
    free: defaultdict[str, int] = defaultdict(int)
    for quantity in used:
        if quantity.meter not in priced:
            free[quantity.meter] += quantity.units
    for meter, units in sorted(free.items()):
        rated.append(Rated(terms_id, under, rating.Line(meter, units, 0, 0, currency), None))
    return rated


class Texts:
    """How lines read. Knows the meters' labels, asked of the database once."""

    def __init__(self) -> None:
        self._labels = dict(Meter.objects.values_list("name", "label"))

    def of(self, line: rating.Line) -> str:
        """“2,300 calls past 10,000”, “512 tokens (model large)”, “90 calls of 10,000 included”."""
        label = self._labels.get(line.meter, line.meter)
        what = f"{label} ({line.filter.text})" if line.filter.text else label
        if line.amount_minor or line.past_included:
            past = f" past {line.included_units:,}" if line.included_units else ""
            return f"{line.past_included:,} {what}{past}"
        included = f" of {line.included_units:,} included" if line.included_units else ""
        return f"{line.units:,} {what}{included}"
