"""How long a client is waited for, and the timer that looks whose time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Set
from typing import NamedTuple, Protocol

TICK_SECONDS = 0.25


class Patience(NamedTuple):
    """How long a client is waited for.

    head:   from the first byte of a request until its head is whole
    idle:   between an answer and the next request
    stall:  while it reads nothing of an answer
    linger: while it goes on sending a body that nobody reads: it can read the answer
    leave:  after it closed its half: an answer that is near still reaches it
    """

    head_s: float = 10.0
    idle_s: float = 75.0
    stall_s: float = 30.0
    linger_s: float = 2.0
    leave_s: float = 0.3


class Waiting(Protocol):
    """A connection, and when it is over: by its loop's clock, infinite while others watch it."""

    deadline: float

    def is_late(self) -> None:
        """The deadline has passed."""


class Clock:
    """One timer for all connections of a loop, instead of two for every request."""

    _running: dict[asyncio.AbstractEventLoop, Clock] = {}

    @classmethod
    def start(cls, loop: asyncio.AbstractEventLoop, connections: Set[Waiting]) -> None:
        if loop not in cls._running:
            cls._running[loop] = cls(loop, connections)

    def __init__(self, loop: asyncio.AbstractEventLoop, connections: Set[Waiting]):
        self._loop = loop
        self._connections = connections
        self._tick()

    def _tick(self) -> None:
        now = self._loop.time()
        for connection in [held for held in self._connections if held.deadline < now]:
            connection.is_late()
        self._loop.call_later(TICK_SECONDS, self._tick)
