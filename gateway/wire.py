"""The HTTP/1.1 server of the gateway and the site: bytes of a connection in, exchanges out.

Owns the order of pipelined requests and the ends of connections; what of a request is weighed is
`gateway.heads`', one request and its answer are `gateway.exchange`'s. Parses with llhttp
(httptools) and runs inside uvicorn, which listens and ends processes: `uvicorn --http
gateway.wire:Server`. Requests of the data plane go to the gateway that the application's lifespan
has put into its state (`gateway.asgi`), all others to the application.
"""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any, cast

import httptools
from uvicorn.protocols.utils import get_remote_addr, is_ssl

from gateway import heads
from gateway.exchange import Exchange, Page
from gateway.intake import Fields, read_fields
from gateway.patience import Clock, Patience
from gateway.problems import STATUS_LINES, Refusal

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from gateway.plane import Gateway

PIECE_BYTES = 32 * 1024
"""What comes at once is parsed in pieces of so much, and a request weighed after each of them."""
LINGER_BYTES = 512 * 1024
"""How much of an unread body is taken, for as long as is lingered."""

TOO_SLOW = Refusal("bad_request", "The request's head did not arrive in time.", exact=408)


class Server(asyncio.Protocol):
    """One connection of a client and the exchanges on it, answered one after the other."""

    patience = Patience()
    transport: asyncio.Transport

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ):
        self.app = cast("ASGI3Application", config.loaded_app)
        self.state = app_state
        self.gateway: Gateway | None = app_state.get("gateway")
        self._prefix: bytes = app_state.get("gateway_prefix", b"/")
        self.loop = _loop or asyncio.get_running_loop()
        self.tasks = server_state.tasks
        self.write_paused = False
        self.deadline = inf  # for whatever is awaited now; see `gateway.patience`
        self._connections = cast("set[Server]", server_state.connections)
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
        self._fields: list[tuple[bytes, bytes]] = []
        self._fields_before: list[tuple[bytes, bytes]] | None = None
        self._fields_text = b""  # those that the next request may repeat
        self._fields_learned: list[tuple[bytes, bytes]] = []  # the same, parsed
        self._data = b""  # what is being parsed
        self._head = bytearray()  # of a request's head, what came before that

    # ---- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's in all but their class.
        self.transport = cast(asyncio.Transport, transport)
        self.peer = get_remote_addr(self.transport)
        self.client = self.peer[0].encode() if self.peer else b"unknown"
        self.scheme = b"https" if is_ssl(self.transport) else b"http"
        self._connections.add(self)
        Clock.start(self.loop, self._connections)
        self._allow(self.patience.head_s)

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
        self._allow(self.patience.leave_s)
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
        if self._fields_text and data.endswith(self._fields_text) and self._repeats(data):
            return
        if self._parser is None:
            self._received += len(data)
            if self._received > LINGER_BYTES:
                self.transport.abort()
            return
        if len(data) > PIECE_BYTES:
            for at in range(0, len(data), PIECE_BYTES):
                self.data_received(data[at : at + PIECE_BYTES])
            return
        is_continued = self._in_head or self._reading is not None
        fields_before = self._fields
        self._data = data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as end:
            self._go_on(data[end.args[0] :])
            return
        except httptools.HttpParserError:
            self._parser = None
            if self._reading is not None or not self._is_last:
                self._refuse(heads.NOT_HTTP)
            return
        if is_continued and self._fields is fields_before:
            self._weigh(len(data))
        elif self._in_head:
            self._allow(self.patience.head_s)
        elif not is_continued:
            self._learn(data)
        if self._in_head:
            self._head += data

    def _go_on(self, rest: bytes) -> None:
        """Takes a connection's request for HTTP/2 as one for HTTP/1.1 (RFC 9110 §7.8).

        llhttp has read its head and leaves its body to the other protocol: both are read again,
        without the Upgrade field.
        """
        if self._parser is None or self._is_last:
            return
        method, version = self._parser.get_method(), self._parser.get_http_version()
        head = heads.without_upgrade(method, self._target, version, self._fields)
        if head is None or self._queue:
            self._refuse(heads.NO_UPGRADE)
            return
        self._parser = httptools.HttpRequestParser(self)
        self.data_received(head + rest)

    def _learn(self, data: bytes) -> None:
        """Keeps the fields of a request without a body that came alone, for `_repeats`."""
        self._fields_text = b""
        line, _, rest = data.partition(b"\r\n")
        is_alone = rest.find(b"\r\n\r\n") == len(rest) - 4
        is_over = self._reading is None and not self._is_last and self._parser is not None
        if is_alone and is_over and heads.PLAIN_LINE.fullmatch(line):
            self._fields_text = data[len(line) :]
            self._fields_learned = self._fields

    def _repeats(self, data: bytes) -> bool:
        """Takes a request whose fields are, to the byte, those of the one before; whether it is.

        Programs send the same fields with each call. They were parsed and found good, without a
        body, so that what is left to read is the request line: most of a parser's work is saved.
        """
        if self._queue or self._in_head or self._parser is None or self._is_last:
            return False
        line = heads.PLAIN_LINE.fullmatch(data, 0, len(data) - len(self._fields_text))
        if line is None:
            return False
        exchange = Exchange(
            self,
            line[1].decode(),
            line[2],
            self._fields_learned,
            "1.1",
            keep_alive=True,
            expects=False,
        )
        exchange.arrived_whole()
        self._queue.append(exchange)
        self._begin()
        return True

    def _weigh(self, size: int) -> None:
        """Ends a request whose head, or the framing of whose body, is out of proportion."""
        self._received += size
        if self._in_head:
            most = heads.MAX_BYTES
        elif self._reading is not None:
            most = heads.most_bytes_of_body(self._reading.body_bytes)
        else:
            return
        if self._received > most:
            self._refuse(heads.TOO_LARGE)

    def on_message_begin(self) -> None:
        self._in_head = True
        self._received = 0
        self._head.clear()
        self._target = b""
        self._fields = []
        self._expects = False

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if self._in_head:
            self._fields.append((name, value))
            if name == b"expect":
                self._expects = value.strip().lower() == b"100-continue"
        elif name in heads.STEERING and self._reading is not None:
            self._refuse(heads.NOT_HTTP)

    def on_headers_complete(self) -> None:
        self._in_head = False
        parser = self._parser
        if self._is_last or parser is None or parser.should_upgrade():
            return
        method, version = parser.get_method(), parser.get_http_version()
        line = b"%b %b HTTP/1.1\r\n" % (method, self._target)
        if not (self._data.startswith(line) and self._target[:1] == b"/"):
            came = bytes(self._head + self._data)
            judged = heads.path_of(method, self._target, version, self._fields, came)
            if isinstance(judged, Refusal):
                self._refuse(judged)
                return
            self._target = judged
        if len(self._fields) > heads.MAX_FIELDS:
            self._refuse(heads.TOO_LARGE)
            return
        self._take(
            Exchange(
                self,
                method.decode(),
                self._target,
                self._fields,
                version,
                keep_alive=parser.should_keep_alive(),
                expects=self._expects and version != "1.0",
            )
        )

    def _take(self, exchange: Exchange) -> None:
        """A request's head is there, and perhaps its body."""
        self._reading = exchange
        self._queue.append(exchange)
        if len(self._queue) == 1:
            self._begin()
        else:
            self.pause_reading()

    def said(self, fields: list[tuple[bytes, bytes]]) -> Fields | Refusal:
        """What the fields say: on one connection nearly always what those before them said."""
        if fields is not self._fields_before and fields != self._fields_before:
            self._said_before = read_fields(fields)
            self._fields_before = fields
        return self._said_before

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
        self._allow(self.patience.stall_s)

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._queue:
            self.deadline = inf
        else:
            self._allow(self.patience.linger_s if self._parser is None else self.patience.idle_s)
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    async def drain(self) -> None:
        """Waits until the client has taken what it was sent, all but a rest."""
        self._drained = self.loop.create_future()
        await self._drained

    # ---- one exchange after the other

    def _begin(self) -> None:
        self.deadline = inf  # what answers has clocks of its own
        exchange = self._queue[0]
        if self.gateway is not None and exchange.target.startswith(self._prefix):
            work = self.gateway.answer(exchange)
        else:
            work = Page(exchange).run(self.app)
        exchange.task = self.loop.create_task(exchange.run(work))
        self.tasks.add(exchange.task)

    def answered(self, data: bytes) -> None:
        """The first exchange's answer ends with `data`."""
        if self._out:
            self._out.append(data)
            self.flush()
        elif not self.transport.is_closing():
            self.transport.write(data)
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
            self._allow(self.patience.head_s if self._in_head else self.patience.idle_s)
            self.resume_reading()

    def break_off(self) -> None:
        """Ends the connection in the middle of an answer, so that nobody takes it for whole."""
        self.flush()
        if self._queue[0].ends_with_connection:
            self.transport.abort()
        else:
            self._allow(self.patience.stall_s)
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
        self.write(
            b"%b%bcontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (STATUS_LINES[refusal.status], refusal.head(), len(body), body)
        )
        self._in_head = True  # of a request that nobody reads
        self._close()

    def _close(self) -> None:
        """Closes. What the client goes on sending is taken for a moment, or it loses the answer."""
        self.flush()
        if self._reading is None and not self._in_head and not self._queue:
            self._allow(self.patience.stall_s)
            self.transport.close()
        elif not self.transport.is_closing():
            self._parser = None
            self._received = 0
            self.transport.write_eof()
            self._read_paused = False
            self.transport.resume_reading()
            self._allow(self.patience.linger_s)
