"""The DRF door under a real WSGI server: bodies stream both ways, breaking off stays visible."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Iterator
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest

from portal.wsgi import application
from tests import traffic, upstream
from tests.traffic import Customer, ask, connect, eventually, make_customer, put_on_sale

pytestmark = pytest.mark.django_db

MB = 1024 * 1024


class Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Silent(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def get_environ(self) -> dict[str, object]:
        return super().get_environ() | {"RAW_URI": self.path}


@pytest.fixture(scope="module")
def backend() -> Iterator[upstream.Upstream]:
    with upstream.serving() as serving:
        yield serving


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = make_server("127.0.0.1", 0, application, server_class=Server, handler_class=Silent)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def customer(redis_clean, backend, settings) -> Customer:
    settings.ALLOWED_HOSTS = ["*"]
    put_on_sale(backend.url)
    return make_customer()


def test_a_call_goes_through_with_its_path_as_it_came(port, customer):
    answer = ask(port, "GET", "/gateway/demo/echo/a%2Fb/%7e?x=%20", customer.bearer)

    assert answer.json["target"] == "/echo/a%2Fb/%7e?x=%20"
    assert answer["keystile-event"] == traffic.entries()[0]["id"]


def test_megabytes_go_up_and_come_down(port, backend, customer):
    up = ask(port, "POST", "/gateway/demo/echo", customer.bearer, b"u" * 5 * MB)
    down = ask(port, "GET", f"/gateway/demo/down?n={5 * MB}", customer.bearer)

    assert up.status == 200
    assert backend.requests[-2].body_bytes == 5 * MB
    assert len(down.body) == 5 * MB


def test_an_answer_that_breaks_off_is_cut_off(port, customer):
    answer = ask(port, "GET", "/gateway/demo/truncated", customer.bearer)

    assert not answer.complete


def test_a_client_that_leaves_a_stream_stops_the_backend(port, backend, customer):
    with connect(port) as client:
        client.sendall(
            traffic.request_bytes("GET", "/gateway/demo/events?pause=0.02", customer.bearer)
        )
        assert b"200 OK" in client.recv(1024)

    eventually(lambda: backend.requests[-1].aborted)
    (entry,) = traffic.entries()
    assert (entry["status"], entry["code"]) == (200, "truncated")


def test_events_pass_as_they_come(port, customer):
    with connect(port) as client:
        client.sendall(
            traffic.request_bytes("GET", "/gateway/demo/events?pause=0.5&n=2", customer.bearer)
        )
        started = time.monotonic()
        arrived = b""
        while b"data: 0" not in arrived:
            arrived += client.recv(4096)

    assert time.monotonic() - started < 0.45
