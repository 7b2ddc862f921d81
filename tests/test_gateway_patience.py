"""How long the gateway waits for a backend, how much it takes, and what it sends twice."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests import traffic, upstream
from tests.traffic import ask, connect, make_customer, put_on_sale, read_answer, request_bytes

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def backend():
    with upstream.serving() as serving:
        yield serving


@pytest.fixture(scope="module")
def running():
    with traffic.gateway() as running:
        yield running


@pytest.fixture
def port(running, redis_clean) -> int:
    return running.port


# ------------------------------------------------------------------ timeouts


def test_a_backend_that_takes_no_connection_is_a_timeout(port):
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        _fill(listener.getsockname(), waiting)
        put_on_sale(f"http://127.0.0.1:{listener.getsockname()[1]}", connect_timeout_seconds=1)
        customer = make_customer()
        started = time.monotonic()

        answer = ask(port, "GET", "/gateway/demo/echo", customer.bearer)

    assert (answer.status, answer.code) == (504, "upstream_timeout")
    assert 0.9 < time.monotonic() - started < 2.5
    (entry,) = traffic.entries()
    assert (entry["status"], entry["billable"]) == (504, False)


def _fill(address: tuple[str, int], waiting: contextlib.ExitStack) -> None:
    """Connects until the listener's queue is full and connections hang."""
    for _ in range(50):
        connection = waiting.enter_context(socket.socket())
        connection.settimeout(0.2)
        try:
            connection.connect(address)
        except TimeoutError:
            return
    raise AssertionError("the queue never filled")


def test_a_backend_that_never_agrees_on_tls_is_a_timeout(port):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        put_on_sale(f"https://127.0.0.1:{silent.getsockname()[1]}", connect_timeout_seconds=1)
        customer = make_customer()
        started = time.monotonic()

        answer = ask(port, "GET", "/gateway/demo/echo", customer.bearer)

    assert answer.code == "upstream_timeout"
    assert 0.9 < time.monotonic() - started < 2.5


def test_a_client_that_stops_sending_its_body_is_cut_off(port, backend):
    put_on_sale(backend.url, idle_timeout_seconds=1)
    customer = make_customer()
    fields = customer.bearer | {"Content-Length": "100"}
    with connect(port) as client:
        client.sendall(request_bytes("POST", "/gateway/demo/echo", fields) + b"half")
        started = time.monotonic()
        answer = read_answer(client)

    assert (answer.status, answer.code) == (400, "bad_request")
    assert 0.9 < time.monotonic() - started < 2.5


@pytest.mark.parametrize("total_timeout_seconds", [0, 60])
def test_a_backend_that_takes_no_more_of_a_body_is_a_timeout(port, total_timeout_seconds):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        put_on_sale(
            f"http://127.0.0.1:{deaf.getsockname()[1]}",
            idle_timeout_seconds=1,
            total_timeout_seconds=total_timeout_seconds,
        )
        customer = make_customer()
        fields = customer.bearer | {"Content-Length": "50000000"}
        with connect(port) as client:
            started = time.monotonic()
            client.sendall(request_bytes("POST", "/gateway/demo/echo", fields))
            sender = threading.Thread(target=_send, args=(client, 50_000_000))
            sender.start()
            answer = read_answer(client)
        sender.join()

    assert (answer.status, answer.code) == (504, "upstream_timeout")
    assert 0.9 < time.monotonic() - started < 6


def _send(client: socket.socket, left: int) -> None:
    """Sends for as long as the other side takes it."""
    with contextlib.suppress(OSError):
        while left > 0:
            left -= client.send(b"x" * 65536)


