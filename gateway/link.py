"""The data plane's one connection to Redis: every call of the process is multiplexed on it.

Owns pipelining, timeouts, reconnecting and the way scripts are called; knows nothing of what
is asked. A command is written once and never again by itself: whoever sent it hears whether it was
answered (`Lost`: unknown; `Down`: never written) and knows what may be repeated.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, cast

import hiredis
import structlog
from redis.connection import parse_url

log = structlog.get_logger(__name__)

EVENT_CHARACTERS = 36
"""Of an event's id, as text."""
_HOLES = re.compile(rb"\0+")
RECONNECT_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)


class Unavailable(Exception):
    """Redis can't be asked now. Down and Lost say what became of the command."""


class Down(Unavailable):
    """There is no connection: the command was never written."""


class Lost(Unavailable):
    """The connection broke, or the answer is overdue: the command may have been executed."""


Argument = str | bytes | int
Waiter = asyncio.Future[Any] | Callable[[Any], None]
"""Who gets a reply. A function is called with it, or with the exception in its place."""


class Script:
    """A Lua script, known to Redis by its SHA-1. `all`: those that a link loads as it connects."""

    all: ClassVar[list[Script]] = []

    def __init__(self, name: str):
        self.text = (Path(__file__).parent / "scripts" / name).read_bytes()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()
        self.all.append(self)

    def by_sha(self, *arguments: Argument) -> bytes:
        """The command that runs the script; the first of `arguments` is the number of keys."""
        packed: bytes = hiredis.pack_command((b"EVALSHA", self.sha, *arguments))
        return packed


class Template:
    """A packed command with holes, each for text of one length: packing costs as much as sending.

    It is made from the command with `hole(n)` in the place of each text of n characters.
    """

    def __init__(self, packed: bytes):
        parts = _HOLES.split(packed)
        self._parts = [part for fixed in parts for part in (fixed, b"")][:-1]

    def filled(self, *texts: bytes) -> bytes:
        """The command with these texts in its holes."""
        parts = self._parts.copy()
        parts[1::2] = texts
        return b"".join(parts)


def hole(length: int) -> str:
    """What stands for a text of that length in a command that becomes a `Template`."""
    return "\0" * length


def packed_text(text: str) -> bytes:
    """A command's argument as it is packed (RESP, bulk string)."""
    data = text.encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


def is_unknown_script(error: BaseException) -> bool:
    """Whether Redis did nothing, because its scripts were flushed: load them, and ask again."""
    return isinstance(error, hiredis.ReplyError) and str(error).startswith("NOSCRIPT")


