"""Peers that are slow, endless, many or gone: each costs the gateway little, and nobody else."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests import recorder, traffic, upstream
from tests.raw_client import RawClient
from tests.traffic import Customer, ask, eventually, make_customer, put_on_sale, request_bytes

pytestmark = pytest.mark.django_db

MB = 1024 * 1024
GROWTH_KB = 32 * 1024
HEAD_SECONDS = 10
"""How long a client may take for a head, and before it says anything."""


@pytest.fixture(scope="module")
def backend() -> Iterator[upstream.Upstream]:
    with upstream.serving() as serving:
        yield serving


@pytest.fixture(scope="module")
def running() -> Iterator[traffic.Gateway]:
    with traffic.gateway() as running:
        yield running


@pytest.fixture
def sold(running, redis_clean, backend) -> Callable[..., Customer]:
    """Puts the API on sale with these timeouts and limits, and warms the gateway up."""

    def sell(url: str = backend.url, **fields: int) -> Customer:
        put_on_sale(url, **({"max_body_bytes": 1024 * MB} | fields))
        customer = make_customer()
        if url == backend.url:
            assert ask(running.port, "GET", "/gateway/demo/echo", customer.bearer).status == 200
        return customer

    return sell


class Growth:
    """The most that the gateway's memory grew while it was looked at."""

    def __init__(self, running: traffic.Gateway) -> None:
        self._running = running
        self._before_kb = running.memory_kb()
        self.most_kb = 0

    def look(self) -> None:
        self.most_kb = max(self.most_kb, self._running.memory_kb() - self._before_kb)


@pytest.fixture
def growth(running, sold) -> Growth:
    ask(running.port, "GET", "/")
    return Growth(running)


def assert_others_are_served(running: traffic.Gateway, customer: Customer) -> None:
    for _ in range(5):
        started = time.monotonic()
        assert ask(running.port, "GET", "/gateway/demo/echo", customer.bearer).status == 200
        assert time.monotonic() - started < 0.5


def calls(customer: Customer, target: str, number: int = 1, **fields: str) -> bytes:
    return request_bytes("GET", f"/gateway/demo{target}", customer.bearer | fields) * number


# ------------------------------------------------------------------ slow clients


def test_heads_that_do_not_come_in_time_are_given_up(running, sold):
    customer = sold()
    slow: dict[str, tuple[bytes, bytes]] = {
        "nothing": (b"", b""),
        "a line": (b"GET /", b"a"),
        "empty lines": (b"", b"\r\n"),
        "a value": (b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"a"),
        "fields": (b"GET / HTTP/1.1\r\nHost: a\r\n", b"X: a\r\n"),
        "behind an answer": (calls(customer, "/echo") + b"GET /", b"a"),
    }
    with contextlib.ExitStack() as stack:
        clients = {name: stack.enter_context(RawClient(running.port)) for name in slow}
        for name, (start, _) in slow.items():
            clients[name].send(start)
        assert clients["behind an answer"].answer().status == 200
        started = time.monotonic()
        while clients and time.monotonic() - started < HEAD_SECONDS + 2:
            for name in list(clients):
                clients[name].send(slow[name][1])
                if clients[name].is_closed(within_s=0.05):
                    said = clients.pop(name).unread
                    assert not said or b" 408 " in said, name
            assert_others_are_served(running, customer)

        assert not clients, "still open"


def test_a_body_that_trickles_in_ends_with_the_calls_time(running, sold, backend):
    customer = sold(total_timeout_seconds=2, idle_timeout_seconds=1)
    started = time.monotonic()
    with RawClient(running.port) as client:
        fields = customer.bearer | {"Content-Length": "1000"}
        client.send(request_bytes("POST", "/gateway/demo/echo", fields))
        while not client.closed and time.monotonic() - started < 4:
            client.send(b"x")
            client.is_closed(within_s=0.2)

        assert client.closed
    (entry, _) = sorted(traffic.entries(), key=lambda entry: entry["status"], reverse=True)
    assert entry["status"] in (400, 408, 499, 504)
    assert not entry["billable"]
    assert not backend.requests[-1].whole


def test_a_body_that_stops_coming_is_not_waited_for(running, sold):
    customer = sold(idle_timeout_seconds=1)
    with RawClient(running.port) as client:
        fields = customer.bearer | {"Content-Length": "1000"}
        client.send(request_bytes("POST", "/gateway/demo/echo", fields) + b"x")

        assert client.answer(within_s=2.5).status in (400, 408)
        assert client.is_closed()


def test_a_reader_that_stops_holds_the_backend_back(running, sold, backend, growth):
    customer = sold()
    with RawClient(running.port, receive_buffer=32 * 1024) as client:
        client.send(calls(customer, f"/down?n={200 * MB}"))
        for _ in range(10):
            time.sleep(0.1)
            growth.look()
        sent = backend.requests[-1].sent_bytes
        assert_others_are_served(running, customer)

    assert growth.most_kb < GROWTH_KB
    assert sent < 32 * MB
    download = next(seen for seen in reversed(backend.requests) if "/down" in seen.target)
    eventually(lambda: download.aborted)


