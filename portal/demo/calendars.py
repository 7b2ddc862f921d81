"""What the Holidays API knows: countries, their public holidays and their working days.

Owns the reading of the `holidays` package: names, languages, years covered, and a bounded memory
of calendars already worked out. Knows nothing of HTTP, and takes every date as an argument.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from typing import Any

import holidays
from holidays.registry import COUNTRIES as REGISTRY

ENGLISH = "en_US"
YEARS_WITHOUT_HOLIDAY = 3
SMALL_WORDS = {"and", "da", "of", "the"}
# Names that capital letters alone don't make out of the package's module names.
NAMES = {
    "dr_congo": "DR Congo",
    "guinea_bissau": "Guinea-Bissau",
    "hongkong": "Hong Kong",
    "timor_leste": "Timor-Leste",
}


class Unanswerable(Exception):
    """A well-formed question outside what the calendars cover; its text is a sentence."""


@dataclass(frozen=True)
class Holiday:
    """One public holiday: a date with two holidays yields two of these."""

    date: date
    name: str


@dataclass(frozen=True)
class WorkdayCheck:
    """Whether people work on a date, and why.

    `reason` is one of `working_day`, `weekend_workday` (a weekend day declared a working day),
    `weekend` and `holiday`.
    """

    date: date
    is_working: bool
    reason: str
    holidays: tuple[str, ...]


@dataclass(frozen=True)
class WorkdayCount:
    """Days of a closed range, split so that the three kinds add up to `calendar_days`."""

    calendar_days: int
    business_days: int
    weekend_days: int
    holidays: int


def _name(module: str) -> str:
    if module in NAMES:
        return NAMES[module]
    words = module.split("_")
    return " ".join(word if word in SMALL_WORDS else word.capitalize() for word in words)


COUNTRY_NAMES: dict[str, str] = {
    code: name for name, code in sorted((_name(key), value[1]) for key, value in REGISTRY.items())
}
"""ISO 3166-1 alpha-2 code to English name, in the order of the names."""


@lru_cache(maxsize=256)
def _country(code: str) -> Any:
    """The package's description of a country: languages and years, without any holiday."""
    return holidays.country_holidays(code)


@lru_cache(maxsize=1024)
def _calendar(code: str, year: int, language: str | None) -> Any:
    country = _country(code)
    if not country.start_year <= year <= country.end_year:
        raise Unanswerable(
            f"The holidays of {COUNTRY_NAMES[code]} are known from {country.start_year} "
            f"to {country.end_year}, not for {year}."
        )
    return holidays.country_holidays(code, years=year, language=language, expand=False)


def languages(code: str) -> tuple[str, ...]:
    """The languages in which a country's holidays have names, e.g. `("de", "en_US")`.

    Empty for a country with names in one language only, which is English.
    """
    supported: tuple[str, ...] = _country(code).supported_languages
    return supported


def default_language(code: str) -> str | None:
    """English where the calendar has it, else the country's own language; None if there is none."""
    own: str | None = _country(code).default_language
    return ENGLISH if ENGLISH in languages(code) else own


def in_year(code: str, year: int, language: str | None = None) -> tuple[Holiday, ...]:
    """The public holidays of a country's year, by date and then name."""
    calendar = _calendar(code, year, language or default_language(code))
    return tuple(
        Holiday(day, name) for day in sorted(calendar) for name in sorted(calendar.get_list(day))
    )


def following(code: str, start: date) -> Holiday:
    """The first public holiday on or after `start`."""
    for year in range(start.year, start.year + YEARS_WITHOUT_HOLIDAY):
        for holiday in in_year(code, year):
            if holiday.date >= start:
                return holiday
    raise Unanswerable(
        f"No public holiday of {COUNTRY_NAMES[code]} is known in the years after {start}."
    )


def check(code: str, day: date) -> WorkdayCheck:
    """Whether `day` is a working day in a country.

    A holiday on a weekend counts as weekend, as in `count`, and is still named.
    """
    calendar = _calendar(code, day.year, default_language(code))
    names = tuple(sorted(calendar.get_list(day)))
    if calendar.is_weekend(day):
        working = day in calendar.weekend_workdays
        return WorkdayCheck(day, working, "weekend_workday" if working else "weekend", names)
    return WorkdayCheck(day, not names, "holiday" if names else "working_day", names)


def count(code: str, first: date, last: date) -> WorkdayCount:
    """Count working days from `first` to `last`, both included."""
    reasons = [check(code, day).reason for day in _days(first, last)]
    weekend_days, public_holidays = reasons.count("weekend"), reasons.count("holiday")
    return WorkdayCount(
        calendar_days=len(reasons),
        business_days=len(reasons) - weekend_days - public_holidays,
        weekend_days=weekend_days,
        holidays=public_holidays,
    )


def _days(first: date, last: date) -> Iterator[date]:
    for offset in range((last - first).days + 1):
        yield first + timedelta(days=offset)
