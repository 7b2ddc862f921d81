"""The data plane of one event loop. A call goes read (intake) → admit → forward → settle.

Owns that order and the lives of the parts: the Redis connection, the routes, the backends'
connections, the settlements. Its doors are `gateway.wire`, `gateway.asgi` and `gateway.views`. Asks
Redis, never Postgres.
"""

from __future__ import annotations

import json
import time
from collections.abc import Coroutine
from typing import Any, Protocol

import hiredis
import structlog
import uuid_utils
from django.conf import settings

from gateway import intake, limits, link, verify
from gateway.admit import Admission, Gate
from gateway.cors import ForPages, Origins
from gateway.forward import Client, forward
from gateway.pool import Pool
from gateway.problems import Headers, Refusal, http_date, lines_of
from gateway.renewal import LEASE, Lease, Renewer
from gateway.settle import Outcome, Settler
from keys import records

log = structlog.get_logger(__name__)

SETTLE_SECONDS = 5.0


class Asking(verify.Asking, Protocol):
    """A client with its request, and what `intake` needs of it."""

    target: bytes

    @property
    def said(self) -> intake.Fields | Refusal: ...
    @property
    def scheme(self) -> bytes: ...
    @property
    def peer(self) -> bytes: ...
    def close_after(self) -> None:
        """Its connection ends with the answer, which is still to come."""


class Gateway:
    """Must be made and used on one event loop, between `start` and `stop`."""

    def __init__(self, lease: Lease = LEASE) -> None:
        self._link = link.Link(settings.REDIS_URL, settings.GATEWAY_REDIS_TIMEOUT_SECONDS)
        self._settler = Settler(self._link)
        self._gate = Gate(self._link, self._settler)
        self._renewer = Renewer(self._link, lease)
        self._pool = Pool()

    async def start(self) -> None:
        """Connects and loads the routes; a Redis that is away now is waited for by calls."""
        await self._link.start()
        try:
            await self._gate.load(records.PARTITIONS[0])
        except (link.Unavailable, hiredis.ReplyError) as error:
            log.warning("gateway.without_routes", reason=str(error))

    async def stop(self) -> None:
        """Waits for outstanding settlements, then closes."""
        self._renewer.stop()
        await self._settler.finish(SETTLE_SECONDS)
        self._pool.close()
        await self._link.close()

    async def answer(self, client: Asking) -> None:
        """Answers one HTTP request."""
        started_ns = time.perf_counter_ns()
        if client.target in verify.TARGETS:
            say(await self.verify(client), client)
            return
        call = intake.read(
            client.method, client.target, client.said, scheme=client.scheme, peer=client.peer
        )
        if client.method == "OPTIONS" and isinstance(call, intake.Call) and not call.said.digest:
            allowed = await self.preflight(call)
            if allowed is not None:
                client.answer(204, lines_of(allowed), b"", 0)
                return
        if self._gate.table.speaks_to_browsers:
            client = self._for_pages(client)
        if isinstance(call, Refusal):
            if call.code == "bad_request":
                client.close_after()  # what else it sends may be read in two ways, too
            refuse(call, client)
            return
        if call.path == limits.PATH:
            say(await self.limits(call), client)
            return
        if not call.said.digest:
            refuse(intake.MISSING_KEY, client)
            return
        admission = await self.admit(call)
        if isinstance(admission, Refusal):
            refuse(admission, client)
        else:
            await self.carry_out(call, admission, client, started_ns)

    async def preflight(self, call: intake.Call) -> Headers | None:
        """The answer's header to a browser that asks whether it may call; None if it may not.

        A preflight meets no admission, which would bring newer routes: they are asked for here.
        """
        method = call.said.field(b"access-control-request-method")
        origin = call.said.field(b"origin")
        if not (method and origin):
            return None
        try:
            await self._gate.freshen(records.PARTITIONS[0])
        except (link.Unavailable, hiredis.ReplyError) as error:
            log.warning("preflight.by_old_routes", reason=str(error))
        origins = self.origins(call.api)
        fields = call.said.field(b"access-control-request-headers")
        return origins.preflight(origin, method, fields) if origins else None

    def origins(self, slug: str) -> Origins | None:
        """Those that an API names, by the routes that this process has now."""
        api = self._gate.table.apis.get(slug)
        return api.cors if api else None

    def _for_pages(self, client: Asking) -> Asking:
        """Puts the API's own CORS fields on every answer, refusals too."""
        slug = intake.slug_of(client.target)
        return ForPages(client, lambda: self.origins(slug))

    async def verify(self, client: verify.Asking) -> dict[str, Any] | Refusal:
        """What a seller's own server is told of a call (`gateway.verify`)."""
        return await verify.answer(self._link, self._gate, self._settler, client)

    async def limits(self, call: intake.Call) -> dict[str, Any] | Refusal:
        """What the call's key may do and what is left of it (`gateway.limits`)."""
        return await limits.answer(self._link, self._gate, call)

    def admit(self, call: intake.Call) -> Coroutine[Any, Any, Admission | Refusal]:
        """Admits the call, as a new event. Admitted means: `carry_out` must follow."""
        return self._gate.admit(call, str(uuid_utils.uuid7()))

    async def carry_out(
        self, call: intake.Call, admission: Admission, client: Client, started_ns: int
    ) -> None:
        """Forwards an admitted call, answers it, and settles it whatever happens."""
        outcome = Outcome()
        if admission.api.is_endless:
            self._renewer.hold(admission.event_id, call.said.partition)
        try:
            refusal = await forward(self._pool, call, admission, client, outcome)
            if refusal is not None:
                outcome.status, outcome.code = refusal.status, refusal.code
                refuse(refusal._replace(lines=admission.head), client)
        finally:
            if admission.api.is_endless:
                self._renewer.drop(admission.event_id)
            self._settler.settle(
                admission.event_id,
                call.said.partition,
                admission.operation,
                outcome,
                client=call.client,
                is_live=admission.mode == b"live",
                is_charged=outcome.is_charged(admission.api.unbilled),
                latency_us=(time.perf_counter_ns() - started_ns) // 1000,
            )


def refuse(refusal: Refusal, client: Client) -> None:
    """Answers with problem details."""
    body = refusal.body()
    client.answer(refusal.status, refusal.head(), body, len(body))


def say(answer: dict[str, Any] | Refusal, client: Client) -> None:
    """Answers with JSON, or with the refusal's problem details."""
    if isinstance(answer, Refusal):
        refuse(answer, client)
        return
    body = json.dumps(answer).encode()
    head = lines_of(
        [
            (b"content-type", b"application/json"),
            (b"cache-control", b"no-store"),
            (b"date", http_date()),
        ]
    )
    client.answer(200, head, body, len(body))
