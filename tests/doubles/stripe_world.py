"""What everything at Stripe's double has in common: objects, requests, events.

Stateful: what it tells of an object is what was done to it. Requests are held against the
library's typed parameters made strict, writes need an idempotency key, and one that is known is
answered as the first time, refusals of a card included. Events wait in `outbox` as they were when
it happened; whoever sends them may lose, repeat and shuffle them.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import count
from typing import Any, ClassVar
from urllib.parse import urlencode

from tests.doubles.server import Refused, Request
from tests.doubles.stripe import Stripe
from tests.doubles.typed import complaints, nested

# How deep Stripe expands.
_DEPTH = 4


@dataclass
class StripeWorld(Stripe):
    """older: answers in the shapes of before 2025-03-31 (basil)"""

    # (method, path as a pattern, typed parameters, name of the method that answers)
    ROUTES: ClassVar[list[tuple[str, str, type, str]]] = []

    secret: str = "whsec_double"
    older: bool = False
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    outbox: list[dict[str, Any]] = field(default_factory=list)
    answered: dict[str, tuple[str, Any]] = field(default_factory=dict)
    serial: Any = field(default_factory=lambda: count(1))

    def handle(self, request: Request) -> Any:
        route = self._route(request)
        if route is None:
            return super().handle(request)
        params, name, about = route
        self.demand(
            request.headers.get("authorization") == f"Bearer {self.key}", "not the secret key"
        )
        given = nested(request.body.decode() or urlencode(request.query))

        def act() -> Any:
            said = complaints(params, given)
            self.demand(not said, f"{request.path}: {'; '.join(said)}")
            return getattr(self, name)(given, *about)

        if request.method != "POST":
            return act()
        key = request.headers.get("idempotency-key", "")
        self.demand(0 < len(key) <= 255, "no idempotency key")
        asked = f"{request.path}?{request.body.decode()}"
        if key in self.answered:
            first, answer = self.answered[key]
            self.demand(first == asked, "an idempotency key used for something else")
        else:
            try:
                answer = act()
            except Refused as refused:
                if refused.status != 402:
                    raise
                answer = refused
            self.answered[key] = asked, answer
        if isinstance(answer, Refused):
            raise answer
        return answer

    def _route(self, request: Request) -> tuple[type, str, tuple[str, ...]] | None:
        for one in type(self).__mro__:
            for method, pattern, params, name in vars(one).get("ROUTES", []):
                found = re.fullmatch(pattern, request.path)
                if found and method == request.method:
                    return params, name, found.groups()
        return None

    def signed(
        self, event: dict[str, Any], at: float | None = None
    ) -> tuple[bytes, dict[str, str]]:
        """A delivery's body and headers, signed at some time; None: now by the real clock."""
        body = json.dumps(event).encode()
        moment = int(time.time() if at is None else at)
        signature = hmac.new(self.secret.encode(), b"%d." % moment + body, hashlib.sha256)
        return body, {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": f"t={moment},v1={signature.hexdigest()}",
        }

    def all_of(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        """The objects of a kind whose fields have these values, the oldest first."""
        return [
            one
            for one in self.objects.values()
            if one["object"] == kind and all(one.get(n) == v for n, v in fields.items())
        ]

    # ---------------------------------------------------------------- how it is shown

    def shown(self, object_id: str, paths: Iterable[str] = ()) -> dict[str, Any]:
        """The object as the API and events show it, with what is to be expanded."""
        paths = list(paths)
        wanted = {name for path in paths for name in path.split(".")}
        held = self.as_shown(object_id, wanted)
        for path in paths:
            self.demand(path.count(".") < _DEPTH, f"{path} is deeper than Stripe expands")
            self._expand(held, path.split("."), wanted)
        return held

    def page(self, found: list[dict[str, Any]], given: dict[str, Any]) -> dict[str, Any]:
        """A list of objects, the newest first."""
        ids = [one["id"] for one in reversed(found)]
        if after := given.get("starting_after"):
            ids = ids[ids.index(after) + 1 :]
        limit = int(given.get("limit", 10))
        self.demand(1 <= limit <= 100, "limit")
        paths = [path.removeprefix("data.") for path in expansions(given)]
        self.demand(all(p.count(".") < _DEPTH - 1 for p in paths), "deeper than Stripe expands")
        data = [self.shown(object_id, paths) for object_id in ids[:limit]]
        return {"object": "list", "data": data, "has_more": len(ids) > limit, "url": "/v1/list"}

    def as_shown(self, object_id: str, wanted: set[str]) -> dict[str, Any]:  # noqa: ARG002
        """Without what is the double's own; `wanted`: names that are shown when asked for only."""
        return own_left_out(deepcopy(self.objects[object_id]))

    def _expand(self, holder: Any, path: list[str], wanted: set[str]) -> None:
        if isinstance(holder, list):
            for one in holder:
                self._expand(one, path, wanted)
        elif path and isinstance(holder, dict):
            inside = holder.get(path[0])
            if isinstance(inside, str) and inside in self.objects:
                inside = holder[path[0]] = self.as_shown(inside, wanted)
            self._expand(inside, path[1:], wanted)

    # ---------------------------------------------------------------- how it is kept

    def new(self, prefix: str, kind: str, **content: Any) -> dict[str, Any]:
        object_id = f"{prefix}_{next(self.serial):06}"
        made = {"id": object_id, "object": kind, "livemode": False, "created": self.seconds()}
        self.objects[object_id] = made | content
        return self.objects[object_id]

    def known(self, object_id: str) -> dict[str, Any]:
        if object_id not in self.objects:
            raise Refused(404, f"No such object: '{object_id}'", code="resource_missing")
        return self.objects[object_id]

    def tell(self, event_type: str, object_id: str) -> None:
        event = self.new("evt", "event", type=event_type)
        self.outbox.append(event | {"data": {"object": self.shown(object_id)}})

    def seconds(self) -> int:
        return int(self.clock().timestamp())


def own_left_out(held: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in held.items() if not name.startswith("_")}


def expansions(given: dict[str, Any]) -> list[str]:
    return list(given.get("expand", {}).values())
