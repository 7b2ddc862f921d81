"""Who charges the usage of a plan that is sold at Dodo: its meters, or Keystile.

Dodo's meters know one price a unit and one number of units that are free, by the month. What a
plan asks beyond that Keystile rates, and takes with `charges`. A subscription stays with the one
that it began with, so that no unit is charged by both.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from billing import money, pricing, rating
from billing.models import AddOn
from billing.providers import Item, Offer, Order

# Of a price by the unit, in minor units: digits before and behind the point.
_DIGITS, _PLACES = 5, 12


@dataclass(frozen=True)
class Metered:
    """What a meter of ours costs at Dodo. `price_per_unit`: a decimal of minor units."""

    meter: str
    price_per_unit: str
    free_threshold: int


def of_order(order: Order) -> tuple[Metered, ...]:
    """What Dodo's meters shall charge of it; nothing: Keystile does.

    A trial is no matter of a price that is metered, and without a base price the customer gives a
    mandate for what we charge.
    """
    if order.trial_days or order.starts_at or not may_have(order.items):
        return ()
    return of_new(Offer(order.plan, order.currency, order.interval))


def of_new(offer: Offer) -> tuple[Metered, ...]:
    """What they charge of a plan that begins with its price; nothing: Keystile does.

    Keystile also where the buyer might want an add-on that grows what is free.
    """
    on_sale = AddOn.objects.filter(published_at__isnull=False, retired_at=None)
    billed = _billed(pricing.price_of(offer.item.key))
    if not offer.item.amount_minor or on_sale.filter(meter__name__in=billed).exists():
        return ()
    return of_offer(offer) or ()


def of_offer(offer: Offer) -> tuple[Metered, ...] | None:
    """What the plan's usage costs in Dodo's way; None where that can't say it."""
    price = pricing.price_of(offer.item.key)
    billed = _billed(price)
    if price is None or not billed:
        return ()
    if offer.interval == "year":
        return None
    found = [
        express(meter, price.currency) for meter in price.meters if meter.tiers or meter.special
    ]
    return tuple(filter(None, found)) if all(found) else None


def may_have(items: tuple[Item, ...]) -> bool:
    """Whether a plan whose usage Dodo charges may have these add-ons, which `items` end with."""
    return not _granted(items[1:]) & _billed(pricing.price_of(items[0].key))


def express(meter: rating.MeterPrice, currency: str) -> Metered | None:
    """A meter's price in Dodo's way; None where that can't say it exactly."""
    if len(meter.tiers) != 1 or meter.special or meter.tier_mode == "package":
        return None
    (tier,) = meter.tiers
    per_unit = Fraction(tier.price) * 10 ** money.exponent(currency) / tier.per
    scaled = per_unit * 10**_PLACES
    if scaled.denominator != 1 or not 0 < per_unit < 10**_DIGITS:
        return None
    text = f"{Decimal(scaled.numerator).scaleb(-_PLACES).normalize():f}"
    return Metered(meter.meter, text, meter.included_units)


def _billed(price: rating.Price | None) -> set[str]:
    meters = price.meters if price else ()
    return {meter.meter for meter in meters if meter.tiers or meter.special}


def _granted(add_ons: tuple[Item, ...]) -> set[str]:
    """The meters of which these include further units, which Dodo's free threshold can't."""
    keys = [one.key.removeprefix("addon:") for one in add_ons]
    rows = AddOn.objects.filter(pk__in=keys, meter__isnull=False)
    return set(rows.values_list("meter__name", flat=True))
