"""The fast door of the data plane: one ASGI application, before Django.

A call goes through `Gateway.answer`: read (intake) → admit → forward → settle. Paths are
`/gateway/<api>/…`, and `/<api>/…` on the gateway's own listener. Asks Redis, never Postgres.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from typing import Any

import django
import structlog
import uuid_utils
from django.conf import settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
django.setup()

from gateway import intake, link  # noqa: E402
from gateway.admit import Admission, Gate  # noqa: E402
from gateway.forward import Message, Receive, Send, forward  # noqa: E402
from gateway.problems import Refusal  # noqa: E402
from gateway.settle import Outcome, Settler  # noqa: E402
from gateway.upstream import Pool  # noqa: E402
from keys import records, tokens  # noqa: E402

log = structlog.get_logger(__name__)

Scope = dict[str, Any]

SETTLE_SECONDS = 5.0
GC_THRESHOLDS = (50_000, 50, 100)


class Gateway:
    """The data plane of one event loop: its Redis connection, routes, backends, settlements."""

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
        except link.Unavailable:
            log.warning("gateway.without_routes")

    async def stop(self) -> None:
        """Waits for outstanding settlements, then closes."""
        await self._settler.finish(SETTLE_SECONDS)
        self._pool.close()
        await self._link.close()

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one HTTP request whose key is in its headers."""
        started = time.perf_counter_ns()
        call = intake.read(scope)
        if isinstance(call, Refusal):
            await refuse(call, send)
        elif call.token is None:
            await refuse(intake.MISSING_KEY, send)
        else:
            token = call.token
            digest = tokens.digest(token.text)
            admission = await self.admit(call, token.partition, digest)
            if isinstance(admission, Refusal):
                await refuse(admission, send)
            else:
                await self.carry_out(call, admission, token.partition, receive, send, started)

    async def admit(self, call: intake.Call, partition: int, digest: str) -> Admission | Refusal:
        """Admits a call for the key with this digest. Admitted means: `carry_out` must follow."""
        return await self._gate.admit(
            str(uuid_utils.uuid7()),
            partition,
            digest,
            api_slug=call.api,
            method=call.method,
            path=call.path,
            content_length=call.content_length,
        )

    async def carry_out(
        self,
        call: intake.Call,
        admission: Admission,
        partition: int,
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
                partition,
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


class Application:
    """The ASGI entry: starts the gateway with the server, or with the first call."""

    def __init__(self) -> None:
        self._gateway: Gateway | None = None
        self._starting = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            gateway = self._gateway or await self._started()
            await gateway.answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "websocket.close"})

    async def _started(self) -> Gateway:
        async with self._starting:
            if self._gateway is None:
                gateway = Gateway()
                await gateway.start()
                self._gateway = gateway
            return self._gateway

    async def _live(self, receive: Receive, send: Send) -> None:
        message: Message = await receive()
        await self._started()
        # What exists now lives as long as the process: the collector need not look at it again,
        # and what a call leaves behind is mostly freed by reference counts.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        await send({"type": "lifespan.startup.complete"})
        while message["type"] != "lifespan.shutdown":
            message = await receive()
        if self._gateway is not None:
            await self._gateway.stop()
        await send({"type": "lifespan.shutdown.complete"})


application = Application()
