"""What Dodo Payments' double keeps, how it checks requests, and how it tells what happened.

What its OpenAPI document and its library's types ask of requests is demanded, and its own answers
are held against the library's models. Deliveries wait in `outbox` until a test sends them, as
often and in the order it likes; each tells the state at that moment, as Dodo's do.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from random import Random
from typing import Any

import requests
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from standardwebhooks import Webhook

from tests.doubles.dodo import Dodo

_STRICT = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)

Row = dict[str, Any]


@dataclass(frozen=True)
class Hint:
    """A delivery to come: of what type, and what it will show the state of."""

    id: str
    type: str
    about: str
    due_at: datetime | None = None


@dataclass
class Disorder:
    """What goes wrong with deliveries: of a hundred so many never leave, each is repeated so many
    times, they are shuffled, and leave so much later.
    """

    drop_percent: int = 0
    repeat: int = 0
    shuffle: bool = False
    delay: timedelta = timedelta()
    random: Random = field(default_factory=lambda: Random(1))  # noqa: S311 - no secret


@dataclass
class DodoBooks(Dodo):
    secret: str = "whsec_" + base64.b64encode(b"the double's secret, 24 b").decode()
    products: dict[str, Row] = field(default_factory=dict)
    add_ons: dict[str, Row] = field(default_factory=dict)
    sessions: dict[str, Row] = field(default_factory=dict)
    payments: dict[str, Row] = field(default_factory=dict)
    subscriptions: dict[str, Row] = field(default_factory=dict)
    refunds: dict[str, Row] = field(default_factory=dict)
    disputes: dict[str, Row] = field(default_factory=dict)
    outbox: list[Hint] = field(default_factory=list)
    disorder: Disorder = field(default_factory=Disorder)
    made: int = 0

    # ------------------------------------------------------------------ deliveries

    def deliver(self, site: str) -> list[int]:
        """Sends what waits; what isn't answered with 2xx goes on waiting. The statuses."""
        now = self.clock()
        late = [hint for hint in self.outbox if hint.due_at and hint.due_at > now]
        waiting, self.outbox = [hint for hint in self.outbox if hint not in late], late
        if self.disorder.shuffle:
            self.disorder.random.shuffle(waiting)
        statuses = []
        for hint in waiting:
            answers = [self.send(site, hint) for _ in range(1 + self.disorder.repeat)]
            if answers[-1] != 200:
                self.outbox.append(hint)
            statuses += answers
        return statuses

    def send(self, site: str, hint: Hint) -> int:
        body = self.body(hint)
        headers = self.signed(hint.id, body, datetime.now(UTC))
        return requests.post(
            f"{site}/webhooks/dodo", data=body, headers=headers, timeout=10
        ).status_code

    def body(self, hint: Hint) -> bytes:
        kinds = (("Subscription", self.subscriptions), ("Payment", self.payments))
        for kind, rows in (*kinds, ("Refund", self.refunds), ("Dispute", self.disputes)):
            if hint.about in rows:
                data = {"payload_type": kind} | rows[hint.about]
        envelope = {"business_id": "bus_1", "type": hint.type, "timestamp": self._now()}
        return json.dumps(envelope | {"data": data}).encode()

    def signed(self, message_id: str, body: bytes, at: datetime) -> dict[str, str]:
        return {
            "content-type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": Webhook(self.secret).sign(message_id, at, body.decode()),
        }

    def _tell(self, delivery_type: str, about: str) -> None:
        if self.disorder.random.randrange(100) < self.disorder.drop_percent:
            return
        due_at = self.clock() + self.disorder.delay if self.disorder.delay else None
        self.outbox.append(Hint(self._id("msg"), delivery_type, about, due_at))

    # ------------------------------------------------------------------ requests and answers

    def _id(self, prefix: str) -> str:
        self.made += 1
        return f"{prefix}_{self.made:06}"

    def _now(self) -> str:
        return self.clock().isoformat()

    def _taken(self, params: type, body: bytes) -> Row:
        """A request's body, held against the library's typed parameters made strict."""
        try:
            _exhaust(_strict(params).validate_json(b"[" + body + b"]"))
        except ValidationError as error:
            self.demand(False, f"{params.__name__}: {error}")
        taken: Row = json.loads(body)
        return taken

    def _answer(self, model: type[BaseModel], row: Row) -> Row:
        model.model_validate(row)
        return row

    def _page_of(self, rows: Iterable[Any], query: dict[str, str], params: type) -> Any:
        self.demand(set(query) <= set(params.__annotations__), f"{sorted(query)}")
        number, size = int(query.get("page_number", 0)), int(query.get("page_size", 10))
        self.demand(size <= 100, f"page_size {size}")
        return {"items": list(rows)[number * size : (number + 1) * size]}


@cache
def _strict(params: type) -> TypeAdapter[Any]:
    """pydantic lets no configuration be given to a TypedDict, but to a list of them."""
    return TypeAdapter(list[params], config=_STRICT)


def _exhaust(validated: Any) -> None:
    """Makes pydantic look at every item: it checks an Iterable only as it is read."""
    if isinstance(validated, dict):
        validated = validated.values()
    if isinstance(validated, Iterable) and not isinstance(validated, (str, bytes)):
        for one in validated:
            _exhaust(one)
