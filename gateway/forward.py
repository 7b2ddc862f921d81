"""Forwarding: carries one admitted call to its backend and the answer back, as it comes.

Owns what the backend and the client see of each other, streaming in both directions, and what
becomes of a call when either of them leaves. The wire is `gateway.upstream`'s. What happened is
written into the call's `Outcome`; whether it is billed is decided by `gateway.settle`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gateway.admit import Admission
from gateway.intake import Call
from gateway.problems import Headers, Refusal, http_date
from gateway.settle import Outcome, parse_metadata, parse_units
from gateway.upstream import Abandoned, Broken, Connection, Failure, Overdue, Pool

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

# May be sent again on a new connection when an idle one turns out to be dead (RFC 9110 §9.2.2).
REPEATABLE = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"))

# RFC 9110 §7.6.1, what the gateway itself says of limits, and cookies, which would be set for
# the gateway's host.
DROPPED_FROM_ANSWER = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate te trailer transfer-encoding "
    b"upgrade server set-cookie ratelimit ratelimit-policy x-ratelimit-limit "
    b"x-ratelimit-remaining x-ratelimit-reset".split()
)
CONTROL_CHARACTERS = bytes((*range(32), 127))

OVERDUE = Refusal("upstream_timeout")
UNREACHABLE = Refusal("upstream_unreachable")
BODY_TOO_LARGE = Refusal("body_too_large")
BODY_OVERDUE = Refusal("bad_request", "The announced body did not arrive in time.")


class TooLarge(Abandoned):
    """The client's body is larger than its API takes."""


class Stalled(Abandoned):
    """The client stopped sending its body."""


async def forward(
    pool: Pool,
    call: Call,
    admission: Admission,
    receive: Receive,
    send: Send,
    outcome: Outcome,
) -> Refusal | None:
    """Forwards the call. A refusal comes back only if nothing was sent to the client yet."""
    body = _Body(call, admission, receive, outcome)
    try:
        await body.begin()
        connection = await _answered(pool, call, admission, body, outcome)
    except TooLarge:
        return BODY_TOO_LARGE
    except Stalled:
        return BODY_OVERDUE
    except Abandoned:
        return None
    except Overdue:
        return OVERDUE
    except Failure:
        return UNREACHABLE
    try:
        await _relay(connection, admission, send, outcome)
    except Failure:
        outcome.code = "truncated"
    finally:
        body.stop()
        connection.release()
    return None


async def _answered(
    pool: Pool, call: Call, admission: Admission, body: _Body, outcome: Outcome
) -> Connection:
    """Sends the request; returns the connection when the answer's head is there."""
    api = admission.api
    backend = api.test if admission.mode == b"test" else api.live
    request = _request_head(call, admission, backend.authority, backend.base_path)
    connection = pool.idle(api, backend) or await pool.connect(api, backend)
    while True:
        connection.begin(
            is_head=call.method == "HEAD",
            total_s=api.total_s,
            idle_s=api.idle_s,
            on_slow=body.watch,
        )
        try:
            body.send(connection, request)
            started_ns = time.perf_counter_ns()
            await connection.head()
        except BaseException as error:
            body.stop()
            connection.release()
            died_idle = isinstance(error, Broken) and connection.reused and connection.is_silent
            if died_idle and call.method in REPEATABLE and body.is_whole:
                connection = await pool.connect(api, backend)
                continue
            raise
        outcome.upstream_us = (connection.answered_ns - started_ns) // 1000
        return connection


async def _relay(
    connection: Connection, admission: Admission, send: Send, outcome: Outcome
) -> None:
    outcome.status = connection.status
    headers = _response_headers(connection, outcome)
    headers += admission.headers
    await send({"type": "http.response.start", "status": connection.status, "headers": headers})
    while not connection.complete:
        data = await connection.read()
        outcome.response_bytes += len(data)
        await send(
            {"type": "http.response.body", "body": data, "more_body": not connection.complete}
        )


