"""How long the gateway waits for a client: each deadline, and that it spares who is alive."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests import traffic, upstream
from tests.impatient import PATIENCE
from tests.raw_client import RawClient
from tests.traffic import Customer, eventually, make_customer, put_on_sale, request_bytes

pytestmark = pytest.mark.django_db

MB = 1024 * 1024
SLACK_SECONDS = 1.2  # a tick of the server's clock, and a machine that has other things to do


@pytest.fixture(scope="module")
def backend() -> Iterator[upstream.Upstream]:
    with upstream.serving() as serving:
        yield serving


@pytest.fixture(scope="module")
def running() -> Iterator[traffic.Gateway]:
    with traffic.gateway(server="tests.impatient:Server") as running:
        yield running


@pytest.fixture
def customer(running, redis_clean, backend) -> Customer:
    put_on_sale(backend.url)
    return make_customer()


@pytest.fixture
def client(running, customer) -> Iterator[RawClient]:
    with RawClient(running.port, receive_buffer=32 * 1024) as client:
        yield client


def call(customer: Customer, target: str = "/echo") -> bytes:
    return request_bytes("GET", f"/gateway/demo{target}", customer.bearer)


def ends_after(client: RawClient) -> float:
    """How long the peer takes a byte now and then before it resets the connection."""
    started = time.monotonic()
    while time.monotonic() - started < 10:
        try:
            client.socket.send(b"z")
        except ConnectionError:
            return time.monotonic() - started
        time.sleep(0.02)
    raise AssertionError("it went on for ever")


# ------------------------------------------------------------------ between calls


def test_a_connection_that_is_not_used_is_closed_without_a_word(client, customer):
    client.send(call(customer))
    client.answer()
    started = time.monotonic()

    assert client.is_closed()
    assert client.unread == b""
    assert 0 < time.monotonic() - started - PATIENCE.idle_s + 0.1 < SLACK_SECONDS


def test_a_connection_that_is_used_now_and_then_stays(client, customer):
    for _ in range(4):
        client.send(call(customer))
        assert client.answer().status == 200
        time.sleep(0.6 * PATIENCE.idle_s)


def test_a_call_may_last_longer_than_a_client_may_be_idle(client, customer):
    client.send(call(customer, f"/pause?seconds={1.5 * PATIENCE.idle_s}"))

    assert client.answer().status == 200


# ------------------------------------------------------------------ readers


def test_a_reader_that_stops_is_cut_off(client, customer, backend):
    client.send(call(customer, f"/down?n={200 * MB}"))
    started = time.monotonic()

    eventually(lambda: backend.requests[-1].aborted)

    assert 0 < time.monotonic() - started - PATIENCE.stall_s + 0.1 < SLACK_SECONDS
    assert [entry["code"] for entry in traffic.entries()] == ["truncated"]


def test_a_reader_that_is_slow_is_not(client, customer, backend):
    client.send(call(customer, f"/down?n={200 * MB}"))
    started = time.monotonic()

    while time.monotonic() - started < 3 * PATIENCE.stall_s:
        assert client.socket.recv(2 * MB)
        time.sleep(0.005)

    assert not backend.requests[-1].aborted


# ------------------------------------------------------------------ senders


def test_a_refused_sender_is_listened_to_for_a_moment(client):
    client.send(b"POST /gateway/demo/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
    assert client.answer().status == 401

    assert 0 < ends_after(client) - PATIENCE.linger_s + 0.1 < SLACK_SECONDS


def test_a_refused_sender_of_very_much_is_not(client):
    client.send(b"POST /gateway/demo/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n")
    assert client.answer().status == 401
    client.send(b"z" * MB)

    assert ends_after(client) < PATIENCE.linger_s / 2


def test_what_is_no_request_is_lingered_upon_like_one(client):
    client.send(b"nonsense\r\n\r\n")
    assert client.answer().status == 400

    assert 0 < ends_after(client) - PATIENCE.linger_s + 0.1 < SLACK_SECONDS


# ------------------------------------------------------------------ who closes their half


def test_who_stops_sending_gets_an_answer_that_is_near(client, customer):
    client.send(call(customer, f"/pause?seconds={PATIENCE.leave_s / 3}"))
    client.end()

    assert client.answer().status == 200
    assert client.is_closed()


def test_who_stops_sending_is_taken_for_gone_if_the_answer_is_far(client, customer, backend):
    client.send(call(customer, "/never"))
    started = time.monotonic()
    client.end()

    assert client.is_closed()
    assert client.unread == b""
    assert 0 < time.monotonic() - started - PATIENCE.leave_s + 0.1 < SLACK_SECONDS
    eventually(lambda: backend.requests[-1].aborted)
