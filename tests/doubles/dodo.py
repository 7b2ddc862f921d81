"""Dodo Payments' meters and usage events as its OpenAPI document describes them.

Ids are known for ever; a time older than an hour is refused, and a bad event its whole request.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from dodopayments.types import (
    EventInputParam,
    MeterCreateParams,
    MeterListParams,
    UsageEventListParams,
)

from tests.doubles.server import Double, Refused, Request


@dataclass
class Dodo(Double):
    key: str = "dodo_key"
    customers: set[str] = field(default_factory=lambda: {"cus_1"})
    emails: dict[str, str] = field(default_factory=dict)
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    meters: dict[str, dict[str, Any]] = field(default_factory=dict)
    largest: int = 0

    def handle(self, request: Request) -> Any:
        self.demand(
            request.headers.get("authorization") == f"Bearer {self.key}", "not the secret key"
        )
        if (request.method, request.path) == ("POST", "/events/ingest"):
            return self._ingest(json.loads(request.body))
        if (request.method, request.path) == ("GET", "/events"):
            return self._list(request.query)
        if request.method == "GET" and request.path.startswith("/events/"):
            found = self.events.get(request.path.removeprefix("/events/"))
            if found is None:
                raise Refused(404, "Event not found", code="NOT_FOUND")
            return found
        if (request.method, request.path) == ("GET", "/meters"):
            self.demand(set(request.query) <= set(MeterListParams.__annotations__), "meters")
            return {"items": list(self.meters.values())}
        if (request.method, request.path) == ("POST", "/meters"):
            return self._create_meter(json.loads(request.body))
        raise Refused(404, "Not found", code="NOT_FOUND")

    def error(self, refused: Refused) -> Any:
        return {"code": refused.details.get("code", "INVALID"), "message": refused.message}

    def total(self, customer: str = "cus_1", name: str = "keystile_calls") -> int:
        return sum(
            int(one["metadata"]["units"])
            for one in self.events.values()
            if (one["customer_id"], one["event_name"]) == (customer, name)
        )

    def _create_meter(self, body: dict[str, Any]) -> Any:
        self.demand(set(body) <= set(MeterCreateParams.__annotations__), f"meter: {sorted(body)}")
        self.demand(set(body) >= MeterCreateParams.__required_keys__, f"meter: {sorted(body)}")
        now = self.clock().isoformat()
        made = {"id": f"mtr_{len(self.meters) + 1}", "business_id": "bus_1", "filter": None}
        self.meters[made["id"]] = made | {"created_at": now, "updated_at": now} | body
        return self.meters[made["id"]]

    def _ingest(self, body: dict[str, Any]) -> Any:
        self.demand(set(body) == {"events"}, f"fields: {sorted(body)}")
        events = body["events"]
        self.demand(1 <= len(events) <= 1000, f"{len(events)} events")
        self.largest = max(self.largest, len(events))
        ids = [one.get("event_id") for one in events]
        self.demand(len(set(ids)) == len(ids), "an id twice in one request")
        for one in events:
            self._check(one)
        now = self.clock().isoformat()
        fresh = [one for one in events if one["event_id"] not in self.events]
        for one in fresh:
            self.events[one["event_id"]] = {"business_id": "bus_1", "timestamp": now} | one
        return {"ingested_count": len(fresh)}

    def _check(self, one: dict[str, Any]) -> None:
        self.demand(set(one) <= set(EventInputParam.__annotations__), f"fields: {sorted(one)}")
        self.demand(
            all(isinstance(one.get(name), str) for name in EventInputParam.__required_keys__),
            "required fields",
        )
        metadata = one.get("metadata") or {}
        self.demand(
            len(metadata) <= 50
            and all(
                len(name) <= 100 and isinstance(value, (str, int, float)) and len(str(value)) <= 500
                for name, value in metadata.items()
            ),
            f"metadata: {metadata}",
        )
        if "timestamp" in one:
            at = datetime.fromisoformat(one["timestamp"])
            now = self.clock()
            self.demand(
                now - timedelta(hours=1) <= at <= now + timedelta(minutes=5), f"timestamp {at}"
            )
        if one["customer_id"] not in self.customers:
            raise Refused(422, f"No customer {one['customer_id']}", code="CUSTOMER_NOT_FOUND")

    def _list(self, query: dict[str, str]) -> Any:
        self.demand(set(query) <= set(UsageEventListParams.__annotations__), f"{sorted(query)}")
        start, end = (datetime.fromisoformat(query[name]) for name in ("start", "end"))
        number, size = int(query.get("page_number", 0)), int(query.get("page_size", 10))
        self.demand(size <= 100, f"page_size {size}")
        found = [
            one
            for one in self.events.values()
            if one["customer_id"] == query["customer_id"]
            and one["event_name"] == query["event_name"]
            and start <= datetime.fromisoformat(one["timestamp"]) <= end
        ]
        return {"items": found[number * size : (number + 1) * size]}
