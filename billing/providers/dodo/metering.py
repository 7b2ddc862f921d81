"""Usage to Dodo Payments' `/events/ingest`, up to 1000 events a request.

A meter there sums `units` of the metadata of events named `keystile_<meter>`, and may filter by
the rest of the metadata.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from dodopayments import APIError, APIStatusError, DodoPayments, NotFoundError
from dodopayments.types import EventInputParam, UsageEventIngestResponse

from billing.providers import ProviderUnavailable
from billing.providers.dodo.client import every, never_left, open_client, said
from billing.providers.metering import Limits, MeterEvent, Outcome, Refusal

# An hour less a little, for the way there and for clocks that differ. For how long Dodo knows
# an id again it doesn't say; a day is what others promise, less a little.
LIMITS = Limits(
    batch=1000,
    age=timedelta(hours=1) - timedelta(minutes=2),
    undated=True,
    remembers=timedelta(hours=23),
)
_PAIRS, _NAME, _VALUE = 40, 100, 500  # of metadata; 50 pairs are allowed


def ship(events: Sequence[MeterEvent]) -> dict[str, Outcome]:
    try:
        client = open_client()
    except ProviderUnavailable as error:
        return {event.id: Outcome("not_taken", str(error)) for event in events}
    with client:
        return _ingest(client, events)


def find(event_id: str) -> bool | None:
    try:
        with open_client() as client:
            client.usage_events.retrieve(event_id)
    except NotFoundError:
        return False
    except (APIError, ValueError) as error:
        raise ProviderUnavailable(f"Dodo: {error}") from error
    return True


def total(customer_id: str, name: str, start: datetime, end: datetime) -> int:
    """Reads the events themselves: each once, whatever the pages do while they are read.

    Whether the ends are within the time asked for Dodo doesn't say: asked for a second more.
    """
    units: dict[str, int] = {}
    second = timedelta(seconds=1)
    try:
        with open_client() as client:
            listed = every(
                lambda number, size: client.usage_events.list(
                    customer_id=customer_id,
                    event_name=name,
                    start=start - second,
                    end=end + second,
                    page_number=number,
                    page_size=size,
                )
            )
            for event in listed:
                if start <= event.timestamp < end:
                    units[event.event_id] = int((event.metadata or {}).get("units", 0))
    except (APIError, ValueError, TypeError) as error:
        raise ProviderUnavailable(f"Dodo: {error}") from error
    return sum(units.values())


def refusals(delivery_type: str, payload: dict[str, Any]) -> list[Refusal] | None:  # noqa: ARG001
    """Dodo refuses at once or not at all."""
    return None


def unmetered(names: Sequence[str]) -> list[str]:  # noqa: ARG001
    """Its meters are made with the products that charge by them."""
    return []


def make_meter(name: str, label: str) -> None:
    """Never asked for: see `unmetered`."""


def _ingest(client: DodoPayments, events: Sequence[MeterEvent]) -> dict[str, Outcome]:
    """One bad event fails its whole request: a refused one is halved until it stands alone."""
    try:
        answer = client.usage_events.ingest(events=[_as_sent(event) for event in events])
    except APIStatusError as error:
        status = error.status_code
        if status in (401, 403, 409, 429):  # ours to mend, or too many at once
            outcome = Outcome("not_taken", said(error))
        elif status >= 500 or status == 408 or not isinstance(error.body, dict):
            # A refusal in no words of Dodo's is somebody's on the way there, and says nothing.
            outcome = Outcome("unheard", said(error))
        elif len(events) == 1:
            outcome = Outcome("refused", said(error))
        else:
            middle = len(events) // 2
            return _ingest(client, events[:middle]) | _ingest(client, events[middle:])
    except APIError as error:
        outcome = Outcome("not_taken" if never_left(error) else "unheard", said(error))
    except ValueError:
        outcome = Outcome("unheard", "The answer is no JSON.")
    else:
        understood = isinstance(answer, UsageEventIngestResponse)
        outcome = Outcome("taken") if understood else Outcome("unheard", "The answer says nothing.")
    return {event.id: outcome for event in events}


def _as_sent(event: MeterEvent) -> EventInputParam:
    metadata: dict[str, str | float | bool] = {
        name[:_NAME]: value[:_VALUE] for name, value in list(event.metadata.items())[:_PAIRS]
    }
    sent: EventInputParam = {
        "event_id": event.id,
        "customer_id": event.customer_id,
        "event_name": event.name,
        "metadata": metadata | {"units": event.units},
    }
    if event.at is not None:
        sent["timestamp"] = event.at
    return sent
