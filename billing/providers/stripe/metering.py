"""Usage to Stripe's billing meters (API v1), one event a request.

A meter there sums the value of events named `keystile_<meter>` by customer. It keeps what the
payload says beyond that from nobody's bill, so nothing beyond that is sent.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Event
from typing import Any

import stripe
from stripe.params.billing import MeterEventCreateParams

from billing.providers import ProviderUnavailable
from billing.providers.metering import Limits, MeterEvent, Outcome, Refusal
from billing.providers.stripe.client import never_left, open_client

# 35 days, and a day for ids, each less a little for the way there and for clocks that differ.
LIMITS = Limits(
    batch=200,
    age=timedelta(days=35) - timedelta(minutes=10),
    undated=False,
    remembers=timedelta(hours=23),
)
_AT_ONCE = 8
_REPORTS = ("v1.billing.meter.error_report_triggered", "v1.billing.meter.no_meter_found")
# Stripe refuses an identifier that it has: then the event counts since it was sent before. The
# code is documented, the sentence is what comes.
_KNOWN = re.compile(r"event already exists with identifier", re.IGNORECASE)


def ship(events: Sequence[MeterEvent]) -> dict[str, Outcome]:
    """Some at once; when Stripe turns out to be away the rest isn't tried."""
    try:
        client = open_client()
    except ProviderUnavailable as error:
        return {event.id: Outcome("not_taken", str(error)) for event in events}
    away = Event()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        outcomes = pool.map(lambda event: _send(client, event, away), events)
        return {event.id: outcome for event, outcome in zip(events, outcomes, strict=True)}


def find(event_id: str) -> bool | None:  # noqa: ARG001
    """Stripe has no way to read a meter event."""
    return None


def total(customer_id: str, name: str, start: datetime, end: datetime) -> int:
    client = open_client()
    try:
        meters = client.v1.billing.meters.list({"status": "active", "limit": 100})
        meter = next((one for one in meters.auto_paging_iter() if one.event_name == name), None)
        if meter is None:
            raise ProviderUnavailable(f"Stripe has no active meter for events named {name}.")
        if meter.default_aggregation.formula != "sum":
            raise ProviderUnavailable(f"Stripe's meter of {name} does not sum what it is sent.")
        summaries = client.v1.billing.meters.event_summaries.list(
            meter.id,
            {
                "customer": customer_id,
                "start_time": int(start.timestamp()),
                "end_time": int(end.timestamp()),
                "limit": 100,
            },
        )
        return round(sum(summary.aggregated_value for summary in summaries.auto_paging_iter()))
    except stripe.StripeError as error:
        raise ProviderUnavailable(f"Stripe: {error}") from error


def refusals(delivery_type: str, payload: dict[str, Any]) -> list[Refusal] | None:
    """Of a report of errors, which comes as a thin event: the samples that it names.

    Stripe names no more than samples; what else was refused shows in the reconciliation.
    """
    if delivery_type not in _REPORTS:
        return None
    try:
        event = open_client().v2.core.events.retrieve(str(payload.get("id", "")))
    except stripe.StripeError as error:
        raise ProviderUnavailable(f"Stripe: {error}") from error
    data = event.to_dict().get("data")
    reason = data.get("reason") if isinstance(data, dict) else None
    found = []
    for kind in _dicts(reason, "error_types"):
        for sample in _dicts(kind, "sample_errors"):
            request = sample.get("request")
            identifier = request.get("identifier") if isinstance(request, dict) else None
            if isinstance(identifier, str):
                said = f"{kind.get('code', '')}: {sample.get('error_message', '')}"
                found.append(Refusal(identifier.partition("/")[0], said))
    return found


def unmetered(names: Sequence[str]) -> list[str]:
    client = open_client()
    try:
        meters = client.v1.billing.meters.list({"status": "active", "limit": 100})
        there = {one.event_name for one in meters.auto_paging_iter()}
    except stripe.StripeError as error:
        raise ProviderUnavailable(f"Stripe: {error}") from error
    return [name for name in names if name not in there]


def make_meter(name: str, label: str) -> None:
    client = open_client(repeats=1)
    try:
        client.v1.billing.meters.create(
            {
                "event_name": name,
                "display_name": label,
                "default_aggregation": {"formula": "sum"},
                "customer_mapping": {"type": "by_id", "event_payload_key": "stripe_customer_id"},
                "value_settings": {"event_payload_key": "value"},
            }
        )
    except stripe.StripeError as error:
        raise ProviderUnavailable(f"Stripe: {error}") from error


def _dicts(holder: Any, name: str) -> list[dict[str, Any]]:
    held = holder.get(name) if isinstance(holder, dict) else None
    return [one for one in held if isinstance(one, dict)] if isinstance(held, list) else []


def _send(client: stripe.StripeClient, event: MeterEvent, away: Event) -> Outcome:
    if away.is_set():
        return Outcome("not_taken", "Not tried: Stripe was away.")
    params: MeterEventCreateParams = {
        "event_name": event.name,
        "identifier": event.id,
        "payload": {"stripe_customer_id": event.customer_id, "value": str(event.units)},
    }
    if event.at is not None:
        params["timestamp"] = int(event.at.timestamp())
    # The idempotency key is new each time, or Stripe would repeat the error of the time before;
    # the identifier is what counts an event once. Reports of errors may name either.
    key = f"{event.id}/{secrets.token_hex(4)}"
    try:
        answer = client.v1.billing.meter_events.create(params, {"idempotency_key": key})
    except stripe.StripeError as error:
        outcome = _outcome_of(error)
        # 409: others of this customer are being counted at this moment; the rest may go on.
        if outcome.kind in ("not_taken", "unheard") and error.http_status != 409:
            away.set()
        return outcome
    if getattr(answer, "identifier", None) != event.id:
        return Outcome("unheard", "Stripe's answer names another event.")
    return Outcome("taken")


def _outcome_of(error: stripe.StripeError) -> Outcome:
    if isinstance(error, stripe.APIConnectionError):
        said = f"No answer: {type(error.__cause__ or error).__name__}"
        return Outcome("not_taken" if never_left(error) else "unheard", said)
    said = f"{error.http_status}: {error.user_message or type(error).__name__}"
    if error.code == "duplicate_meter_event" or _KNOWN.search(error.user_message or ""):
        return Outcome("taken", said)
    if error.http_status in (401, 403, 409, 429):  # ours to mend, or too many at once
        return Outcome("not_taken", said)
    # A refusal in no words of Stripe's is somebody's on the way there, and says nothing.
    if error.http_status is not None and 400 <= error.http_status < 500 and error.error:
        return Outcome("refused", said)
    return Outcome("unheard", said)
