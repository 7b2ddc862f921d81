"""Amounts of money as integers of a currency's minor unit, and how people read them.

Owns the currencies' exponents (ISO 4217) and their symbols. Converts between no currencies.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from math import floor

_EXPONENTS = {
    **dict.fromkeys(
        ("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI",
         "VND", "VUV", "XAF", "XOF", "XPF"),
        0,
    ),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
}  # fmt: skip
_SYMBOLS = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥", "INR": "₹", "KRW": "₩"}


def exponent(currency: str) -> int:
    """Decimal places of the minor unit: 2 for USD, 0 for JPY, 3 for KWD."""
    return _EXPONENTS.get(currency, 2)


def to_minor(amount: Decimal | Fraction, currency: str) -> int:
    """Major units to minor ones, exactly half a minor unit rounded up."""
    units_per_major: int = 10 ** exponent(currency)
    return floor(Fraction(amount) * units_per_major + Fraction(1, 2))


def to_major(amount_minor: int, currency: str) -> Decimal:
    return Decimal(amount_minor).scaleb(-exponent(currency))


def text(amount_minor: int, currency: str, *, short: bool = False) -> str:
    """`$1,204.50`; short leaves out a zero fraction: `$50`. Without a symbol: `CHF 50.00`."""
    return decimal_text(to_major(amount_minor, currency), currency, short=short)


def decimal_text(amount: Decimal, currency: str, *, short: bool = False) -> str:
    """Major units as people read them; a unit price keeps its further places: `$0.0004`."""
    places = max(exponent(currency), -int(amount.normalize().as_tuple().exponent))
    if short and amount == amount.to_integral_value():
        places = 0
    sign = "-" if amount < 0 else ""
    symbol = _SYMBOLS.get(currency, f"{currency} ")
    return f"{sign}{symbol}{abs(amount):,.{places}f}"
