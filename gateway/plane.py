"""The data plane of one event loop. A call goes read (intake) → admit → forward → settle.

Owns that order and the lives of the parts: the Redis connection, the routes, the backends'
connections, the settlements. Its doors are `gateway.asgi` and `gateway.views`. Asks Redis, never
Postgres.
"""

from __future__ import annotations

import json
import time
from typing import Any

import hiredis
import structlog
import uuid_utils
from django.conf import settings

from gateway import intake, limits, link, verify
from gateway.admit import Admission, Gate
from gateway.forward import Receive, Send, forward
from gateway.problems import Refusal, http_date
from gateway.settle import Outcome, Settler
from gateway.upstream import Pool
from keys import records

log = structlog.get_logger(__name__)

Scope = dict[str, Any]

SETTLE_SECONDS = 5.0


class Gateway:
    """Must be made and used on one event loop, between `start` and `stop`."""

    def __init__(self) -> None:
        self._link = link.Link(settings.REDIS_URL, settings.GATEWAY_REDIS_TIMEOUT_SECONDS)
        self._settler = Settler(self._link)
        self._gate = Gate(self._link, self._settler)
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
        await self._settler.finish(SETTLE_SECONDS)
        self._pool.close()
        await self._link.close()

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one HTTP request whose key is in its headers."""
        started = time.perf_counter_ns()
        if scope["path"] in verify.PATHS:
            decided = await verify.answer(self._link, self._gate, self._settler, scope, receive)
            await say(decided, send)
            return
        call = intake.read(scope)
        if isinstance(call, Refusal):
            await refuse(call, send)
            return
        if call.path == limits.PATH:
            await say(await self.limits(call), send, is_head=call.method == "HEAD")
            return
        admission = await self.admit(call) if call.digest else intake.MISSING_KEY
        if isinstance(admission, Refusal):
            await refuse(admission, send)
        else:
            await self.carry_out(call, admission, receive, send, started)

    async def limits(self, call: intake.Call) -> dict[str, Any] | Refusal:
        """What the call's key may do and what is left of it (`gateway.limits`)."""
        return await limits.answer(self._link, self._gate, call)

    async def admit(self, call: intake.Call) -> Admission | Refusal:
        """Admits the call, as a new event. Admitted means: `carry_out` must follow."""
        return await self._gate.admit(call, str(uuid_utils.uuid7()))

    async def carry_out(
        self,
        call: intake.Call,
        admission: Admission,
        receive: Receive,
        send: Send,
        started_ns: int,
    ) -> None:
        """Forwards an admitted call, answers it, and settles it whatever happens."""
        outcome = Outcome()
        try:
            refusal = await forward(self._pool, call, admission, receive, send, outcome)
            if refusal is not None:
                outcome.status, outcome.code = refusal.status, refusal.code
                await refuse(refusal._replace(headers=tuple(admission.headers)), send)
        finally:
            self._settler.settle(
                admission.event_id,
                call.partition,
                admission.operation,
                outcome,
                is_live=admission.mode == b"live",
                latency_us=(time.perf_counter_ns() - started_ns) // 1000,
            )


async def refuse(refusal: Refusal, send: Send) -> None:
    """Answers with problem details."""
    body = refusal.body()
    headers = refusal.response_headers(body)
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def say(answer: dict[str, Any] | Refusal, send: Send, *, is_head: bool = False) -> None:
    """Answers with JSON, or with the refusal's problem details."""
    if isinstance(answer, Refusal):
        await refuse(answer, send)
        return
    body = json.dumps(answer).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"date", http_date()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if is_head else body})
