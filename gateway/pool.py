"""Connections to backends: made, kept alive and watched, all those of one event loop.

Owns connecting: addresses resolved, private ones refused, pinned; over https the certificate
verified, for the host's name, before anything is sent. What is said on a connection is
`gateway.upstream`'s.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict, deque

import structlog
from django.conf import settings

from gateway import addresses
from gateway.routes import ApiRoutes, Backend, Origin
from gateway.upstream import Connection, Overdue, Unreachable

log = structlog.get_logger(__name__)

IDLE_SECONDS = 4.0  # below the 5 s after which common servers close an idle connection
TICK_SECONDS = 0.1


class Pool:
    """All connections to backends of one event loop, and the one timer that watches them."""

    def __init__(self) -> None:
        self._idle: defaultdict[Origin, deque[Connection]] = defaultdict(deque)
        self._busy: set[Connection] = set()
        self._loop = asyncio.get_running_loop()
        self._ticking: asyncio.TimerHandle | None = None
        self._tls = ssl.create_default_context()
        if settings.UPSTREAM_CA_FILE:
            self._tls.load_verify_locations(settings.UPSTREAM_CA_FILE)

    def idle(self, backend: Backend) -> Connection | None:
        """An open connection that nobody uses, the one used last."""
        connections = self._idle[backend.origin]
        while connections:
            connection = connections.pop()
            if not connection.closed:
                return connection
        return None

    async def connect(self, api: ApiRoutes, backend: Backend) -> Connection:
        """A new connection. Raises `Unreachable` and `Overdue`."""
        connections = self._idle[backend.origin]
        reason = "no address"
        tls = self._tls if backend.scheme == "https" else None
        try:
            async with asyncio.timeout(api.connect_s):
                for address in await self._resolve(api, backend):
                    try:
                        _, connection = await self._loop.create_connection(
                            lambda: Connection(self, connections),
                            address,
                            backend.port,
                            ssl=tls,
                            server_hostname=backend.host if tls else None,
                        )
                    except OSError as error:
                        reason = str(error) or type(error).__name__
                    else:
                        return connection
        except TimeoutError:
            log.warning("upstream.overdue", api=api.slug, host=backend.host)
            raise Overdue from None
        log.warning("upstream.unreachable", api=api.slug, host=backend.host, reason=reason)
        raise Unreachable

    async def _resolve(self, api: ApiRoutes, backend: Backend) -> list[str]:
        try:
            return await self._loop.run_in_executor(
                None,
                lambda: addresses.resolve(backend.host, backend.port, private=backend.private),
            )
        except (OSError, addresses.ForbiddenAddress) as error:
            log.warning("upstream.unresolved", api=api.slug, host=backend.host, reason=str(error))
            raise Unreachable from None

    def begin(self, connection: Connection) -> None:
        self._busy.add(connection)
        if self._ticking is None:
            self._ticking = self._loop.call_later(TICK_SECONDS, self._tick)

    def end(self, connection: Connection) -> None:
        self._busy.discard(connection)

    def _tick(self) -> None:
        now = self._loop.time()
        for connection in tuple(self._busy):
            connection.check(now)
        has_idle = False
        for connections in self._idle.values():
            while connections and connections[0].idle_since < now - IDLE_SECONDS:
                connections.popleft().close()
            has_idle = has_idle or bool(connections)
        self._ticking = None
        if has_idle or self._busy:
            self._ticking = self._loop.call_later(TICK_SECONDS, self._tick)

    def close(self) -> None:
        """Closes what is idle. Exchanges under way end by themselves."""
        for connections in self._idle.values():
            while connections:
                connections.pop().close()
        if self._ticking is not None:
            self._ticking.cancel()
