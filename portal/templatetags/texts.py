"""How numbers, money and moments are written on every page and in every mail."""

from datetime import datetime
from decimal import Decimal

from django import template
from django.utils import timezone
from django.utils.formats import date_format

register = template.Library()

# Minor units per major one where it isn't 100 (ISO 4217).
_EXPONENTS = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF"), 0),
    **dict.fromkeys(("UGX", "VND", "VUV", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
}
_SIGNS = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥"}
_NAMES = {"USD": "US dollars", "EUR": "euros", "GBP": "pounds sterling", "JPY": "Japanese yen"}


@register.filter
def money(amount_minor: int, currency: str) -> str:
    """Minor units as people read them: `5000` USD is `$50.00`, `500` JPY is `¥500`."""
    exponent = _EXPONENTS.get(currency, 2)
    amount = Decimal(amount_minor).scaleb(-exponent)
    sign = "−" if amount < 0 else ""
    return f"{sign}{_SIGNS.get(currency, currency + ' ')}{abs(amount):,.{exponent}f}"


@register.filter
def price(amount_minor: int, currency: str) -> str:
    """As `money`, without a fraction that is zero: `$50`, `$49.90`."""
    whole, _, fraction = money(amount_minor, currency).partition(".")
    return f"{whole}.{fraction}" if fraction.strip("0") else whole


@register.filter
def currency_name(currency: str) -> str:
    return _NAMES.get(currency, currency)


@register.filter
def count(number: int) -> str:
    """`1234567` as `1,234,567`."""
    return f"{number:,}"


@register.filter
def ago(moment: datetime) -> str:
    """How long ago, in the words that keystile.js keeps up to date; a date after 30 days."""
    seconds = max(0, int((timezone.now() - moment).total_seconds()))
    if seconds < 60:
        return f"{seconds} s ago"
    if seconds < 3600:
        return f"{seconds // 60} min ago"
    if seconds < 86400:
        return f"{seconds // 3600} h ago"
    if seconds < 2 * 86400:
        return "yesterday"
    if seconds < 30 * 86400:
        return f"{seconds // 86400} days ago"
    return day(moment)


@register.filter
def day(moment: datetime) -> str:
    """`14 November 2025`, in UTC, as all periods are."""
    return date_format(timezone.localtime(moment), "j F Y")


@register.filter
def exact(moment: datetime) -> str:
    """`14 November 2025, 09:05:12 UTC`."""
    return date_format(timezone.localtime(moment), "j F Y, H:i:s") + " UTC"