def test_a_backend_that_goes_on_sending_is_not_idle(port, backend):
    put_on_sale(backend.url, idle_timeout_seconds=1, first_byte_timeout_seconds=1)
    customer = make_customer()

    answer = ask(port, "GET", "/gateway/demo/events?pause=0.4&n=5", customer.bearer)

    assert answer.complete


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("length", "status"), [(1000, 200), (1001, 413)])
def test_a_body_may_be_as_large_as_the_api_says(port, backend, chunked, length, status):
    put_on_sale(backend.url, max_body_bytes=1000)
    customer = make_customer()
    body = b"x" * length
    if chunked:
        fields = customer.bearer | {"Transfer-Encoding": "chunked"}
        request = request_bytes("POST", "/gateway/demo/echo", fields)
        request += b"%x\r\n%b\r\n0\r\n\r\n" % (length, body)
    else:
        request = request_bytes("POST", "/gateway/demo/echo", customer.bearer, body)

    answer = traffic.ask_raw(port, request)

    assert answer is not None
    assert answer.status == status


# ------------------------------------------------------------------ sent again, or not


@contextmanager
def dying(
    last_words: bytes = b"", lasting: int = 1, pause_s: float = 0
) -> Iterator[tuple[int, list[str]]]:
    """A backend that closes each connection at the request after the `lasting` first ones, with
    no more than its last words; its port, and the methods that it was asked with."""
    asked: list[str] = []

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            number = 0
            while line := stream.readline():
                asked.append(line.split()[0].decode())
                length = 0
                while (field := stream.readline()) != b"\r\n":
                    if field.lower().startswith(b"content-length:"):
                        length = int(field.split(b":")[1])
                stream.read(length)
                number += 1
                if number > lasting:
                    connection.sendall(last_words)
                    return
                time.sleep(pause_s)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def listen() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=listen, daemon=True).start()
        yield listener.getsockname()[1], asked
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def make_call(port) -> Callable[..., traffic.Answer]:
    def make(backend_port: int):
        put_on_sale(f"http://127.0.0.1:{backend_port}")
        customer = make_customer()

        def call(method: str = "GET", body: bytes = b""):
            return ask(port, method, "/gateway/demo/x", customer.bearer, body)

        return call

    return make


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
def test_a_call_that_may_be_repeated_survives_a_connection_that_died_idle(make_call, method):
    with dying() as (backend_port, asked):
        call = make_call(backend_port)
        call()

        answer = call(method)

    assert answer.status == 200
    assert asked == ["GET", method, method]
    assert len(traffic.entries()) == 2


@pytest.mark.parametrize("method", ["POST", "PATCH", "PROPFIND"])
@pytest.mark.parametrize("body", [b"", b"a body"])
def test_any_other_call_is_never_sent_twice(make_call, method, body):
    with dying() as (backend_port, asked):
        call = make_call(backend_port)
        call()

        answer = call(method, body)

    assert (answer.status, answer.code) == (502, "upstream_unreachable")
    assert asked == ["GET", method]


def test_a_call_on_a_new_connection_is_never_sent_twice(make_call):
    with dying(lasting=0) as (backend_port, asked):
        answer = make_call(backend_port)()

    assert answer.code == "upstream_unreachable"
    assert asked == ["GET"]


def test_a_call_that_was_partly_answered_is_never_sent_twice(make_call):
    with dying(last_words=b"HTTP/1.1 2") as (backend_port, asked):
        call = make_call(backend_port)
        call()

        answer = call()

    assert answer.code == "upstream_unreachable"
    assert asked == ["GET", "GET"]


def test_a_call_is_sent_twice_at_most_however_many_connections_died(port):
    with dying(pause_s=0.3) as (backend_port, asked):
        put_on_sale(f"http://127.0.0.1:{backend_port}")
        customer = make_customer()
        workers = [
            threading.Thread(target=ask, args=(port, "GET", "/gateway/demo/x", customer.bearer))
            for _ in range(3)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len(asked) == 3, "each on a connection of its own"

        answer = ask(port, "GET", "/gateway/demo/x", customer.bearer)

    assert len(asked) == 5
    assert answer.status == 200
