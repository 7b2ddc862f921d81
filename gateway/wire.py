"""The HTTP/1.1 server of the gateway and the site: bytes of a connection in, ASGI messages out.

Owns what an ASGI application can't see or stop: what is HTTP at all, the order of pipelined
requests, framing, backpressure, the patience with slow clients. Parses with llhttp (httptools) and
runs inside uvicorn, which listens and ends processes: `uvicorn --http gateway.wire:Server`. It
hands on the request target exactly as it was sent (`scope["keystile.target"]`), and drops trailers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from http.client import responses
from math import inf
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

import httptools
import structlog
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from gateway.problems import Refusal

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application
    from uvicorn.config import Config
    from uvicorn.server import ServerState

log = structlog.get_logger(__name__)

Message = Mapping[str, Any]

MAX_HEAD_BYTES = 64 * 1024
MAX_FIELDS = 256
MOST_OVERHEAD = 16
"""Bytes of framing (chunk sizes, extensions, trailers) per byte of a body, and a head's on top."""
BUFFER_BYTES = 64 * 1024
HEAD_SECONDS = 10.0
"""From the first byte of a request until its head is whole."""
IDLE_SECONDS = 75.0
STALL_SECONDS = 30.0
"""How long a client that reads nothing holds an answer up."""
LINGER_SECONDS = 2.0
LINGER_BYTES = 512 * 1024
"""How long, and how much, the rest of an unread body is taken: its sender can read the answer."""
LEAVE_SECONDS = 0.5
"""A client that closes its half may still be reading: an answer that is near reaches it."""
TICK_SECONDS = 0.25

DISCONNECT: Message = {"type": "http.disconnect"}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
FAILED = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
VERSIONS = ("1.1", "1.0")
STATUS_LINES = {
    status: f"HTTP/1.1 {status} {responses.get(status, '')}\r\n".encode()
    for status in range(200, 600)
}