def test_a_reader_that_stops_for_good_ends_with_the_calls_time(running, sold, backend):
    customer = sold(total_timeout_seconds=2)
    with RawClient(running.port, receive_buffer=32 * 1024) as client:
        client.send(calls(customer, f"/down?n={200 * MB}"))
        started = time.monotonic()
        eventually(lambda: backend.requests[-1].aborted)
        entries = traffic.entries()

        assert time.monotonic() - started < 4
        assert "truncated" in [entry["code"] for entry in entries]


# ------------------------------------------------------------------ many, and endless


def test_a_thousand_idle_connections_hinder_nobody(running, sold, growth):
    customer = sold()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(running.port)) for _ in range(1000)]
        for client in clients[::2]:
            client.send(b"GET /gateway/demo/echo HTTP/1.1\r\nHost: ")
        growth.look()
        assert_others_are_served(running, customer)

    assert growth.most_kb < GROWTH_KB


def test_connections_kept_alive_hinder_nobody(running, sold, growth):
    customer = sold()
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            client = stack.enter_context(RawClient(running.port))
            client.send(calls(customer, "/echo"))
            assert client.answer().status == 200
        growth.look()
        assert_others_are_served(running, customer)

    assert growth.most_kb < GROWTH_KB


def test_many_huge_heads_are_held_in_bounded_memory(running, sold, growth):
    customer = sold()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(running.port)) for _ in range(200)]
        for client in clients:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 60_000)
        growth.look()
        assert_others_are_served(running, customer)
        for client in clients:
            client.send(b"a" * 100_000)
        growth.look()

        assert all(client.is_closed() for client in clients)
    assert growth.most_kb < GROWTH_KB


@pytest.mark.parametrize(
    ("start", "more"),
    [
        ("GET /", "a" * 1000),
        ("GET / HTTP/1.1\r\nHost: a\r\n", "X: a\r\n" * 200),
        ("GET / HTTP/1.1\r\nHost: a\r\nX", "a" * 1000),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: ", "a" * 1000),
        ("POST @CHUNKED@5;a=", "a" * 1000),
        ("POST @CHUNKED@0\r\nX: ", "a" * 1000),
        ("POST @CHUNKED@0\r\n", "X: a\r\n" * 200),
        ("POST @CHUNKED@0", "0" * 1000),
    ],
    ids=["line", "fields", "name", "value", "extension", "trailer", "trailers",
         "zeros"],
)  # fmt: skip
def test_what_never_ends_is_cut_off(running, sold, growth, start, more):
    customer = sold()
    chunked = request_bytes("POST", "/gateway/demo/echo", customer.bearer | {"TE": ""})
    chunked = chunked.replace(b"TE: ", b"Transfer-Encoding: chunked")
    data = start.encode().replace(b"POST @CHUNKED@", chunked)
    with RawClient(running.port) as client:
        client.send(data)
        sent = 0
        while not client.is_closed(within_s=0.001) and sent < 8 * MB:
            client.send(more.encode() * 64)
            sent += len(more) * 64
            growth.look()

        assert client.closed, f"took {sent} bytes"
    assert growth.most_kb < GROWTH_KB


def test_tiny_chunks_hinder_nobody(running, sold, growth, backend):
    customer = sold()
    head = request_bytes("POST", "/gateway/demo/echo", customer.bearer | {"TE": ""})
    head = head.replace(b"TE: ", b"Transfer-Encoding: chunked")
    with RawClient(running.port) as client:
        client.send(head)
        sender = threading.Thread(target=client.send, args=(b"1\r\nx\r\n" * 200_000,))
        sender.start()
        assert_others_are_served(running, customer)
        growth.look()
        sender.join()
        client.send(b"0\r\n\r\n")

        assert client.answer(within_s=20).status == 200
    assert growth.most_kb < GROWTH_KB


def test_requests_pipelined_without_end_wait_their_turn(running, sold, growth, backend):
    customer = sold()
    seen = len(backend.requests)
    with RawClient(running.port) as client:
        flood = calls(customer, "/echo", 20_000)
        sender = threading.Thread(target=client.send, args=(flood,), daemon=True)
        sender.start()
        for _ in range(10):
            time.sleep(0.1)
            growth.look()
        assert_others_are_served(running, customer)
    sender.join()

    assert growth.most_kb < GROWTH_KB
    # The call that the client left may have been admitted, and not yet sent.
    admitted_unsent = (0, 1)
    eventually(
        lambda: len(traffic.entries()) - (len(backend.requests) - seen + 1) in admitted_unsent
    )


# ------------------------------------------------------------------ clients that leave


