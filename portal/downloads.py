"""Exports on their way to whoever asked: piece by piece under ASGI and WSGI, with progress.

A sync iterator is gathered in memory under ASGI, an async one under WSGI; each server gets its
own kind here. Whoever goes away ends the query.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.cache import cache
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse
from django.utils.text import slugify

from gateway.export import Export, Format, Piece, Place

CONTENT_TYPES: dict[Format, str] = {
    "jsonl": "application/jsonl; charset=utf-8",
    "csv": "text/csv; charset=utf-8; header=present",
}
SECONDS_BETWEEN_REPORTS = 0.5
PROGRESS_KEPT_SECONDS = 3600


class State(StrEnum):
    RUNNING = "running"
    COMPLETE = "complete"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an export is, in entries."""

    state: State
    done: int
    total: int

    @property
    def percent(self) -> int:
        return min(100, 100 * self.done // self.total) if self.total else 100

    @property
    def mark(self) -> str:
        """Different for whatever is told differently."""
        return f"{self.state}-{self.done}-{self.total}"


class Running:
    """An export that is being sent; `close` ends it wherever it is, and frees its place."""

    def __init__(
        self, pieces: Generator[Piece, None, None], total: int, place: Place, name: str
    ) -> None:
        self._pieces = pieces
        self._progress = Progress(State.RUNNING, 0, total)
        self._place = place
        self._name = name
        self._reported_at = 0.0
        self._report()

    def piece(self) -> bytes | None:
        """The next one; None at the end."""
        piece = next(self._pieces, None)
        progress = self._progress
        if piece is None:
            self._progress = Progress(State.COMPLETE, progress.done, progress.total)
            return None
        self._progress = Progress(State.RUNNING, progress.done + piece.entries, progress.total)
        if time.monotonic() - self._reported_at > SECONDS_BETWEEN_REPORTS:
            self._report()
        return piece.data

    def close(self) -> None:
        self._pieces.close()
        self._place.leave()
        if self._progress.state is State.RUNNING:
            self._progress = Progress(State.STOPPED, self._progress.done, self._progress.total)
        self._report()

    def _report(self) -> None:
        self._reported_at = time.monotonic()
        if self._name:
            cache.set(self._name, self._progress, PROGRESS_KEPT_SECONDS)


class SyncPieces(Iterator[bytes]):
    def __init__(self, running: Running) -> None:
        self._running = running
        self.close = running.close

    def __next__(self) -> bytes:
        if (piece := self._running.piece()) is None:
            raise StopIteration
        return piece


class AsyncPieces(AsyncIterator[bytes]):
    """Reads in the request's own thread, which has the connection to the database."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self.close = running.close

    async def __anext__(self) -> bytes:
        if (piece := await sync_to_async(self._running.piece)()) is None:
            raise StopAsyncIteration
        return piece


def send(
    request: HttpRequest, export: Export, format_: Format, export_id: UUID | None = None
) -> StreamingHttpResponse | None:
    """The answer with the export as a file; None if too many are running.

    export_id: under which `progress_of` tells how far it is
    """
    total = export.count()
    place = Place.take(export.account_id)
    if place is None:
        return None
    name = "" if export_id is None else _name(export.account_id, export_id)
    running = Running(export.pieces(format_), total, place, name)
    pieces = AsyncPieces(running) if isinstance(request, ASGIRequest) else SyncPieces(running)
    response = StreamingHttpResponse(pieces, content_type=CONTENT_TYPES[format_])
    first, last = (f"{at:%Y-%m-%dT%H}" for at in (export.start, export.end))
    file_name = f"{slugify(settings.SITE_NAME)}-usage-{first}-{last}.{format_}"
    response["Content-Disposition"] = f'attachment; filename="{file_name}"'
    response["Cache-Control"] = "no-store"
    return response


def progress_of(account_id: UUID, export_id: UUID) -> Progress | None:
    """How far the account's export is; None if it was not begun, or long ago."""
    progress: Progress | None = cache.get(_name(account_id, export_id))
    return progress


def _name(account_id: UUID, export_id: UUID) -> str:
    return f"export:{account_id}:{export_id}"