NOT_HTTP = Refusal("bad_request", "This is not an HTTP/1.1 request.")
HEAD_TOO_LARGE = Refusal("bad_request", "The request's head is too large.")
WRONG_VERSION = Refusal("bad_request", "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
TOO_SLOW = Refusal("bad_request", "The request's head did not arrive in time.")
OWN_STATUS = {HEAD_TOO_LARGE: 431, WRONG_VERSION: 505, TOO_SLOW: 408}
"""Where HTTP has a more exact status than the code's."""


class Server(asyncio.Protocol):
    """One connection of a client and the exchanges on it, answered one after the other."""

    transport: asyncio.Transport

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ):
        self.app = cast("ASGI3Application", config.loaded_app)
        self.loop = _loop or asyncio.get_running_loop()
        self.tasks = server_state.tasks
        self.write_paused = False
        self.deadline = inf  # for whatever is awaited now; see `_Clock`
        self._connections = cast("set[Server]", server_state.connections)
        self._state = app_state
        # None: nothing is read any more, whatever arrives.
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._queue: deque[Exchange] = deque()  # the first one is being answered
        self._reading: Exchange | None = None  # the one whose body is arriving
        self._is_last = False  # no request is taken after those in the queue
        self._refusal: Refusal | None = None  # said after the answers that are due
        self._in_head = False
        self._received = 0  # bytes of this message, without those of its first read
        self._read_paused = False
        self._drained: asyncio.Future[None] | None = None
        self._out: list[bytes] = []

    # ---- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's in all but their class.
        self.transport = cast(asyncio.Transport, transport)
        self._client = get_remote_addr(self.transport)
        self._server = get_local_addr(self.transport)
        self._scheme = "https" if is_ssl(self.transport) else "http"
        self._connections.add(self)
        _Clock.start(self.loop, self._connections)
        self._allow(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._connections.discard(self)
        self._parser = None
        for exchange in self._queue:
            exchange.leave()
        self.resume_writing()

    def eof_received(self) -> bool:
        """Half closed, or gone for good: which of the two shows when something is written."""
        if not self._queue or self._reading is not None:
            return False  # asyncio closes
        self._is_last = True
        self._allow(LEAVE_SECONDS)
        return True

    def shutdown(self) -> None:
        """uvicorn ends: what is being answered is answered."""
        if self._queue:
            self._queue[-1].keep_alive = False
            self._is_last = True
        else:
            self.transport.close()

    def is_late(self) -> None:
        """The deadline has passed."""
        if self._in_head and not self._queue and self._parser is not None:
            self._refuse(TOO_SLOW)
        else:
            self.transport.abort()

    def _allow(self, seconds: float) -> None:
        self.deadline = self.loop.time() + seconds

    # ---- bytes in

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            self._received += len(data)
            if self._received > LINGER_BYTES:
                self.transport.abort()
            return
        is_continued = self._in_head or self._reading is not None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._parser = None  # the application refuses it
        except httptools.HttpParserError:
            self._parser = None
            if self._reading is not None or not self._is_last:
                self._refuse(NOT_HTTP)
            return
        if is_continued:
            self._weigh(len(data))
        elif self._in_head:
            self._allow(HEAD_SECONDS)

    def _weigh(self, size: int) -> None:
        """Ends a request whose head, or the framing of whose body, is out of proportion."""
        self._received += size
        allowed = MAX_HEAD_BYTES
        if self._reading is not None:
            allowed += MOST_OVERHEAD * self._reading.body_bytes
        if (self._in_head or self._reading is not None) and self._received > allowed:
            self._refuse(HEAD_TOO_LARGE)

    def on_message_begin(self) -> None:
        self._in_head = True
        self._received = 0
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._expects = False

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer
        name = name.lower()
        self._fields.append((name, value))
        if name == b"expect":
            self._expects = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._is_last or self._parser is None:
            return
        target, fields = self._target, self._fields
        version = self._parser.get_http_version()
        if version not in VERSIONS:
            self._refuse(WRONG_VERSION)
            return
        size = len(target) + sum([len(name) + len(value) for name, value in fields])
        if size > MAX_HEAD_BYTES or len(fields) > MAX_FIELDS:
            self._refuse(HEAD_TOO_LARGE)
            return
        raw_path, _, query = target.partition(b"?")
        path = raw_path.decode("latin-1")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "method": self._parser.get_method().decode(),
            "scheme": self._scheme,
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": fields,
            "client": self._client,
            "server": self._server,
            "state": self._state,
            "keystile.target": target,
        }
        self._reading = Exchange(self, scope, self._parser.should_keep_alive(), self._expects)
        self._queue.append(self._reading)
        if len(self._queue) == 1:
            self._begin()
        else:
            self.pause_reading()

    def on_body(self, data: bytes) -> None:
        if self._reading is not None:
            self._reading.arrived(data)

    def on_message_complete(self) -> None:
        if self._reading is not None:
            self._reading.arrived_whole()
            self._is_last = self._is_last or not self._reading.keep_alive
            self._reading = None

    def pause_reading(self) -> None:
        if not self._read_paused and not self.transport.is_closing():
            self._read_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Unless another request waits behind the one that is answered."""
        if self._read_paused and len(self._queue) < 2 and not self.transport.is_closing():
            self._read_paused = False
            self.transport.resume_reading()

    # ---- bytes out

    def write(self, data: bytes) -> None:
        """Written together with whatever else this turn of the loop has to say."""
        if not self._out:
            self.loop.call_soon(self.flush)
        self._out.append(data)

    def flush(self) -> None:
        if self._out:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            if not self.transport.is_closing():
                self.transport.write(data)

    def pause_writing(self) -> None:
        self.write_paused = True
        self._allow(STALL_SECONDS)

    def resume_writing(self) -> None:
        self.write_paused = False
        self.deadline = inf
        if not self._queue:
            self._allow(IDLE_SECONDS)
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    async def drain(self) -> None:
        """Waits until the client has taken what it was sent, all but a rest."""
        self._drained = self.loop.create_future()
        await self._drained

    # ---- one exchange after the other

    def _begin(self) -> None:
        self.deadline = inf  # applications have clocks of their own
        self._queue[0].begin()

    def answered(self) -> None:
        """The first exchange's answer is written, to its end."""
        self.flush()
        exchange = self._queue.popleft()
        if self._reading is exchange or not exchange.keep_alive:
            self._close()
        elif self._queue:
            self._begin()
            self.resume_reading()
        elif self._refusal is not None:
            self._write_refusal(self._refusal)
        elif self._is_last:
            self._close()
        else:
            self._allow(HEAD_SECONDS if self._in_head else IDLE_SECONDS)
            self.resume_reading()

    def break_off(self) -> None:
        """Ends the connection in the middle of an answer, so that nobody takes it for whole."""
        self.flush()
        if self._queue[0].ends_with_connection:
            self.transport.abort()
        else:
            self.transport.close()

    def _refuse(self, refusal: Refusal) -> None:
        """What arrives is no request: said after the answers that are due, then the end."""
        self._parser = None
        self._is_last = True
        exchange = self._reading
        if exchange is not None:
            exchange.leave()  # its body will never be whole
            if exchange is not self._queue[0]:
                self._queue.pop()
            elif exchange.has_answer:
                self.break_off()
                return
            else:
                self._write_refusal(refusal)
                return
        if self._queue:
            self._refusal = refusal
        else:
            self._write_refusal(refusal)

    def _write_refusal(self, refusal: Refusal) -> None:
        body = refusal.body()
        status = OWN_STATUS.get(refusal, refusal.status)
        lines = [b"%b: %b\r\n" % field for field in refusal.response_headers(body)]
        self.write(b"".join([STATUS_LINES[status], *lines, b"\r\n", body]))
        self._in_head = True  # of a request that nobody reads
        self._close()

    def _close(self) -> None:
        """Closes. What the client goes on sending is taken for a moment, or it loses the answer."""
        self.flush()
        if self._reading is None and not self._in_head:
            self.transport.close()
        elif not self.transport.is_closing():
            self._parser = None
            self._received = 0
            self.transport.write_eof()
            self._read_paused = False
            self.transport.resume_reading()
            self._allow(LINGER_SECONDS)


