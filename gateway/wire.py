"""The HTTP/1.1 server protocol of the gateway: uvicorn's on httptools, closer to the wire.

Owns what an ASGI application can't see or stop: the request target exactly as it was sent
(`scope["keystile.target"]`), trailers kept out of the headers, a limit on the head, no chunks for
HTTP/1.0. Chosen by `uvicorn --http gateway.wire:StrictHttp`; the gateway also runs without it, a
little less exact.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

if TYPE_CHECKING:
    from uvicorn._types import (
        ASGI3Application,
        ASGIReceiveCallable,
        ASGISendCallable,
        ASGISendEvent,
        Scope,
    )

MAX_HEAD_BYTES = 64 * 1024
FLUSH_BYTES = 64 * 1024
HEAD_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


class _OneWrite:
    """A transport that writes once per turn of the loop: uvicorn gives it head and body apart."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop):
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._bytes = 0
        self.is_closing = transport.is_closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)
        self._bytes += len(data)
        if self._bytes > FLUSH_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts and not self.is_closing():
            self._transport.writelines(self._parts)
            self._parts = []
            self._bytes = 0


def _without_chunks(app: ASGI3Application, cycle: RequestResponseCycle) -> ASGI3Application:
    """The application for an HTTP/1.0 client, who knows no chunks.

    What has no length ends with the connection (RFC 9112 §6.3), which uvicorn closes.
    """

    async def answer(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        has_length = True

        async def send_plain(message: ASGISendEvent) -> None:
            nonlocal has_length
            if message["type"] == "http.response.start":
                names = (name.lower() for name, _ in message.get("headers", ()))
                has_length = b"content-length" in names
                if not has_length:
                    cycle.chunked_encoding = False
            elif message["type"] == "http.response.body" and not has_length:
                # uvicorn counts down to what was promised: each part keeps its own promise.
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_plain)

    return answer


class StrictHttp(HttpToolsProtocol):
    _in_head = False
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = cast(asyncio.Transport, _OneWrite(transport, self.loop))

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.transport.write(HEAD_TOO_LARGE)
                self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        self.scope["keystile.target"] = self.url  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()
        # The scope keeps its list; a trailer of the body lands in this one and is dropped.
        self.headers = []

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if cycle.scope["http_version"] == "1.0":
            app = _without_chunks(app, cycle)
        super()._start_asgi_task(cycle, app)

    def _should_upgrade_to_ws(self) -> bool:
        return False  # an Upgrade reaches the application, which refuses it

    def _unsupported_upgrade_warning(self) -> None:
        pass  # the refusal says it to whom it concerns; strangers don't fill the log