class Link:
    """Keeps the connection of `url` up from `start` to `close`.

    `on_connect` is called after each successful connect, before anything else is sent.
    """

    def __init__(self, url: str, timeout_seconds: float):
        self._address = parse_url(url)  # type: ignore[no-untyped-call]
        self._timeout_seconds = timeout_seconds
        self._connection: _Connection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self.on_connect: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Connects once, for as long as one timeout, and goes on trying in the background."""
        first_try = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.create_task(self._keep(first_try))
        await asyncio.wait([self._keeper, first_try], return_when=asyncio.FIRST_COMPLETED)
        if self._keeper.done():
            self._keeper.result()  # it never ends but by a fault of its own

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self._connection is not None:
            self._connection.abort("closed")

    def send(self, *command: Argument) -> asyncio.Future[Any]:
        """Writes a command; the future has its reply, `Lost`, or Redis' own error. Raises `Down`.

        Replies are bytes, int, None and lists of these; an error is `hiredis.ReplyError`.
        """
        return self.ask(hiredis.pack_command(command))

    def ask(self, packed: bytes) -> asyncio.Future[Any]:
        """The same for a command that is packed already."""
        if self._connection is None:
            raise Down
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._connection.send(packed, reply)
        return reply

    def tell(self, packed: bytes, heard: Callable[[Any], None]) -> None:
        """The same, waiting for nothing: `heard` is called with what the future would have.

        With `Down` too, and then at once.
        """
        if self._connection is None:
            heard(Down())
        else:
            self._connection.send(packed, heard)

    async def run(self, script: Script, *arguments: Argument) -> Any:
        """Runs a script; the first of `arguments` is the number of keys. Raises as `send`."""
        packed = script.by_sha(*arguments)
        try:
            return await self.ask(packed)
        except hiredis.ReplyError as error:
            if not is_unknown_script(error):
                raise
        self.load_scripts()
        return await self.ask(packed)

    def load_scripts(self) -> None:
        """Loads all scripts, before whatever is sent after this."""
        for packed in _loads():
            self.tell(packed, _ignore)

    async def _keep(self, first_try: asyncio.Future[None]) -> None:
        failures = 0
        while True:
            try:
                lost = await self._connect()
            except (OSError, Unavailable, hiredis.ReplyError, TimeoutError) as error:
                if failures == 0:
                    log.warning("redis.away", reason=str(error) or type(error).__name__)
                if not first_try.done():
                    first_try.set_result(None)
                await asyncio.sleep(RECONNECT_SECONDS[min(failures, len(RECONNECT_SECONDS) - 1)])
                failures += 1
                continue
            if failures:
                log.info("redis.back")
            failures = 0
            if not first_try.done():
                first_try.set_result(None)
            reason = await lost
            self._connection = None
            log.warning("redis.lost", reason=reason)

    async def _connect(self) -> Awaitable[str]:
        address = self._address
        loop = asyncio.get_running_loop()
        connection = _Connection(self._timeout_seconds)
        async with asyncio.timeout(self._timeout_seconds):
            if "path" in address:
                await loop.create_unix_connection(lambda: connection, address["path"])
            else:
                await loop.create_connection(
                    lambda: connection,
                    address.get("host", "localhost"),
                    address.get("port", 6379),
                    ssl=ssl.create_default_context() if "connection_class" in address else None,
                )
            try:
                await self._introduce(connection)
            except BaseException:
                connection.abort("not ready")
                raise
        self._connection = connection
        self.on_connect()
        return connection.lost

    async def _introduce(self, connection: _Connection) -> None:
        address = self._address
        commands: list[tuple[Argument, ...]] = []
        if "password" in address:
            name = [address["username"]] if "username" in address else []
            commands.append((b"AUTH", *name, address["password"]))
        commands.append((b"CLIENT", b"SETNAME", b"keystile-gateway"))
        commands.append((b"SELECT", address.get("db", 0)))
        loop = asyncio.get_running_loop()
        replies: list[asyncio.Future[Any]] = []
        for packed in (*map(hiredis.pack_command, commands), *_loads()):
            replies.append(loop.create_future())
            connection.send(packed, replies[-1])
        await asyncio.gather(*replies)


class _Connection(asyncio.Protocol):
    """One TCP connection: commands out, replies back in order."""

    transport: asyncio.Transport

    def __init__(self, timeout_seconds: float):
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._waiting: deque[Waiter] = deque()
        self._unsent: list[bytes] = []
        self._answered = 0
        self._watched = 0
        self._half_timeout = timeout_seconds / 2
        self._watch: asyncio.TimerHandle | None = None
        self.lost: asyncio.Future[str] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's in all but their class.
        self.transport = cast(asyncio.Transport, transport)

    def send(self, packed: bytes, waiter: Waiter) -> None:
        if self.lost.done():
            _tell(waiter, Lost())
            return
        self._waiting.append(waiter)
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(packed)
        if self._watch is None:
            self._watched = self._answered
            self._watch = self._loop.call_later(self._half_timeout, self._check)

    def _flush(self) -> None:
        """Writes at once what all calls of this turn of the loop have to say."""
        data = b"".join(self._unsent)
        self._unsent.clear()
        if not self.lost.done():
            self.transport.write(data)

    def _check(self) -> None:
        """Every half timeout: what was waiting at the last check must be answered by now.

        One timer for all commands: each of them waits half a timeout at least, one at most.
        """
        self._watch = None
        if not self._waiting:
            return
        if self._answered < self._watched:
            self.abort("no answer in time")
            return
        self._watched = self._answered + len(self._waiting)
        self._watch = self._loop.call_later(self._half_timeout, self._check)

    def data_received(self, data: bytes) -> None:
        waiting, gets = self._waiting, self._reader.gets
        try:
            self._reader.feed(data)
            while (reply := gets()) is not False:
                self._answered += 1
                _tell(waiting.popleft(), reply)
        except (hiredis.ProtocolError, IndexError):
            self.abort("not the Redis protocol")

    def abort(self, reason: str) -> None:
        self.transport.abort()
        self._lose(reason)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(str(exc) if exc else "closed by Redis")

    def _lose(self, reason: str) -> None:
        if self.lost.done():
            return
        self.lost.set_result(reason)
        if self._watch is not None:
            self._watch.cancel()
        waiting = tuple(self._waiting)
        self._waiting.clear()
        for waiter in waiting:
            _tell(waiter, Lost(reason))


def _tell(waiter: Waiter, reply: Any) -> None:
    if not isinstance(waiter, asyncio.Future):
        try:
            waiter(reply)
        except Exception:  # the edge of one waiter: the connection is everybody's
            log.exception("redis.reply_not_taken")
    elif waiter.done():
        pass  # its sender was cancelled
    elif isinstance(reply, Exception):
        waiter.set_exception(reply)
    else:
        waiter.set_result(reply)


def _loads() -> list[bytes]:
    return [hiredis.pack_command((b"SCRIPT", b"LOAD", script.text)) for script in Script.all]


def _ignore(reply: Any) -> None:
    pass