class Exchange:
    """One request and its answer: an application's `receive` and `send`."""

    __slots__ = (
        "_buffered",
        "_chunked",
        "_connection",
        "_expects",
        "_gone",
        "_left",
        "_parts",
        "_read",
        "_scope",
        "_silent",
        "_task",
        "_waiter",
        "_whole",
        "body_bytes",
        "ends_with_connection",
        "has_answer",
        "keep_alive",
    )

    def __init__(self, connection: Server, scope: dict[str, Any], keep_alive: bool, expects: bool):
        self._connection = connection
        self._scope = scope
        self._expects = expects
        self._parts: list[bytes] = []
        self._buffered = 0
        self._whole = False  # the body has arrived
        self._read = False  # and was read
        self._gone = False
        self._waiter: asyncio.Future[None] | None = None
        self._left: int | None = None  # bytes of the answer; None: it doesn't say
        self._chunked = False
        self._silent = False  # an answer without a body
        self.keep_alive = keep_alive
        self.body_bytes = 0
        self.has_answer = False
        self.ends_with_connection = False

    def begin(self) -> None:
        self._task = self._connection.loop.create_task(self._run())
        self._connection.tasks.add(self._task)

    async def _run(self) -> None:
        connection = self._connection
        try:
            await connection.app(self._scope, self.receive, self.send)  # type: ignore[arg-type]
        except Exception:  # the edge of the process
            log.exception("request.failed", path=self._scope["path"])
            if not self.has_answer and not self._gone:
                connection.write(FAILED)
        finally:
            connection.tasks.discard(self._task)
        if not self._gone:
            connection.break_off()

    def leave(self) -> None:
        """The client is gone: there is nothing to read and nobody to answer."""
        self._gone = True
        self._wake()

    # ---- the request's body

    def arrived(self, data: bytes) -> None:
        self.body_bytes += len(data)
        if self._gone:
            return
        self._parts.append(data)
        self._buffered += len(data)
        if self._buffered > BUFFER_BYTES:
            self._connection.pause_reading()
        self._wake()

    def arrived_whole(self) -> None:
        self._whole = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self) -> Message:
        if self._expects and not self._whole and not self.has_answer:
            self._expects = False
            self._connection.write(CONTINUE)
        while not self._gone:
            if self._parts or (self._whole and not self._read):
                body = b"".join(self._parts)
                self._parts.clear()
                self._buffered = 0
                self._read = self._whole
                self._connection.resume_reading()
                return {"type": "http.request", "body": body, "more_body": not self._read}
            self._waiter = self._connection.loop.create_future()
            await self._waiter
        return DISCONNECT

    # ---- the answer

    async def send(self, message: Message) -> None:
        connection = self._connection
        if connection.write_paused:
            await connection.drain()
        if self._gone:
            return
        if not self.has_answer:
            self.has_answer = True
            connection.write(self._head(message["status"], message.get("headers", ())))
            return
        body = message.get("body", b"")
        more = message.get("more_body", False)
        if self._silent:
            pass
        elif self._chunked:
            if body:
                connection.write(b"%x\r\n%b\r\n" % (len(body), body))
            if not more:
                connection.write(b"0\r\n\r\n")
        else:
            if self._left is not None:
                self._left -= len(body)
                if self._left < 0 or (self._left and not more):
                    raise ValueError("the answer is not as long as it says")
            connection.write(body)
        if not more:
            self._gone = True
            self._wake()
            connection.answered()

    def _head(self, status: int, fields: Iterable[tuple[bytes, bytes]]) -> bytes:
        lines = [STATUS_LINES[status]]
        for field in fields:
            name = field[0].lower()
            if name == b"content-length":
                self._left = int(field[1])
            elif name == b"connection":
                self.keep_alive = self.keep_alive and b"close" not in field[1].lower()
                continue
            elif name == b"transfer-encoding":
                continue  # is said here
            lines.append(b"%b: %b\r\n" % field)
        is_old = self._scope["http_version"] == "1.0"
        if self._scope["method"] == "HEAD" or status in (204, 304):
            self._silent = True
        elif self._left is None and not is_old:
            self._chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        elif self._left is None:
            # RFC 9112 §6.3: HTTP/1.0 knows no chunks.
            self.ends_with_connection = True
            self.keep_alive = False
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        elif is_old:
            lines.append(b"connection: keep-alive\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(lines):
            raise ValueError("a header field has a line break in it")
        return head + b"\r\n"


class _Clock:
    """One timer for all connections of a loop, instead of two for every request."""

    _running: dict[asyncio.AbstractEventLoop, _Clock] = {}

    @classmethod
    def start(cls, loop: asyncio.AbstractEventLoop, connections: set[Server]) -> None:
        if loop not in cls._running:
            cls._running[loop] = cls(loop, connections)

    def __init__(self, loop: asyncio.AbstractEventLoop, connections: set[Server]):
        self._loop = loop
        self._connections = connections
        self._tick()

    def _tick(self) -> None:
        now = self._loop.time()
        for connection in [held for held in self._connections if held.deadline < now]:
            connection.is_late()
        self._loop.call_later(TICK_SECONDS, self._tick)
