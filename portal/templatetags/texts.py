"""How numbers, money, moments and add-ons are written on every page and in every mail."""

from datetime import datetime

from django import template
from django.utils import timezone
from django.utils.formats import date_format

from billing import add_ons
from billing import money as amounts
from billing.models import AddOn
from keys import clock

register = template.Library()

_CURRENCIES = {
    "USD": "US dollars",
    "EUR": "euros",
    "GBP": "pounds sterling",
    "JPY": "Japanese yen",
    "INR": "Indian rupees",
}


@register.filter
def money(amount_minor: int, currency: str) -> str:
    """`5000` of USD as `$50.00`."""
    return amounts.text(amount_minor, currency)


@register.filter
def price(amount_minor: int, currency: str) -> str:
    """As `money`, without a fraction that is zero: `$50`."""
    return amounts.text(amount_minor, currency, short=True)


@register.filter
def currency_name(currency: str) -> str:
    """`USD` as `US dollars`; a currency without a name here keeps its code."""
    return _CURRENCIES.get(currency, currency)


@register.filter
def count(number: int) -> str:
    """`1234567` as `1,234,567`."""
    return f"{number:,}"


@register.filter
def grants(add_on: AddOn) -> tuple[str, ...]:
    """What an add-on grants, as on the price list: `50,000 more calls a month`."""
    return add_ons.grants(add_on)


@register.filter
def ago(moment: datetime) -> str:
    """How long ago, in the words that keystile.js keeps up to date; a date after 30 days."""
    seconds = max(0, int((clock.now() - moment).total_seconds()))
    if seconds < 3:
        return "just now"
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
