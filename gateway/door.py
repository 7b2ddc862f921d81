"""The way from synchronous code into the data plane: one background event loop per process.

Owns the loop's thread and its gateway, both started with the first call, so that a server may
fork before. What a call says and becomes is `gateway.plane`'s.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from gateway.plane import Gateway

T = TypeVar("T")


class Door:
    """One event loop with one gateway, in a thread of its own."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Starts from nothing: a forked child has its parent's objects and none of its threads."""
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gateway: Gateway | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the loop and waits for it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            return self._start()

    def _start(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="gateway", daemon=True).start()
            self._gateway = asyncio.run_coroutine_threadsafe(_started(), loop).result()
            self._loop = loop
        return self._loop

    @property
    def gateway(self) -> Gateway:
        """The loop's gateway. Its methods run on the loop."""
        with self._lock:
            self._start()
            assert self._gateway is not None  # noqa: S101  what _start has made
            return self._gateway

    def close(self) -> None:
        """Settles what is outstanding, at the end of the process."""
        if self._loop is not None and self._gateway is not None:
            self.run(self._gateway.stop())


async def _started() -> Gateway:
    gateway = Gateway()
    await gateway.start()
    return gateway


door = Door()
os.register_at_fork(after_in_child=door.forget)
atexit.register(door.close)
