"""What billing asks of a provider's metering, in Keystile's words.

A provider that meters is a package here with a module `metering` that has what `Metering`
names. Nothing here is called inside a transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any, Literal, Protocol, cast

# Providers that have a `metering`; usage of subscriptions elsewhere is not shipped.
PROVIDERS = ("sandbox", "stripe", "dodo")


@dataclass(frozen=True, slots=True)
class MeterEvent:
    """Units of one meter that one customer used.

    id:       the same each time this is sent; a provider counts an id once
    at:       when it was used; None: now, for a provider that takes no older times
    metadata: what it was used for; for providers that keep such a thing
    """

    id: str
    customer_id: str
    name: str
    units: int
    at: datetime | None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an event.

    taken:     it counts, now or since it was sent before
    refused:   it doesn't count, and sending it as it is won't change that
    not_taken: it doesn't count; later it may
    unheard:   it may count or not: there was no answer, or none that says
    """

    kind: Literal["taken", "refused", "not_taken", "unheard"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An event that the provider took and refused afterwards."""

    event_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What a provider's metering takes.

    batch:     events that `ship` may be given at once
    age:       how old an event may be
    undated:   whether an older one may be sent without its time, to count now
    remembers: for how long a repeated id is recognised
    """

    batch: int
    age: timedelta
    undated: bool
    remembers: timedelta


def event_name(meter: str) -> str:
    """What a provider's meter counts for a meter of ours."""
    return f"keystile_{meter}"


class Metering(Protocol):
    LIMITS: Limits

    def ship(self, events: Sequence[MeterEvent]) -> dict[str, Outcome]:
        """Sends them, at most `LIMITS.batch`; the outcome of each by its id. Raises nothing."""
        ...

    def find(self, event_id: str) -> bool | None:
        """Whether it counts; None where the provider can't be asked about a single event.

        Raises `ProviderUnavailable`.
        """
        ...

    def total(self, customer_id: str, name: str, start: datetime, end: datetime) -> int:
        """Units that count from `start` until before `end`, both on whole minutes.

        Raises `ProviderUnavailable`, also where the provider has no such meter.
        """
        ...

    def refusals(self, delivery_type: str, payload: dict[str, Any]) -> list[Refusal] | None:
        """What a webhook says was refused; None: it is about something else.

        Raises `ProviderUnavailable`: it may have to ask for the details.
        """
        ...

    def unmetered(self, names: Sequence[str]) -> list[str]:
        """Those that the provider counts nothing for, and would if asked to; changes nothing.

        Raises `ProviderUnavailable`.
        """
        ...

    def make_meter(self, name: str, label: str) -> None:
        """Has events of this name counted from now on. Raises `ProviderUnavailable`."""
        ...


def get(name: str) -> Metering:
    """The provider's metering; KeyError for a provider that has none."""
    if name not in PROVIDERS:
        raise KeyError(name)
    return cast(Metering, import_module(f"billing.providers.{name}.metering"))
