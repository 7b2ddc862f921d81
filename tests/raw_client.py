"""A client that sends the bytes it is given and reads answers by `tests.strict`."""

from __future__ import annotations

import contextlib
import socket
import time

from tests import strict

PATIENCE_SECONDS = 4.0


class RawClient:
    """One connection. Sending to a peer that has closed is no error: its answer is still read."""

    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect(("127.0.0.1", port))
        self.unread = b""
        self.closed = False

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.settimeout(20)
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)

    def end(self) -> None:
        """Says that nothing more will be sent, and goes on reading."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def answer(self, method: str = "GET", *, within_s: float = PATIENCE_SECONDS) -> strict.Message:
        """The next final answer, whole. Raises `ConnectionError` and `TimeoutError`."""
        while True:
            message = self.next(method, within_s=within_s)
            if message.status >= 200:
                return message

    def next(self, method: str = "GET", *, within_s: float = PATIENCE_SECONDS) -> strict.Message:
        """The next answer, be it an interim one."""
        deadline = time.monotonic() + within_s
        while True:
            taken = strict.take_answer(self.unread, method, closed=self.closed)
            if taken is not None:
                message, self.unread = taken
                return message
            if self.closed:
                raise ConnectionError(f"closed after {self.unread[-200:]!r}")
            self._receive(deadline)

    def is_closed(self, within_s: float = PATIENCE_SECONDS) -> bool:
        """Whether the peer closes in time; what it still says stays in `unread`."""
        deadline = time.monotonic() + within_s
        with contextlib.suppress(TimeoutError):
            while not self.closed:
                self._receive(deadline)
        return self.closed

    def _receive(self, deadline: float) -> None:
        self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            data = self.socket.recv(256 * 1024)
        except ConnectionError:  # a reset; what came before it has been read
            data = b""
        self.unread += data
        self.closed = not data