@pytest.mark.parametrize("target", ["/never", "/events?pause=0.05", f"/down?n={200 * MB}"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_who_leaves_cancels_the_call_within_a_second(running, sold, backend, target, how):
    customer = sold()
    with RawClient(running.port) as client:
        client.send(calls(customer, target))
        time.sleep(0.2)
        if how == "reset":
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    left = time.monotonic()

    eventually(lambda: backend.requests[-1].aborted)
    assert time.monotonic() - left < 1


def test_who_leaves_in_the_middle_of_a_body_cancels_within_a_second(running, sold, backend):
    customer = sold()
    with RawClient(running.port) as client:
        fields = customer.bearer | {"Content-Length": "1000000"}
        client.send(request_bytes("POST", "/gateway/demo/echo", fields) + b"z" * 100_000)
        time.sleep(0.2)
    left = time.monotonic()

    eventually(lambda: backend.requests[-1].aborted)
    assert time.monotonic() - left < 1
    assert not backend.requests[-1].whole


@pytest.mark.parametrize("size", [3 * MB, 200_000])
@pytest.mark.parametrize("key", ["wrong", "right"])
def test_a_refusal_reaches_who_is_still_sending(running, sold, size, key):
    customer = sold(max_body_bytes=100_000)
    bearer = customer.bearer if key == "right" else {"X-API-Key": "ks_live_wrong"}
    with RawClient(running.port) as client:
        fields = bearer | {"Content-Length": str(size)}
        client.send(request_bytes("POST", "/gateway/demo/echo", fields))
        for _ in range(size // 10_000):
            client.send(b"z" * 10_000)

        assert client.answer().status == (413 if key == "right" else 401)


# ------------------------------------------------------------------ slow backends


def test_a_backend_that_takes_no_connection_is_a_timeout(running, sold):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as stack:
        port = full.getsockname()[1]
        for _ in range(3):  # the queue is full: the next one waits
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        customer = sold(f"http://127.0.0.1:{port}", connect_timeout_seconds=1)
        started = time.monotonic()

        answer = ask(running.port, "GET", "/gateway/demo/echo", customer.bearer)

    assert (answer.status, answer.code) == (504, "upstream_timeout")
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("target", ["/never", "/trickle?pause=0.2&head"])
def test_a_backend_without_an_answer_is_a_timeout(running, sold, target):
    customer = sold(first_byte_timeout_seconds=1)
    started = time.monotonic()

    answer = ask(running.port, "GET", f"/gateway/demo{target}", customer.bearer)

    assert (answer.status, answer.code) == (504, "upstream_timeout")
    assert time.monotonic() - started < 2


def test_an_answer_that_trickles_passes_until_the_calls_time_is_over(running, sold):
    customer = sold(total_timeout_seconds=2, idle_timeout_seconds=1)
    with RawClient(running.port) as client:
        started = time.monotonic()
        client.send(calls(customer, "/trickle?pause=0.4"))
        while b"\r\n\r\nx" not in client.unread:
            client.is_closed(within_s=0.02)
        assert time.monotonic() - started < 0.35
        assert client.is_closed()
        ended = time.monotonic() - started

    assert 1.9 < ended < 3
    assert client.unread.partition(b"\r\n\r\n")[2] in (b"x" * 5, b"x" * 6)


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"a" * 4096),
        (b"HTTP/1.1 200 OK\r\n", b"X: a\r\n" * 700),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 160),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 160),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=", b"a" * 4096),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"a" * 4096),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: a\r\n" * 700),
    ],
    ids=["value", "fields", "interim answers", "hints", "extension", "trailer", "trailers"],
)
def test_what_a_backend_never_ends_is_cut_off(running, sold, growth, start, more):
    with recorder.recording() as endless:
        customer = sold(endless.url, total_timeout_seconds=2)
        with endless.saying(start, *[more] * 5000, 5.0), RawClient(running.port) as client:
            client.send(calls(customer, "/x"))
            started = time.monotonic()
            while not client.is_closed(within_s=0.1) and b"\r\n\r\n{" not in client.unread:
                growth.look()
                assert time.monotonic() - started < 4

    assert b"\r\n0\r\n\r\n" not in client.unread
    assert growth.most_kb < GROWTH_KB


# ------------------------------------------------------------------ much


@pytest.mark.parametrize("framing", ["", "&chunked"], ids=["length", "chunks"])
def test_a_quarter_of_a_gigabyte_comes_down(running, sold, growth, framing):
    customer = sold()
    received = 0
    with RawClient(running.port) as client:
        client.send(calls(customer, f"/down?n={256 * MB}{framing}"))
        while received < 256 * MB:
            data = client.socket.recv(1 * MB)
            assert data
            received += len(data)
            growth.look()

    assert growth.most_kb < GROWTH_KB


@pytest.mark.parametrize("framing", ["Content-Length", "Transfer-Encoding"])
def test_a_quarter_of_a_gigabyte_goes_up(running, sold, growth, backend, framing):
    customer = sold()
    chunked = framing == "Transfer-Encoding"
    value = "chunked" if chunked else str(256 * MB)
    part = b"y" * MB
    with RawClient(running.port) as client:
        client.send(request_bytes("POST", "/gateway/demo/echo", customer.bearer | {framing: value}))
        for _ in range(256):
            client.send(b"100000\r\n%b\r\n" % part if chunked else part)
            growth.look()
        client.send(b"0\r\n\r\n" if chunked else b"")
        assert client.answer().status == 200

    assert backend.requests[-1].body_bytes == 256 * MB
    assert growth.most_kb < GROWTH_KB
