"""Stripe's billing meters as its documents and its library's typed parameters describe them.

Meters sum; an identifier counts once and is known for a day by `known_for`; events are taken at
first and may be refused later in a report (`report`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

from stripe.params.billing import (
    MeterCreateParams,
    MeterEventCreateParams,
    MeterEventSummaryListParams,
    MeterListParams,
)

from tests.doubles.server import Double, Refused, Request
from tests.doubles.typed import complaints, nested

REPORT = "v1.billing.meter.error_report_triggered"


@dataclass
class MeterEvent:
    identifier: str
    name: str
    customer: str
    value: int
    at: datetime
    received_at: datetime


def own_fields(params: type) -> set[str]:
    """What a request may hold by the library's types, without the options of the transport."""
    options = {
        "api_key", "content_type", "headers", "idempotency_key", "max_network_retries",
        "stripe_account", "stripe_context", "stripe_version",
    }  # fmt: skip
    return set(params.__annotations__) - options


@dataclass
class Stripe(Double):
    key: str = "sk_test_double"
    known_for: timedelta = timedelta(hours=24)
    customers: set[str] = field(default_factory=lambda: {"cus_1"})
    meters: list[str] = field(default_factory=lambda: ["keystile_calls"])
    events: list[MeterEvent] = field(default_factory=list)
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)

    def handle(self, request: Request) -> Any:
        self.demand(
            request.headers.get("authorization") == f"Bearer {self.key}", "not the secret key"
        )
        if (request.method, request.path) == ("POST", "/v1/billing/meter_events"):
            return self._count(request)
        if (request.method, request.path) == ("GET", "/v1/billing/meters"):
            self._only(MeterListParams, request.query)
            return self._list(self._meter(name) for name in self.meters)
        if (request.method, request.path) == ("POST", "/v1/billing/meters"):
            return self._add_meter(nested(request.body.decode()))
        if found := re.fullmatch(r"/v1/billing/meters/mtr_(\w+)/event_summaries", request.path):
            return self._summaries(found[1], request.query)
        if found := re.fullmatch(r"/v2/core/events/(\w+)", request.path):
            return self.reports[found[1]]
        raise Refused(404, f"Unrecognized request URL ({request.method}: {request.path}).")

    def error(self, refused: Refused) -> Any:
        return {
            "error": {
                "type": "api_error" if refused.status >= 500 else "invalid_request_error",
                "message": refused.message,
                **refused.details,
            }
        }

    def total(self, customer: str = "cus_1", name: str = "keystile_calls") -> int:
        return sum(e.value for e in self.events if (e.customer, e.name) == (customer, name))

    def report(self, event_id: str, identifiers: list[str], code: str) -> dict[str, Any]:
        """Takes events back; the thin event that says so, without the details."""
        self.events = [one for one in self.events if one.identifier not in identifiers]
        thin = {
            "id": event_id,
            "object": "v2.core.event",
            "type": REPORT,
            "livemode": False,
            "created": self.clock().isoformat(),
            "related_object": {
                "id": "mtr_keystile_calls",
                "type": "billing.meter",
                "url": "/v1/billing/meters/mtr_keystile_calls",
            },
        }
        samples = [
            {"error_message": f"As told: {code}.", "request": {"identifier": identifier}}
            for identifier in identifiers
        ]
        reason = {
            "error_count": len(samples),
            "error_types": [{"code": code, "error_count": len(samples), "sample_errors": samples}],
        }
        self.reports[event_id] = thin | {
            "data": {
                "developer_message_summary": "There is 1 invalid event",
                "reason": reason,
                "validation_start": self.clock().isoformat(),
                "validation_end": self.clock().isoformat(),
            }
        }
        return thin

    def _add_meter(self, given: dict[str, Any]) -> Any:
        said = complaints(MeterCreateParams, given)
        self.demand(not said, "; ".join(said))
        name = given["event_name"]
        if name in self.meters:
            raise Refused(400, f"An active meter already exists for event name {name}.")
        self.meters.append(name)
        return self._meter(name) | {"display_name": given["display_name"]}

    def _only(self, params: type, given: dict[str, str]) -> None:
        allowed = own_fields(params)
        self.demand(
            {name.partition("[")[0] for name in given} <= allowed,
            f"unknown parameters: {sorted(given)}, allowed {sorted(allowed)}",
        )

    def _count(self, request: Request) -> Any:
        form = dict(parse_qsl(request.body.decode(), keep_blank_values=True))
        self._only(MeterEventCreateParams, form)
        self.demand(set(form) >= {"event_name", "identifier"}, "event_name, identifier missing")
        payload = {name: form[name] for name in form if name.startswith("payload[")}
        self.demand(
            set(payload) == {"payload[stripe_customer_id]", "payload[value]"},
            f"payload: {sorted(payload)}",
        )
        self.demand(0 < len(form["identifier"]) <= 100, "identifier")
        self.demand(0 < len(form["event_name"]) <= 100, "event_name")
        value = form["payload[value]"]
        self.demand(re.fullmatch(r"[0-9]{1,15}", value) is not None, f"value {value!r}")
        now = self.clock()
        at = now
        if "timestamp" in form:
            self.demand(re.fullmatch(r"[0-9]{10}", form["timestamp"]) is not None, "timestamp")
            at = datetime.fromtimestamp(int(form["timestamp"]), tz=now.tzinfo)
            self.demand(
                now - timedelta(days=35) <= at <= now + timedelta(minutes=5), f"timestamp {at}"
            )
        name, customer = form["event_name"], form["payload[stripe_customer_id]"]
        if name not in self.meters:
            raise Refused(400, f"No active meter found for event name {name}.")
        if customer not in self.customers:
            raise Refused(400, f"No such customer: '{customer}'", code="resource_missing")
        if any(
            one.identifier == form["identifier"] and now < one.received_at + self.known_for
            for one in self.events
        ):
            raise Refused(400, f"An event already exists with identifier {form['identifier']}.")
        self.events.append(MeterEvent(form["identifier"], name, customer, int(value), at, now))
        return {
            "object": "billing.meter_event",
            "created": int(now.timestamp()),
            "event_name": name,
            "identifier": form["identifier"],
            "livemode": False,
            "payload": {"stripe_customer_id": customer, "value": value},
            "timestamp": int(at.timestamp()),
        }

    def _summaries(self, name: str, query: dict[str, str]) -> Any:
        self._only(MeterEventSummaryListParams, query)
        start, end = int(query["start_time"]), int(query["end_time"])
        self.demand(start % 60 == 0 and end % 60 == 0 and start < end, f"{start} to {end}")
        units = sum(
            one.value
            for one in self.events
            if (one.name, one.customer) == (name, query["customer"])
            and start <= one.at.timestamp() < end
        )
        summary = {
            "id": "mtrusg_1",
            "object": "billing.meter_event_summary",
            "aggregated_value": float(units),
            "start_time": start,
            "end_time": end,
            "livemode": False,
            "meter": f"mtr_{name}",
        }
        return self._list([summary] if units else [])

    def _meter(self, name: str) -> dict[str, Any]:
        return {
            "id": f"mtr_{name}",
            "object": "billing.meter",
            "event_name": name,
            "display_name": name,
            "status": "active",
            "default_aggregation": {"formula": "sum"},
            "customer_mapping": {"event_payload_key": "stripe_customer_id", "type": "by_id"},
            "value_settings": {"event_payload_key": "value"},
            "livemode": False,
        }

    def _list(self, items: Any) -> dict[str, Any]:
        return {"object": "list", "data": list(items), "has_more": False, "url": "/v1/list"}
