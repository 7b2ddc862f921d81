"""The fast door of the data plane: one ASGI application, before Django.

Paths are `/gateway/<api>/…`, and `/<api>/…` on the gateway's own listener.
"""

from __future__ import annotations

import asyncio
import gc
import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
django.setup()

from gateway.forward import Message, Receive, Send  # noqa: E402
from gateway.plane import Gateway, Scope  # noqa: E402

GC_THRESHOLDS = (50_000, 50, 100)


class Application:
    """The ASGI entry: starts the gateway with the server, or with the first call."""

    def __init__(self) -> None:
        self._gateway: Gateway | None = None
        self._starting = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            gateway = self._gateway or await self._started()
            await gateway.answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "websocket.close"})

    async def _started(self) -> Gateway:
        async with self._starting:
            if self._gateway is None:
                gateway = Gateway()
                await gateway.start()
                self._gateway = gateway
            return self._gateway

    async def _live(self, receive: Receive, send: Send) -> None:
        message: Message = await receive()
        await self._started()
        # What exists now lives as long as the process: the collector need not look at it again,
        # and what a call leaves behind is mostly freed by reference counts.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        await send({"type": "lifespan.startup.complete"})
        while message["type"] != "lifespan.shutdown":
            message = await receive()
        if self._gateway is not None:
            await self._gateway.stop()
        await send({"type": "lifespan.shutdown.complete"})


application = Application()
