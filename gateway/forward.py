"""Forwarding: carries one admitted call to its backend and the answer back, as it comes.

Owns what the backend and the client see of each other, streaming in both directions, and what
becomes of a call when either of them leaves. The wire is `gateway.upstream`'s. What happened is
written into the call's `Outcome`; whether it is billed is decided by `gateway.settle`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Protocol

from gateway.admit import Admission
from gateway.intake import Call, is_ours
from gateway.pool import Pool
from gateway.problems import Refusal, http_date, lines_of
from gateway.routes import ApiRoutes, Backend
from gateway.settle import Outcome, parse_metadata, parse_units
from gateway.upstream import Abandoned, Broken, Connection, Failure, Overdue

# May be sent again on a new connection when an idle one turns out to be dead (RFC 9110 §9.2.2).
REPEATABLE = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"))

PASSED, DROPPED, DATE, LENGTH, CODING, NAMING, UNITS, METADATA, COOKIE = range(9)
FATES = {
    b"date": DATE,
    b"content-length": LENGTH,
    b"transfer-encoding": CODING,
    b"connection": NAMING,
    b"keystile-units": UNITS,
    b"keystile-metadata": METADATA,
    b"set-cookie": COOKIE,
    # RFC 9110 §7.6.1, and what the gateway itself says of limits.
    **dict.fromkeys(
        b"keep-alive proxy-connection proxy-authenticate te trailer upgrade "
        b"ratelimit ratelimit-policy x-ratelimit-limit x-ratelimit-remaining "
        b"x-ratelimit-reset".split(),
        DROPPED,
    ),
}
CONTROL_CHARACTERS = bytes((*range(32), 127))


class Client(Protocol):
    """The client of one call, whatever server it came by. Heads are lines, each with its CRLF."""

    async def part(self) -> tuple[bytes, bool] | None:
        """The next part of the body, and whether more follows; None: the client is gone."""

    def watch(self, left: Callable[[], None]) -> None:
        """`left` is called if the client leaves before it is answered."""

    def hint(self, status: int, head: bytes) -> None:
        """Gives an interim answer (RFC 9110 §15.2), where the client's protocol knows any."""

    def start(
        self, status: int, head: bytes, length: int | None, reason: bytes | None = None
    ) -> None:
        """Begins the answer: its fields but for framing, its length where that is known.

        reason: the phrase behind the status; None for the usual one
        """

    async def write(self, data: bytes, *, more: bool) -> None:
        """Goes on with the answer; returns when the client takes more."""

    def answer(
        self,
        status: int,
        head: bytes,
        body: bytes,
        length: int | None,
        reason: bytes | None = None,
    ) -> None:
        """Gives the whole answer.

        length: as announced, which for HEAD and 304 is not the body's; None if it was not
        """


class TooLarge(Abandoned):
    """The client's body is larger than its API takes."""

    refusal = Refusal("body_too_large")


class Stalled(Abandoned):
    """The client stopped sending its body."""

    refusal = Refusal("bad_request", "The announced body did not arrive in time.")


async def forward(
    pool: Pool, call: Call, admission: Admission, client: Client, outcome: Outcome
) -> Refusal | None:
    """Forwards the call. A refusal comes back only if nothing was sent to the client yet."""
    api = admission.api
    backend = api.test if admission.mode == b"test" else api.live
    request = _request_head(call, admission, backend)
    body = _Body(call, api, client, outcome) if call.has_body else None
    connection: Connection | None = None
    is_answered = False
    try:
        if body is not None:
            await body.begin()
        # One that died idle is followed by a new one: a call is sent twice at most.
        connection = pool.idle(backend)
        hinted = partial(_pass_hint, client)
        while True:
            if connection is None:
                connection = await pool.connect(api, backend)
            connection.begin(api, hinted, is_head=call.method == "HEAD")
            client.watch(connection.abandon)
            started_ns = time.perf_counter_ns()
            if body is None:
                connection.send(request, api.first_byte_s)
            else:
                body.send(connection, request)
            try:
                await connection.headed
            except Failure:
                is_whole = body is None or body.stop()
                if not (connection.died_idle and is_whole and call.method in REPEATABLE):
                    raise
                connection.release()
                connection = None
            else:
                break
        outcome.upstream_us = (connection.answered_ns - started_ns) // 1000
        head, length = _response_head(connection, outcome)
        outcome.status = connection.status
        is_answered = True
        await _relay(connection, head + admission.head, length, client, outcome)
    except Failure as failure:
        if is_answered:
            outcome.code = "truncated"
            return None
        return failure.refusal
    finally:
        if body is not None:
            body.stop()
        if connection is not None:
            connection.release()
    return None


def _pass_hint(client: Client, connection: Connection, status: int) -> None:
    connection.drop_named()
    fields = [field for field in connection.headers if _fate(field[0]) in (PASSED, DATE)]
    client.hint(status, lines_of(fields))


async def _relay(
    connection: Connection, head: bytes, length: int | None, client: Client, outcome: Outcome
) -> None:
    data = connection.take()
    outcome.response_bytes = len(data)
    if connection.complete:
        client.answer(connection.status, head, data, length, connection.reason)
        return
    client.start(connection.status, head, length, connection.reason)
    try:
        # The client may stop reading: the call's time ends for it, too.
        async with asyncio.timeout_at(connection.total_deadline):
            if data:
                await client.write(data, more=True)
            while not connection.complete:
                data = await connection.read()
                outcome.response_bytes += len(data)
                await client.write(data, more=not connection.complete)
    except TimeoutError:
        raise Overdue from None


