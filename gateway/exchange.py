"""One request on a connection, and its answer: what the server hands on.

Owns the body's way in and the answer's way out: their framing, and who waits for whom. Bytes, and
the order of exchanges, are `gateway.wire`'s. The data plane sees a `gateway.forward.Client` in it,
every other application a `Page`, in ASGI's terms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import structlog
from uvicorn.protocols.utils import get_local_addr

from gateway.problems import STATUS_LINES

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

    from gateway.wire import Server

log = structlog.get_logger(__name__)

Message = Mapping[str, Any]

BUFFER_BYTES = 64 * 1024
BODY_SECONDS = 30.0
"""How long a page waits for the next part of a body; calls have their API's own patience."""
BODILESS = frozenset((204, 304))
DISCONNECT: Message = {"type": "http.disconnect"}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
FAILED = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Exchange:
    """One request and its answer; what answers it sees in it a `gateway.forward.Client`."""

    __slots__ = (
        "_buffered",
        "_chunked",
        "_connection",
        "_expects",
        "_left",
        "_parts",
        "_read",
        "_silent",
        "_waiter",
        "_watcher",
        "_whole",
        "body_bytes",
        "ends_with_connection",
        "fields",
        "gone",
        "has_answer",
        "keep_alive",
        "method",
        "peer",
        "said",
        "scheme",
        "target",
        "task",
        "version",
    )

    def __init__(
        self,
        connection: Server,
        method: str,
        target: bytes,
        fields: list[tuple[bytes, bytes]],
        version: str,
        *,
        keep_alive: bool,
        expects: bool,
    ):
        self.task: asyncio.Task[None]
        self.method = method
        self.target = target
        self.fields = fields
        self.said = connection.said(fields)
        self.scheme = connection.scheme
        self.peer = connection.client
        self.version = version
        self.keep_alive = keep_alive
        self.gone = False  # the client, or the exchange is over
        self.has_answer = False
        self.ends_with_connection = False
        self.body_bytes = 0
        self._connection = connection
        self._expects = expects
        self._parts: list[bytes] = []
        self._buffered = 0
        self._whole = False  # the body has arrived
        self._read = False  # and was read
        self._waiter: asyncio.Future[None] | None = None
        self._watcher: Callable[[], None] | None = None
        self._chunked = False
        self._silent = False  # an answer without a body
        self._left: int | None = None  # bytes of the answer that are due

    @property
    def connection(self) -> Server:
        return self._connection

    async def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Does the work, whatever comes of it."""
        connection = self._connection
        try:
            await work
        except Exception:  # the edge of the process
            log.exception("request.failed", method=self.method)
            if not self.has_answer and not self.gone:
                connection.write(FAILED)
        finally:
            connection.tasks.discard(self.task)
        if not self.gone:
            self._watcher = None  # what it watched may be another call's by now
            connection.break_off()

    def leave(self) -> None:
        """The client is gone: there is nothing to read and nobody to answer."""
        self.gone = True
        self._wake()
        if self._watcher is not None:
            self._watcher()

    # ---- the request's body

    def arrived(self, data: bytes) -> None:
        self.body_bytes += len(data)
        if self.gone:
            return
        self._parts.append(data)
        self._buffered += len(data)
        if self._buffered > BUFFER_BYTES:
            self._connection.pause_reading()
        self._wake()

    @property
    def is_arriving(self) -> bool:
        """Whether some of the body is still to come."""
        return not self._whole

    def arrived_whole(self) -> None:
        self._whole = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def part(self) -> tuple[bytes, bool] | None:
        """The next part of the body, and whether more follows; None: the client is gone.

        After the last part it waits for that.
        """
        if self._expects and not self._whole and not self.has_answer:
            self._expects = False
            self._connection.write(CONTINUE)
        while not self.gone:
            if self._parts or (self._whole and not self._read):
                data = b"".join(self._parts)
                self._parts.clear()
                self._buffered = 0
                self._read = self._whole
                self._connection.resume_reading()
                return data, not self._read
            self._waiter = self._connection.loop.create_future()
            await self._waiter
        return None

    def watch(self, left: Callable[[], None]) -> None:
        self._watcher = left
        if self.gone:
            left()

    # ---- the answer

    def close_after(self) -> None:
        self.keep_alive = False

    def hint(self, status: int, head: bytes) -> None:
        if not self.gone and self.version != "1.0":
            self._connection.write(b"%b%b\r\n" % (STATUS_LINES[status], head))

    def start(
        self, status: int, head: bytes, length: int | None, reason: bytes | None = None
    ) -> None:
        if not self.gone:
            self._connection.write(self._framed(status, head, length, reason))

    async def write(self, data: bytes, *, more: bool) -> None:
        if self._connection.write_paused:
            await self._connection.drain()
        if self.gone:
            return
        if self._silent:
            data = b""
        elif self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            if not more:
                data += b"0\r\n\r\n"
        elif self._left is not None:
            self._left -= len(data)
            if self._left < 0 or (self._left and not more):
                raise ValueError("the answer is not as long as it says")
        if more:
            self._connection.write(data)
        else:
            self._end(data)

    def answer(
        self,
        status: int,
        head: bytes,
        body: bytes,
        length: int | None,
        reason: bytes | None = None,
    ) -> None:
        if self.gone:
            return
        if not self._whole:
            self.keep_alive = False  # where its body ends is not waited for
        if length is None and status not in BODILESS and self.method != "HEAD":
            length = len(body)
        head = self._framed(status, head, length, reason)
        if not self._silent and length != len(body):
            raise ValueError("the answer is not as long as it says")
        self._end(head if self._silent else head + body)

    def _framed(self, status: int, head: bytes, length: int | None, reason: bytes | None) -> bytes:
        """The whole head; decides how the client is told where the body ends (RFC 9112 §6.3)."""
        self.has_answer = True
        self._left = length
        is_old = self.version == "1.0"
        framing = b"\r\n"
        if status in BODILESS or self.method == "HEAD":
            self._silent = True
            if length is not None and status != 204:
                framing = b"content-length: %d\r\n\r\n" % length
        elif length is not None:
            framing = b"content-length: %d\r\n\r\n" % length
        elif is_old:
            self.ends_with_connection = True  # HTTP/1.0 knows no chunks
            self.keep_alive = False
        else:
            self._chunked = True
            framing = b"transfer-encoding: chunked\r\n\r\n"
        if not self.keep_alive:
            framing = b"connection: close\r\n" + framing
        elif is_old:
            framing = b"connection: keep-alive\r\n" + framing
        if reason is not None:
            return b"HTTP/1.1 %d %b\r\n%b%b" % (status, reason, head, framing)
        return STATUS_LINES[status] + head + framing

    def _end(self, data: bytes) -> None:
        self.gone = True
        self._watcher = None
        if self._waiter is not None:
            self._wake()
        self._connection.answered(data)


class Page:
    """An exchange as an ASGI application sees it: everything that is not the gateway's."""

    def __init__(self, exchange: Exchange):
        self._exchange = exchange

    async def run(self, app: ASGI3Application) -> None:
        exchange, connection = self._exchange, self._exchange.connection
        raw_path, _, query = exchange.target.partition(b"?")
        path = raw_path.decode("latin-1")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": exchange.version,
            "method": exchange.method,
            "scheme": connection.scheme.decode(),
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": exchange.fields,
            "client": connection.peer,
            "server": get_local_addr(connection.transport),
            "state": connection.state,
        }
        await app(scope, self._receive, self._send)  # type: ignore[arg-type]

    async def _receive(self) -> Message:
        try:
            async with asyncio.timeout(BODY_SECONDS if self._exchange.is_arriving else None):
                part = await self._exchange.part()
        except TimeoutError:
            return DISCONNECT
        if part is None:
            return DISCONNECT
        return {"type": "http.request", "body": part[0], "more_body": part[1]}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start(message["status"], message.get("headers", ()))
        else:
            body = message.get("body", b"")
            await self._exchange.write(body, more=message.get("more_body", False))

    def _start(self, status: int, fields: Iterable[tuple[bytes, bytes]]) -> None:
        length, lines = None, []
        for field in fields:
            name = field[0].lower()
            if name == b"content-length":
                length = int(field[1])
            elif name == b"connection":
                self._exchange.keep_alive &= b"close" not in field[1].lower()
            elif name != b"transfer-encoding":
                lines.append(b"%b: %b\r\n" % field)
        head = b"".join(lines)
        if head.count(b"\n") != len(lines):
            raise ValueError("a header field has a line break in it")
        self._exchange.start(status, head, length)
