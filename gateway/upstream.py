"""The HTTP/1.1 client towards backends: one connection, on httptools, and the exchange on it.

Owns the framing of the answer, backpressure in both directions and the clock of the exchange;
`gateway.pool` makes connections and keeps them. Follows no redirect, decompresses nothing, keeps
no cookie. Knows neither keys nor limits.

    Failure            the exchange can't go on
    ├── Unreachable    no connection; nothing was sent
    ├── Broken         the connection ended, or what came over it was not HTTP/1.1
    ├── Overdue        connecting, the first byte, a pause or the whole took too long
    └── Abandoned      our own client left, stalled, or sent more than it may
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import httptools
import structlog

from gateway.problems import STATUS_LINES, Refusal
from gateway.routes import ApiRoutes

if TYPE_CHECKING:
    from gateway.pool import Pool

log = structlog.get_logger(__name__)

MAX_IDLE = 256  # connections to a backend
BUFFER_BYTES = 64 * 1024
MAX_HEAD_BYTES = 256 * 1024
"""Of a head, together with those of the interim answers before it."""
MOST_OVERHEAD = 16
"""Bytes of framing (chunk sizes, extensions, trailers) per byte of a body, and a head's on top."""
FRAMING = frozenset((b"content-length", b"transfer-encoding"))
# Of a trailer llhttp lets them decide what becomes of the connection.
STEERING = frozenset((b"connection", b"proxy-connection"))
FINAL_LINE = re.compile(
    rb"^HTTP/1\.[01] [2-5][0-9][0-9] ?([\t\x20-\x7e\x80-\xff]*)\r$", re.MULTILINE
)


class Failure(Exception):
    """`refusal` is what the client is told, if it was told nothing yet; None: it is gone."""

    refusal: Refusal | None = Refusal("upstream_unreachable")


class Unreachable(Failure):
    pass


class Broken(Failure):
    pass


class Overdue(Failure):
    refusal = Refusal("upstream_timeout")


class Abandoned(Failure):
    refusal: Refusal | None = None