class _Body:
    """A request's body on its way from the client to the backend.

    Its first part is there before the backend is asked; the rest is sent while the answer is
    awaited or already relayed.
    """

    def __init__(self, call: Call, api: ApiRoutes, client: Client, outcome: Outcome):
        self._api = api
        self._client = client
        self._outcome = outcome
        self._chunked = call.said.chunked
        self._first = b""
        self._task: asyncio.Task[None] | None = None
        self.is_whole = False

    async def begin(self) -> None:
        """Reads the first part. Raises `Abandoned`."""
        self._first = await self._next()

    def send(self, connection: Connection, request: bytes) -> None:
        """Sends the request with what is there of its body; the rest follows by itself."""
        connection.write(request + self._framed(self._first))
        if self.is_whole:
            self._end(connection)
        else:
            self._task = asyncio.create_task(self._send_rest(connection))

    def stop(self) -> bool:
        """Sends nothing more; whether all was there at the first try."""
        if self._task is None:
            return True
        self._task.cancel()
        self._task = None
        return False

    async def _send_rest(self, connection: Connection) -> None:
        try:
            while not self.is_whole:
                connection.write(self._framed(await self._next()))
                await connection.drain()
        except Abandoned as left:
            connection.fail(left)
        else:
            self._end(connection)

    def _end(self, connection: Connection) -> None:
        if self._chunked:
            connection.write(b"0\r\n\r\n")
        connection.end_request(self._api.first_byte_s)

    async def _next(self) -> bytes:
        try:
            async with asyncio.timeout(self._api.idle_s):
                part = await self._client.part()
        except TimeoutError:
            raise Stalled from None
        if part is None:
            raise Abandoned
        data, more = part
        self.is_whole = not more
        self._outcome.request_bytes += len(data)
        if self._outcome.request_bytes > self._api.max_body:
            raise TooLarge
        return data

    def _framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked and data else data


def _request_head(call: Call, admission: Admission, backend: Backend) -> bytes:
    """The request line and fields for the backend: the path as it came, our identity fields."""
    said = call.said
    api = admission.api
    identity = b""
    if api.signer is not None:
        target = b"%b://%b%b%b" % (
            backend.scheme.encode(), backend.authority, backend.base_path, call.path
        )  # fmt: skip
        token = api.signer.token(call.method, target, admission, int(time.time()))
        identity = b"\r\nkeystile-identity: " + token
    if said.chunked:
        framing = b"\r\ntransfer-encoding: chunked\r\n\r\n"
    elif said.content_length is not None:
        framing = b"\r\ncontent-length: %d\r\n\r\n" % said.content_length
    else:
        framing = b"\r\n\r\n"
    # Joined, not formatted: that takes a tenth of the time.
    return b"".join(
        (
            call.method.encode(), b" ", backend.base_path, call.path, call.query, b" HTTP/1.1\r\n",
            b"host: ", backend.authority, b"\r\n",
            said.lines(api.secret_names), api.secret_lines,
            b"via: 1.1 keystile\r\nx-forwarded-for: ", call.client,
            b"\r\nx-forwarded-proto: ", call.scheme,
            b"\r\nx-forwarded-host: ", said.host,
            b"\r\nkeystile-account: ", admission.account,
            b"\r\nkeystile-key: ", admission.key,
            b"\r\nkeystile-plan: ", admission.plan.translate(None, CONTROL_CHARACTERS),
            b"\r\nkeystile-event: ", admission.event_id.encode(),
            b"\r\nkeystile-mode: ", admission.mode,
            identity, framing,
        )
    )  # fmt: skip


def _response_head(connection: Connection, outcome: Outcome) -> tuple[bytes, int | None]:
    """The answer's fields for the client, less those of the hop, and the length that it names.

    Takes out, and notes, what the backend reports. Raises `Broken` for a coding that is not ours to
    undo.
    """
    length = None
    has_date = is_chunked = False
    parts: list[bytes] = []
    for name, value in connection.headers:
        fate = _fate(name)
        if fate == PASSED:
            parts += (name, b": ", value, b"\r\n")
        elif fate == LENGTH:
            length = int(value)
        elif fate == DATE:
            has_date = True
            parts += (b"date: ", value, b"\r\n")
        elif fate == NAMING:
            if value.lower() not in (b"keep-alive", b"close"):
                connection.drop_named()
                return _response_head(connection, outcome)
        elif fate == UNITS:
            outcome.reported |= parse_units(value)
        elif fate == METADATA:
            outcome.metadata |= parse_metadata(value)
        elif fate == COOKIE and not is_ours(value):
            parts += (name, b": ", value, b"\r\n")
        elif fate == CODING:
            if is_chunked or value.rstrip(b" \t").lower() != b"chunked":
                raise Broken("a transfer coding other than chunked")
            is_chunked = True
    if not has_date:
        parts += (b"date: ", http_date(), b"\r\n")
    return b"".join(parts), length


@lru_cache(maxsize=4096)
def _fate(name: bytes) -> int:
    """What becomes of a backend's field, whose name is written as it came."""
    name = name.lower()
    return FATES.get(name, DROPPED if name.startswith(b"keystile-") else PASSED)
