"""A backend for the gateway's tests: real, on loopback, and as badly behaved as it is asked to be.

The path says what it does (`BEHAVIOURS`); whatever it is sent is kept in `requests`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qsl


@dataclass
class Received:
    """One request as it came over the wire."""

    method: str
    target: str
    fields: list[tuple[str, str]]
    body_bytes: int = 0
    sent_bytes: int = 0
    aborted: bool = False
    whole: bool = False

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name]


@dataclass
class Upstream:
    port: int = 0
    connections: int = 0
    requests: list[Received] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass
class Exchange:
    request: Received
    query: dict[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def read_body(self) -> bytes:
        """The whole body, counted; kept only while it is small."""
        kept = b""
        async for part in _parts(self.request, self.reader):
            self.request.body_bytes += len(part)
            if len(kept) < 65536:
                kept += part
        self.request.whole = True
        return kept

    def answer(self, body: bytes = b"", status: str = "200 OK", *fields: str) -> None:
        lines = [f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(body)}", "", ""]
        self.writer.write("\r\n".join(lines).encode() + body)

    def chunk(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))


async def _parts(request: Received, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    if request.values("transfer-encoding"):
        while size := int((await reader.readline()).strip(), 16):
            while size:
                part = await reader.read(min(size, 65536))
                if not part:
                    raise ConnectionError("cut off")
                size -= len(part)
                yield part
            await reader.readline()
        await reader.readline()
        return
    left = int((request.values("content-length") or ["0"])[0])
    while left:
        part = await reader.read(min(left, 65536))
        if not part:
            raise ConnectionError("cut off")
        left -= len(part)
        yield part


async def echo(call: Exchange) -> None:
    """What was received, as JSON."""
    body = await call.read_body()
    request = call.request
    seen = {
        "method": request.method,
        "target": request.target,
        "fields": request.fields,
        "body": body.decode("latin-1"),
    }
    call.answer(json.dumps(seen).encode(), "200 OK", "Content-Type: application/json")


async def status(call: Exchange) -> None:
    await call.read_body()
    code = call.request.target.partition("?")[0].rsplit("/", 1)[1]
    if code in ("204", "304"):
        call.writer.write(f'HTTP/1.1 {code} X\r\nETag: "x"\r\n\r\n'.encode())
    else:
        call.answer(b"said so", f"{code} X", "Location: /elsewhere")


async def down(call: Exchange) -> None:
    """`n` bytes with a length, or in chunks."""
    await call.read_body()
    left = int(call.query["n"])
    chunked = "chunked" in call.query
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {left}"
    call.writer.write(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode())
    while left:
        part = b"x" * min(left, 65536)
        left -= len(part)
        if chunked:
            call.chunk(part)
        else:
            call.writer.write(part)
        await call.writer.drain()
        call.request.sent_bytes += len(part)
    if chunked:
        call.chunk(b"")


async def events(call: Exchange) -> None:
    """Server-sent events, one each `pause` seconds, until the reader leaves."""
    await call.read_body()
    call.writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    for number in range(int(call.query.get("n", "1000"))):
        call.chunk(b"data: %d\n\n" % number)
        await call.writer.drain()
        await asyncio.sleep(float(call.query.get("pause", "0.2")))
    call.chunk(b"")


async def trickle(call: Exchange) -> None:
    """One byte each `pause` seconds: of the head with `head`, else of the body."""
    await call.read_body()
    head, body = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b"x" * 100
    slow = head if "head" in call.query else body
    if slow is body:
        call.writer.write(head)
    for byte in slow:
        call.writer.write(bytes([byte]))
        await call.writer.drain()
        await asyncio.sleep(float(call.query["pause"]))


async def truncated(call: Exchange) -> None:
    """Breaks off in the middle of the body."""
    await call.read_body()
    framing = "Transfer-Encoding: chunked" if "chunked" in call.query else "Content-Length: 100"
    call.writer.write(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode())
    if "chunked" in call.query:
        call.chunk(b"half")
    else:
        call.writer.write(b"half")
    await call.writer.drain()
    call.writer.transport.abort() if "reset" in call.query else call.writer.close()


async def until_close(call: Exchange) -> None:
    """A body that ends with its connection."""
    await call.read_body()
    call.writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it")
    call.writer.close()


async def never(call: Exchange) -> None:
    """No answer; notices when the gateway leaves."""
    await call.read_body()
    if not await call.reader.read(1):
        call.request.aborted = True
    call.writer.close()


async def pause(call: Exchange) -> None:
    """Takes so many `seconds`."""
    await call.read_body()
    await asyncio.sleep(float(call.query["seconds"]))
    call.answer(b"ok")


async def early(call: Exchange) -> None:
    """Answers before it has read the body, and never reads it."""
    call.answer(b"too much", "413 Content Too Large", "Connection: close")
    await call.writer.drain()
    await asyncio.sleep(0.5)
    call.writer.close()


async def units(call: Exchange) -> None:
    await call.read_body()
    call.answer(
        b"{}",
        "200 OK",
        f"Keystile-Units: {call.query['units']}",
        "Keystile-Metadata: model=large, bad value, region=eu",
        "Keystile-Account: somebody-else",
        "X-RateLimit-Limit: 5",
        "Connection: keep-alive, X-Hop",
        "X-Hop: secret",
        "X-Kept: yes",
    )


async def interim(call: Exchange) -> None:
    await call.read_body()
    call.writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
    await asyncio.sleep(float(call.query.get("pause", "0")))
    call.answer(b"final")


async def raw(call: Exchange) -> None:
    """Whatever the test says, byte for byte (latin-1 in the query)."""
    await call.read_body()
    call.writer.write(call.query["say"].encode("latin-1"))
    await call.writer.drain()
    if "close" in call.query:
        call.writer.close()


async def once(call: Exchange) -> None:
    """Keeps the connection by its word, and closes it a moment after the answer."""
    await call.read_body()
    call.answer(b"ok")
    await call.writer.drain()
    await asyncio.sleep(0.05)
    call.writer.close()


BEHAVIOURS: dict[str, Callable[[Exchange], Awaitable[None]]] = {
    behaviour.__name__: behaviour
    for behaviour in (
        echo, status, down, events, trickle, truncated, until_close, never, pause, early, units,
        interim, raw, once,
    )
}  # fmt: skip


async def _serve(
    upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    upstream.connections += 1
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        while not writer.is_closing():
            head = await reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")[:-2]
            method, target, _ = first.split(" ", 2)
            fields = [(name, value.strip()) for name, _, value in (x.partition(":") for x in lines)]
            request = Received(method, target, fields)
            upstream.requests.append(request)
            path, _, query = target.partition("?")
            behaviour = BEHAVIOURS.get(path.strip("/").split("/")[0], echo)
            options = dict(parse_qsl(query, keep_blank_values=True, encoding="latin-1"))
            try:
                await behaviour(Exchange(request, options, reader, writer))
                await writer.drain()
            except ConnectionError:
                request.aborted = True
                raise
    writer.close()


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Upstream]:
    """The backend in a thread of its own, for as long as the block lasts."""
    upstream = Upstream()
    started = threading.Event()
    stop: list[Callable[[], None]] = []

    async def main() -> None:
        server = await asyncio.start_server(
            lambda r, w: _serve(upstream, r, w), "127.0.0.1", 0, limit=1 << 20, ssl=tls
        )
        upstream.port = server.sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        stop.append(lambda: loop.call_soon_threadsafe(stopped.set))
        started.set()
        async with server:
            await stopped.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    started.wait()
    yield upstream
    stop[0]()
    thread.join(timeout=5)