class _Body:
    """The request's body on its way from the client to the backend.

    Its first part is there before the backend is asked; the rest is sent while the answer is
    awaited or already relayed. After it, or in its place, it watches for the client's leaving.
    """

    def __init__(self, call: Call, admission: Admission, receive: Receive, outcome: Outcome):
        self._api = admission.api
        self._receive = receive
        self._outcome = outcome
        self._chunked = call.chunked
        self._first = b""
        self._task: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self.is_whole = not call.has_body

    async def begin(self) -> None:
        """Reads the first part. Raises `Abandoned`."""
        if not self.is_whole:
            self._first = await self._next()

    def send(self, connection: Connection, request: bytes) -> None:
        """Sends the request with what is there of its body; the rest follows by itself."""
        self._connection = connection
        if self._first:
            request += self._framed(self._first)
        if not self.is_whole:
            connection.write(request)
            self._task = asyncio.create_task(self._send_rest(connection))
            return
        connection.write(request + b"0\r\n\r\n" if self._chunked else request)
        connection.end_request(self._api.first_byte_s)

    def watch(self) -> None:
        """The answer takes its time: notices if the client leaves."""
        if self._task is None and self._connection is not None:
            self._task = asyncio.create_task(self._watch(self._connection))

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _send_rest(self, connection: Connection) -> None:
        try:
            while not self.is_whole:
                part = await self._next()
                if part:
                    connection.write(self._framed(part))
                    await connection.drain()
        except Abandoned as left:
            connection.fail(left)
            return
        if self._chunked:
            connection.write(b"0\r\n\r\n")
        connection.end_request(self._api.first_byte_s)
        await self._watch(connection)

    async def _watch(self, connection: Connection) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        connection.fail(Abandoned())

    async def _next(self) -> bytes:
        try:
            async with asyncio.timeout(self._api.idle_s):
                message = await self._receive()
        except TimeoutError:
            raise Stalled from None
        if message["type"] == "http.disconnect":
            raise Abandoned
        part: bytes = message.get("body", b"")
        self.is_whole = not message.get("more_body", False)
        self._outcome.request_bytes += len(part)
        if self._outcome.request_bytes > self._api.max_body:
            raise TooLarge
        return part

    def _framed(self, part: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(part), part) if self._chunked else part


def _request_head(call: Call, admission: Admission, authority: bytes, base_path: bytes) -> bytes:
    """The request line and fields for the backend: the path as it came, our identity fields."""
    secret = admission.api.secret_headers
    ours = {name for name, _ in secret}
    fields = [
        b"%b %b%b%b HTTP/1.1\r\nhost: %b\r\n"
        % (call.method.encode(), base_path, call.path, call.query, authority),
        *[b"%b: %b\r\n" % field for field in call.fields if field[0] not in ours],
        *[b"%b: %b\r\n" % field for field in secret],
        b"x-forwarded-for: %b\r\nx-forwarded-proto: %b\r\nx-forwarded-host: %b\r\n"
        % (call.client, call.scheme, call.host),
        b"keystile-account: %b\r\nkeystile-key: %b\r\nkeystile-plan: %b\r\n"
        % (admission.account, admission.key, admission.plan.translate(None, CONTROL_CHARACTERS)),
        b"keystile-event: %b\r\nkeystile-mode: %b\r\n"
        % (admission.event_id.encode(), admission.mode),
    ]
    if call.chunked:
        fields.append(b"transfer-encoding: chunked\r\n")
    elif call.content_length is not None:
        fields.append(b"content-length: %d\r\n" % call.content_length)
    fields.append(b"\r\n")
    return b"".join(fields)


def _response_headers(connection: Connection, outcome: Outcome) -> Headers:
    """The answer's fields for the client. Takes out, and notes, what the backend reports."""
    kept: Headers = []
    dropped = DROPPED_FROM_ANSWER
    named = b""
    has_date = False
    for field in connection.headers:
        name, value = field
        if name.startswith(b"keystile-"):
            if name == b"keystile-units":
                outcome.reported |= parse_units(value)
            elif name == b"keystile-metadata":
                outcome.metadata |= parse_metadata(value)
        elif name not in dropped:
            kept.append(field)
            has_date = has_date or name == b"date"
        elif name == b"connection":
            named += b"," + value.lower()
    if named not in (b"", b",keep-alive", b",close"):
        tokens = {token.strip() for token in named.split(b",")} - {b"content-length"}
        kept = [field for field in kept if field[0] not in tokens]
    if connection.status in (204, 304):
        # The server counts the bytes it was promised; here there are none.
        kept = [field for field in kept if field[0] != b"content-length"]
    if not has_date:
        kept.append((b"date", http_date()))
    return kept
