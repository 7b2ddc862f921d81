"""Amounts in the decimal places that Stripe counts a currency in.

They are ISO 4217's but for a few (docs.stripe.com, “Supported currencies”).
"""

from __future__ import annotations

from fractions import Fraction

from billing import money
from billing.providers import ProviderUnavailable

_PLACES = {"ISK": 2, "UGX": 2, "MGA": 0}


def stripes(minor: int, currency: str) -> int:
    """Raises `ProviderUnavailable` for an amount that Stripe can't charge."""
    amount = minor * _shift(currency)
    if amount.denominator != 1:
        raise ProviderUnavailable(f"Stripe charges no parts of a unit in {currency}.")
    return amount.numerator


def ours(amount: int, currency: str) -> int:
    """Tax that Stripe reckons may have parts of our smallest unit: they are rounded."""
    return round(amount / _shift(currency))


def _shift(currency: str) -> Fraction:
    held = money.exponent(currency)
    return Fraction(10) ** (_PLACES.get(currency, held) - held)