class Connection(asyncio.Protocol):
    """One connection and the exchange that is using it.

    `begin`, `send` (or `write` …, `end_request`), `await headed`, `take` and `read` …, `release`.
    `headed` raises a `Failure`, or `status` and `headers` are the answer's head, with names as they
    came, and `reason` its phrase if that is not the usual one; `complete` says that its body has
    ended and was read. Before that, `hinted` is called at each interim answer with its status, and
    `headers` are that answer's.
    """

    transport: asyncio.Transport

    def __init__(self, pool: Pool, siblings: deque[Connection]):
        self._pool = pool
        self._siblings = siblings
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._busy = False
        self._write_paused = False
        self._read_paused = False
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self.closed = False
        self.reused = False
        self.idle_since = 0.0

    def begin(
        self, api: ApiRoutes, hinted: Callable[[Connection, int], None], *, is_head: bool
    ) -> None:
        """Makes the connection ready for one exchange; the caller then writes the request."""
        self._busy = True
        self._hinted = hinted
        self._is_head = is_head
        self._keep_alive = False
        self._clean = True
        self._ended = False
        self._request_ended = False
        self._error: Failure | None = None
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._head = b""
        self._received = 0  # bytes behind the read that the head ended in
        self._body_bytes = 0
        self._idle_s = api.idle_s
        self._began = self._loop.time()
        self._deadline = self.total_deadline = self._began + (api.total_s or math.inf)
        self.answered_ns = 0
        self.status = 0
        self.reason: bytes | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.headed: asyncio.Future[None] = self._loop.create_future()
        self.complete = False
        self._pool.begin(self)

    # ---- the request

    def send(self, request: bytes, first_byte_s: float) -> None:
        """Writes a whole request, right after `begin`."""
        if not self.closed:
            self.transport.write(request)
        self._request_ended = True
        if self._began + first_byte_s < self._deadline:
            self._deadline = self._began + first_byte_s

    def write(self, data: bytes) -> None:
        if not self.closed:
            self.transport.write(data)

    def end_request(self, first_byte_s: float) -> None:
        """Says that the request is written; from now on the first byte is awaited."""
        self._request_ended = True
        if not self.status:
            self._deadline = min(self.total_deadline, self._loop.time() + first_byte_s)

    async def drain(self) -> None:
        """Waits until the backend takes more. Returns at once when the exchange has failed."""
        if self._write_paused and not self.closed:
            self._writer = self._loop.create_future()
            if not self.status:
                self._deadline = min(self.total_deadline, self._loop.time() + self._idle_s)
            await self._writer
            if not self.status:
                self._deadline = self.total_deadline

    # ---- the answer

    @property
    def died_idle(self) -> bool:
        """Whether it ended before a byte of the answer had come, having been kept open for it.

        Backends close idle connections when they like: the request met the closing on its way.
        """
        return self.reused and not self._head and isinstance(self._error, Broken)

    async def read(self) -> bytes:
        """What has come of the body, at least a byte; b"" at its end. Raises `Failure`."""
        while not self._chunks and not self._ended:
            if self._error is not None:
                raise self._error
            self._reader = self._loop.create_future()
            await self._reader
        return self.take()

    def take(self) -> bytes:
        """What has come of the body by now."""
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks = []
        self._buffered = 0
        self.complete = self._ended
        if self._read_paused:
            self._read_paused = False
            if not self.closed:
                self.transport.resume_reading()
        return data

    def fail(self, error: Failure) -> None:
        """Ends the exchange for good; who waits for the answer gets the error."""
        if self._error is None and not self._ended:
            self._error = error
            if not self.headed.done():
                self.headed.set_exception(error)
        self._wake()
        self.close()

    def abandon(self) -> None:
        """The client has left."""
        self.fail(Abandoned())

    def drop_named(self) -> None:
        """Takes out the Connection fields and all that they name (RFC 9110 §7.6.1)."""
        fields = [(name.lower(), value.lower()) for name, value in self.headers]
        lists = [value.split(b",") for name, value in fields if name == b"connection"]
        named = {token.strip() for tokens in lists for token in tokens} - FRAMING
        named.add(b"connection")
        self.headers = [field for field in self.headers if field[0].lower() not in named]

    def release(self) -> None:
        """Gives the connection back: kept if the exchange was clean and whole, else closed."""
        self._pool.end(self)
        del self._hinted  # it holds the client
        self._busy = False
        whole = self.complete and self._request_ended and self._clean
        if whole and self._keep_alive and not self.closed and len(self._siblings) < MAX_IDLE:
            if self._is_head:
                self._parser = httptools.HttpResponseParser(self)
            self.reused = True
            self.idle_since = self._loop.time()
            self._siblings.append(self)
        else:
            self.close()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.transport.abort()

    def check(self, now: float) -> None:
        """Called every tick while the exchange runs."""
        if now > self.total_deadline or (now > self._deadline and not self._read_paused):
            self.fail(Overdue())

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's in all but their class.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._busy:
            self.close()  # nobody asked
            return
        if self.status:
            self._deadline = min(self.total_deadline, self._loop.time() + self._idle_s)
            self._received += len(data)
        else:
            self._head = self._head + data if self._head else data
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            log.warning("upstream.malformed", reason=str(error))
            self.fail(Broken())
        else:
            if self._received > MAX_HEAD_BYTES + MOST_OVERHEAD * self._body_bytes:
                self.fail(Broken())
            elif self.status:
                # Only now: what came with the head of the body is there, too.
                self._wake()
            elif len(self._head) > MAX_HEAD_BYTES:
                self.fail(Broken())

    def eof_received(self) -> None:
        # A body without length or chunks ends with the connection (RFC 9112 §6.3).
        if self._busy and self.status and not self._ended and self._ends_with_connection():
            self._ended = True
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.closed = True
        self.resume_writing()
        if self._busy and not self._ended:
            self.fail(Broken())

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)

    def _wake(self) -> None:
        if not self.headed.done():
            self.headed.set_result(None)
        elif self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _ends_with_connection(self) -> bool:
        return not any(name.lower() in FRAMING for name, _ in self.headers)

    # ---- httptools' callbacks

    def on_message_begin(self) -> None:
        if self._ended:
            self._clean = False  # more than was asked for
        else:
            self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:
            self.headers.append((name, value))
        elif name.lower() in STEERING:
            self._keep_alive = False

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._ended:
            return
        if 100 <= status < 200:
            self._read_interim(status)
            return
        if not 200 <= status <= 599:
            raise Broken("not a status code")
        if not self._head.startswith(STATUS_LINES[status]):
            self._read_status_line()
        if len(self._head) > MAX_HEAD_BYTES:
            size = sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > MAX_HEAD_BYTES:
                raise Broken("the head is too large")
        self._head = self._head[:1]  # that there was one
        # Read now: after the message is complete it is always false.
        self._keep_alive = self._parser.should_keep_alive()
        self.answered_ns = time.perf_counter_ns()
        self._deadline = min(self.total_deadline, self._loop.time() + self._idle_s)
        self.status = status
        self._ended = self._is_head

    def _read_interim(self, status: int) -> None:
        """100 answers what we sent, 101 ends the parsing: they are no news for the client."""
        if any(name.lower() in FRAMING for name, _ in self.headers):
            raise Broken("an interim answer with a body")
        if status > 101:
            self._hinted(self, status)

    def _read_status_line(self) -> None:
        """Of an answer that is not the usual `HTTP/1.1 200 OK`, or behind interim ones."""
        line = FINAL_LINE.search(self._head)
        version = self._parser.get_http_version()
        if line is None or version not in ("1.1", "1.0"):
            raise Broken("not a status line of HTTP/1.1")
        if version == "1.0" and any(
            name.lower() == b"transfer-encoding" for name, _ in self.headers
        ):
            raise Broken("chunks in HTTP/1.0")
        self.reason = line[1]

    def on_body(self, data: bytes) -> None:
        if self._ended:
            self._clean = False
            return
        self._chunks.append(data)
        self._buffered += len(data)
        self._body_bytes += len(data)
        if self._buffered > BUFFER_BYTES and not self._read_paused:
            self._read_paused = True
            self.transport.pause_reading()

    def on_message_complete(self) -> None:
        if self.status:
            self._ended = True
