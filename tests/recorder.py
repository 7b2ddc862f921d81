"""A backend that keeps every byte it is sent, per connection, and says what it is told to say.

Where `tests.upstream` reads kindly, this one reads by `tests.strict`: what isn't plainly one
request gets no answer and a closed connection, and stays on record.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests import strict

CLOSE = "close"
RESET = "reset"
Step = bytes | float | str
"""Bytes to send, seconds to wait, or how to end the connection."""


class Recorder:
    """`answer` is a list of steps; without one each request's target comes back as the body.

    early: whether a request is answered at the end of its head, its body unread
    """

    def __init__(self, listener: socket.socket) -> None:
        self.port = int(listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.answer: list[Step] | None = None
        self.early = False
        self.connections = 0
        self._received: list[bytearray] = []
        self._listener = listener

    def forget(self) -> None:
        """Starts the record anew; open connections go on."""
        for received in self._received:
            received.clear()

    @property
    def record(self) -> list[bytes]:
        """What came since `forget`, one for each connection that said anything."""
        return [bytes(received) for received in self._received if received]

    def requests(self) -> list[strict.Message]:
        """What came since `forget`, as requests. Raises `strict.Malformed`."""
        return [message for data in self.record for message in strict.requests(data)]

    def whole_requests(self) -> list[strict.Message]:
        """The same without what was broken off: a request that never ended was never made."""
        time.sleep(0.02)  # its bytes may still be on their way, into the next test's record
        found = []
        for data in self.record:
            while (taken := strict.take_request(data)) is not None:
                message, data = taken
                found.append(message)
        return found

    @contextmanager
    def saying(self, *steps: Step, early: bool = False) -> Iterator[None]:
        """Every request inside the block gets these bytes."""
        self.answer, self.early = list(steps), early
        try:
            yield
        finally:
            self.answer, self.early = None, False

    def serve(self) -> None:
        """Accepts until the listener is closed."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        received = bytearray()
        self._received.append(received)
        unread = b""
        with connection, contextlib.suppress(OSError, strict.Malformed):
            while data := connection.recv(65536):
                received += data
                unread += data
                if self.early and b"\r\n\r\n" in unread:
                    self._say(connection, strict.Message(unread, []))
                    self.early = False
                    unread = b""
                    continue
                while (taken := strict.take_request(unread)) is not None:
                    request, unread = taken
                    if not self._say(connection, request):
                        return

    def _say(self, connection: socket.socket, request: strict.Message) -> bool:
        """Answers; whether the connection goes on."""
        if self.answer is None:
            body = b"" if request.method == "HEAD" else request.target.encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(request.target)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            return True
        for step in self.answer:
            if isinstance(step, bytes):
                connection.sendall(step)
            elif isinstance(step, float):
                time.sleep(step)
            else:
                if step == RESET:
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                return False
        return True


@contextmanager
def recording() -> Iterator[Recorder]:
    """The backend in threads of its own, for as long as the block lasts."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        recorder = Recorder(listener)
        threading.Thread(target=recorder.serve, daemon=True).start()
        try:
            yield recorder
        finally:
            listener.shutdown(socket.SHUT_RDWR)
