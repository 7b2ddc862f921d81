"""A call without an end keeps its open for as long as it runs, and no longer than its gateway."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from gateway import sweep
from keys import records
from tests import short_lease, traffic, upstream
from tests.traffic import connect, eventually, make_customer, put_on_sale, read_answer, terms

pytestmark = pytest.mark.django_db

LASTS_S = short_lease.LEASE.lasts_ms / 1000


@pytest.fixture(scope="module")
def backend():
    with upstream.serving() as serving:
        yield serving


@pytest.fixture
def running(redis_clean):
    with traffic.gateway(application="tests.short_lease:application") as running:
        yield running


@pytest.fixture
def customer(running, backend):
    put_on_sale(backend.url, total_timeout_seconds=0)
    return make_customer(replace(terms(), concurrency=1))


def deadline_ms() -> int:
    """Of the one open."""
    (call,) = records.connection().hvals(records.open_name(0))
    return int(call.split(b"\t")[-2])


def sweep_now() -> int:
    return sweep.sweep(records.connection(), 0, int(time.time() * 1000))


def is_renewed() -> bool:
    """Whether the deadline is the lease's by now, and not that of an admission."""
    return deadline_ms() < (time.time() + LASTS_S) * 1000 + 50


def watch(client, customer, target="/gateway/demo/events?pause=0.1&n=25") -> None:
    client.sendall(traffic.request_bytes("GET", target, customer.bearer))
    assert client.recv(15) == b"HTTP/1.1 200 OK"
    eventually(is_renewed)


def test_a_stream_that_outlives_its_deadlines_is_settled_once(running, customer):
    slots = records.running_name(0, customer.account.pk)
    deadlines, swept = set(), 0
    with connect(running.port) as client:
        watch(client, customer)
        until = time.monotonic() + 3 * LASTS_S
        while time.monotonic() < until:
            deadlines.add(deadline_ms())
            swept += sweep_now()
            ((_, slot_ms),) = records.connection().zrange(slots, 0, -1, withscores=True)
            assert slot_ms > time.time() * 1000, "its place is taken for as long"
            time.sleep(0.05)
        second = traffic.ask(running.port, "GET", "/gateway/demo/echo", customer.bearer)
        while client.recv(65536)[-5:] != b"0\r\n\r\n":
            pass

    assert second.code == "concurrency_limited"
    (entry,) = traffic.entries()
    assert (entry["outcome"], entry["status"], entry["billable"]) == ("completed", 200, True)
    assert swept == 0
    assert len(deadlines) > 5
    assert max(deadlines) - min(deadlines) > 2000 * LASTS_S
    assert traffic.used(customer) == 1
    assert not records.connection().exists(slots)


def test_what_a_killed_gateway_streamed_is_abandoned_a_lease_later(running, customer):
    with connect(running.port) as client:
        watch(client, customer)
        (gateway,) = running.processes
        gateway.kill()
        gateway.wait()
        early = sweep_now()
        time.sleep(LASTS_S)
        swept = sweep_now()

    assert (early, swept) == (0, 1)
    (entry,) = traffic.entries()
    assert (entry["outcome"], entry["billable"], entry["units"]) == ("abandoned", False, {})
    assert traffic.used(customer) == 0
    assert not records.connection().exists(records.running_name(0, customer.account.pk))


def test_a_stream_goes_on_when_redis_lost_its_scripts_or_the_connection(running, customer):
    connection = records.connection()
    with connect(running.port) as client:
        watch(client, customer)
        for disturb in (
            connection.script_flush,
            lambda: connection.client_kill_filter(_type="normal"),
        ):
            disturb()
            time.sleep(LASTS_S)
            assert is_renewed()
            assert sweep_now() == 0
            assert deadline_ms() > time.time() * 1000


def test_a_call_that_ends_leaves_nothing_to_renew(running, customer, redis_clean):
    answer = traffic.ask(running.port, "GET", "/gateway/demo/echo", customer.bearer)
    time.sleep(3 * short_lease.LEASE.renewed_every_s)

    assert answer.status == 200
    assert not redis_clean.exists(records.open_name(0))
    assert not redis_clean.exists(records.running_name(0, customer.account.pk))
    assert len(traffic.entries()) == 1


def test_a_call_with_an_end_is_left_alone(running, backend, redis_clean):
    put_on_sale(backend.url, total_timeout_seconds=100)
    customer = make_customer()
    with connect(running.port) as client:
        client.sendall(
            traffic.request_bytes("GET", "/gateway/demo/events?pause=0.1&n=8", customer.bearer)
        )
        eventually(lambda: redis_clean.hlen(records.open_name(0)) == 1)
        first = deadline_ms()
        time.sleep(3 * short_lease.LEASE.renewed_every_s)
        assert deadline_ms() == first
        assert first > (time.time() + 100) * 1000
        assert read_answer(client).complete
