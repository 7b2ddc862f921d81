"""The data plane as an ASGI application, before Django.

Paths are `/gateway/<api>/…`, and `/<api>/…` on the gateway's own listener. Starts and stops with
the server (lifespan) and leaves the gateway in the server's state, where `gateway.wire` finds it:
under that server calls don't come by here. Any other ASGI server may serve it too, a little slower
and less exact.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
django.setup()

from gateway.intake import Fields, read_fields  # noqa: E402
from gateway.plane import Gateway  # noqa: E402
from gateway.problems import Headers, Refusal, fields_of  # noqa: E402
from gateway.renewal import LEASE, Lease  # noqa: E402

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

GC_THRESHOLDS = (50_000, 50, 100)


class Application:
    """The ASGI entry: starts the gateway with the server, or with the first call."""

    def __init__(self, lease: Lease = LEASE) -> None:
        self._lease = lease
        self._gateway: Gateway | None = None
        self._starting = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            gateway = self._gateway or await self._started()
            client = _Client(scope, receive, send)
            try:
                await gateway.answer(client)
            finally:
                await client.finish()
        elif scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        else:
            await send({"type": "websocket.close"})

    async def _started(self) -> Gateway:
        async with self._starting:
            if self._gateway is None:
                gateway = Gateway(self._lease)
                await gateway.start()
                self._gateway = gateway
            return self._gateway

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        message: Message = await receive()
        gateway = await self._started()
        scope.setdefault("state", {})["gateway"] = gateway
        # What exists now lives as long as the process: the collector need not look at it again,
        # and what a call leaves behind is mostly freed by reference counts.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        await send({"type": "lifespan.startup.complete"})
        while message["type"] != "lifespan.shutdown":
            message = await receive()
        await gateway.stop()
        await send({"type": "lifespan.shutdown.complete"})


class _Client:
    """A call's client (`gateway.plane.Asking`) behind ASGI messages."""

    def __init__(self, scope: Scope, receive: Receive, send: Send):
        query = scope["query_string"]
        self.method: str = scope["method"]
        self.target: bytes = scope["raw_path"] + (b"?" + query if query else b"")
        self.fields: Headers = scope["headers"]
        self.said: Fields | Refusal = read_fields(self.fields)
        self.scheme: bytes = scope["scheme"].encode()
        self.peer: bytes = scope["client"][0].encode() if scope.get("client") else b"unknown"
        self._closes = False
        self._receive = receive
        self._send = send
        self._unsent: list[Message] = []
        self._watching: asyncio.Task[None] | None = None

    async def part(self) -> tuple[bytes, bool] | None:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            return None
        return message.get("body", b""), message.get("more_body", False)

    def close_after(self) -> None:
        self._closes = True

    def watch(self, left: Callable[[], None]) -> None:
        if isinstance(self.said, Fields) and not (self.said.chunked or self.said.content_length):
            self._watching = asyncio.create_task(self._watch(left))

    async def _watch(self, left: Callable[[], None]) -> None:
        while await self.part() is not None:
            pass
        left()

    def hint(self, status: int, head: bytes) -> None:
        pass  # ASGI has no message for it

    def start(
        self,
        status: int,
        head: bytes,
        length: int | None,
        reason: bytes | None = None,  # noqa: ARG002
    ) -> None:
        headers = fields_of(head)
        if length is not None and status != 204:
            headers.append((b"content-length", b"%d" % length))
        if self._closes:
            headers.append((b"connection", b"close"))
        self._unsent.append({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes, *, more: bool) -> None:
        self._unsent.append({"type": "http.response.body", "body": data, "more_body": more})
        await self._flush()

    def answer(
        self,
        status: int,
        head: bytes,
        body: bytes,
        length: int | None,
        reason: bytes | None = None,  # noqa: ARG002
    ) -> None:
        self.start(status, head, length)
        self._unsent.append({"type": "http.response.body", "body": body, "more_body": False})

    async def finish(self) -> None:
        """Sends what is not sent yet, once the call is over."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        await self._flush()

    async def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        for message in unsent:
            await self._send(message)


application = Application()
