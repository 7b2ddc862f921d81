"""A payment provider's HTTP API on loopback, which fails as it is told to.

A subclass answers requests in `handle`; what goes wrong around that is chosen by `faults`, one
for each request to come, and by `away`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


class Refused(Exception):
    """An answer of 400 or more, in the provider's own form."""

    def __init__(self, status: int, message: str, **details: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.details = status, message, details


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass
class Page:
    """An answer for a browser: HTML, or a redirect to `location`."""

    html: str = ""
    location: str = ""


@dataclass
class Double:
    """`faults`: a status (nothing is done), "lost answer" or "500 after" (it is done), "drop"
    (it isn't), or "garbage" (it is done and the answer can't be read).

    now: its clock; None: the machine's
    """

    url: str = ""
    now: datetime | None = None
    away: bool = False
    delay_seconds: float = 0
    faults: deque[int | str] = field(default_factory=deque)
    requests: list[Request] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def handle(self, request: Request) -> Any:
        raise NotImplementedError

    def error(self, refused: Refused) -> Any:
        raise NotImplementedError

    def clock(self) -> datetime:
        return self.now or datetime.now(UTC)

    def demand(self, holds: bool, sentence: str) -> None:
        """What the provider's documents ask of every request; a test looks at `violations`."""
        if not holds:
            self.violations.append(sentence)
            raise Refused(400, sentence)


def _handler_of(double: Double) -> type[BaseHTTPRequestHandler]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body leave together. Apart, the body waits 40 ms for the asker's delayed ACK.
        wbufsize = -1

        def serve(self) -> None:
            target = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            sent = self.rfile.read(length)
            if len(sent) < length:  # its sender died
                self.close_connection = True
                return
            request = Request(
                self.command,
                target.path,
                dict(parse_qsl(target.query, keep_blank_values=True)),
                {name.lower(): value for name, value in self.headers.items()},
                sent,
            )
            if len(request.body) < length:  # whoever asked died in the middle of it
                self.close_connection = True
                return
            with lock:
                fault = "drop" if double.away else None
                if fault is None and double.faults:
                    fault = double.faults.popleft()
                double.requests.append(request)
                if fault == "drop":
                    self.hang_up()
                    return
                if isinstance(fault, int):
                    answer, status = double.error(Refused(fault, "As told.")), fault
                else:
                    try:
                        answer, status = double.handle(request), 200
                    except Refused as refused:
                        answer, status = double.error(refused), refused.status
            time.sleep(double.delay_seconds)
            if fault == "lost answer":
                self.hang_up()
                return
            if fault == "500 after":
                answer, status = double.error(Refused(500, "As told.")), 500
            if isinstance(answer, Page):
                body, content_type = answer.html.encode(), "text/html; charset=utf-8"
                status = 303 if answer.location else status
            else:
                body = b"<html>" if fault == "garbage" else json.dumps(answer).encode()
                content_type = "application/json"
            with contextlib.suppress(ConnectionError):
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                if isinstance(answer, Page) and answer.location:
                    self.send_header("Location", answer.location)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        do_GET = do_POST = do_PATCH = do_DELETE = serve  # noqa: N815 - the library's names

        def hang_up(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # whoever asked may be gone
            super().handle_error(request, client_address)


@contextmanager
def serving(double: Double, port: int = 0) -> Iterator[Double]:
    """port: 0 for any that is free"""
    server = _Server(("127.0.0.1", port), _handler_of(double))
    double.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield double
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
