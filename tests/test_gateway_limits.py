"""Limits are exact and every admitted call is settled once, whatever happens to Redis."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import pytest

from gateway import admit, entries, settle, sweep
from gateway.link import Link
from gateway.routes import Operation
from gateway.settle import Settler
from keys import records
from keys.entitlements import MeterTerms
from tests import traffic, upstream
from tests.traffic import NOW, Customer, ask, connect, eventually, make_customer, put_on_sale, terms

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def backend() -> Iterator[upstream.Upstream]:
    with upstream.serving() as serving:
        yield serving


@pytest.fixture(scope="module")
def running() -> Iterator[traffic.Gateway]:
    with traffic.gateway(processes=2) as running:
        yield running


@pytest.fixture
def door(running, redis_clean) -> int:
    return running.port


def call_from_many(
    port: int, customer: Customer, target: str, *, calls: int, connections: int = 32
) -> Counter[int]:
    """Statuses of so many calls over so many kept connections at once."""
    statuses: Counter[int] = Counter()
    left = iter(range(calls))
    lock = threading.Lock()
    request = traffic.request_bytes("GET", target, customer.bearer)

    def work() -> None:
        with connect(port) as client:
            while True:
                with lock:
                    if next(left, None) is None:
                        return
                client.sendall(request)
                status = traffic.read_answer(client).status
                with lock:
                    statuses[status] += 1

    workers = [threading.Thread(target=work) for _ in range(connections)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return statuses


# ------------------------------------------------------------------ exact


def test_a_quota_lets_exactly_as_much_through_over_two_processes(door, backend):
    put_on_sale(backend.url)
    customer = make_customer(terms(limit=300))

    statuses = call_from_many(door, customer, "/gateway/demo/echo", calls=500, connections=64)

    assert statuses == {200: 300, 429: 200}
    recorded = traffic.entries()
    assert len({entry["id"] for entry in recorded}) == 300
    assert sum(entry["units"]["calls"] for entry in recorded if entry["billable"]) == 300
    assert traffic.used(customer) == 300


def test_what_is_refunded_lets_one_more_through_each(door, backend):
    put_on_sale(backend.url)
    customer = make_customer(terms(limit=50))

    failing = call_from_many(door, customer, "/gateway/demo/status/500", calls=50)
    traffic.entries()
    statuses = call_from_many(door, customer, "/gateway/demo/echo", calls=60)

    assert failing == {500: 50}
    assert statuses == {200: 50, 429: 10}
    assert traffic.used(customer) == 50


def test_a_rate_admits_its_burst_and_then_as_many_as_time_brings(door, backend):
    put_on_sale(backend.url)
    customer = make_customer(terms(rate=40, burst=20))
    ask(door, "GET", "/gateway/demo/echo", customer.bearer)  # routes are loaded
    time.sleep(0.6)

    started = time.monotonic()
    admitted = 0
    while (elapsed := time.monotonic() - started) < 1.5:
        statuses = call_from_many(door, customer, "/gateway/demo/echo", calls=24, connections=8)
        admitted += statuses[200]
        last = elapsed
    most = 20 + 40 * (time.monotonic() - started) + 1
    least = 20 + 40 * last - 1

    assert least <= admitted <= most


def test_an_operation_costs_its_weight_in_every_meter(door, backend):
    put_on_sale(backend.url, {"GET /echo": {"weights": {"calls": 2, "rows": 5}}})
    rows = MeterTerms(included=12, past="refuse", limit=12)
    customer = make_customer(terms(limit=100, rows=rows))

    statuses = [ask(door, "GET", "/gateway/demo/echo", customer.bearer).status for _ in range(3)]

    # All or nothing: the third call would fit into calls, not into rows.
    assert statuses == [200, 200, 429]
    assert (traffic.used(customer), traffic.used(customer, "rows")) == (4, 10)


def test_a_reported_meter_reserves_its_maximum_and_settles_to_what_was_used(door, backend):
    put_on_sale(backend.url, {"GET /units": {"max_units": {"rows": 100}}})
    customer = make_customer(terms(rows=MeterTerms(included=150, past="refuse", limit=150)))
    target = "/gateway/demo/units?units=rows%3D"

    first = ask(door, "GET", f"{target}30", customer.bearer)
    traffic.entries()
    second = ask(door, "GET", f"{target}70", customer.bearer)
    traffic.entries()
    third = ask(door, "GET", f"{target}1", customer.bearer)

    # 30 + 70 are used: another 100 could not be reserved.
    assert [first.status, second.status, third.status] == [200, 200, 429]
    assert traffic.used(customer, "rows") == 100
    assert [entry["units"] for entry in traffic.entries()] == [
        {"calls": 1, "rows": 30},
        {"calls": 1, "rows": 70},
    ]


def test_what_is_reported_over_the_maximum_is_recorded_and_not_billed(door, backend):
    put_on_sale(backend.url, {"GET /units": {"max_units": {"rows": 100}}})
    customer = make_customer()

    ask(door, "GET", "/gateway/demo/units?units=rows%3D250,+pages%3D2,+x,+y%3D-1", customer.bearer)

    (entry,) = traffic.entries()
    assert entry["units"] == {"calls": 1, "rows": 100}
    assert (entry["meta"]["over_rows"], entry["meta"]["over_pages"]) == ("150", "2")
    assert traffic.used(customer, "rows") == 100


def test_a_reported_meter_that_is_not_reported_is_not_billed(door, backend):
    put_on_sale(backend.url, {"GET /echo": {"max_units": {"rows": 100}}})
    customer = make_customer()

    ask(door, "GET", "/gateway/demo/echo", customer.bearer)

    (entry,) = traffic.entries()
    assert entry["units"] == {"calls": 1, "rows": 0}
    assert traffic.used(customer, "rows") == 0


def test_periods_are_half_open_and_count_apart(door, backend):
    put_on_sale(backend.url)
    customer = make_customer(terms(limit=1))
    # A boundary a moment ahead; the publisher's first period is the current one.
    soon = int(time.time()) + 2
    periods = [NOW - timedelta(days=1), NOW.fromtimestamp(soon, NOW.tzinfo)]
    periods.append(periods[1] + timedelta(days=30))
    traffic.entitle(customer.account, terms(limit=1), periods=periods)

    before = [ask(door, "GET", "/gateway/demo/echo", customer.bearer) for _ in range(2)]
    time.sleep(max(soon - time.time(), 0) + 0.05)
    after = [ask(door, "GET", "/gateway/demo/echo", customer.bearer) for _ in range(2)]

    assert [answer.status for answer in before] == [200, 429]
    assert int(before[1]["retry-after"]) <= 2
    assert [answer.status for answer in after] == [200, 429]


def test_changed_routes_hold_on_the_next_call_in_every_process(door, backend):
    api = put_on_sale(backend.url, {"GET /echo": {}})
    customer = make_customer()
    known = call_from_many(door, customer, "/gateway/demo/echo", calls=20, connections=8)

    api.operations.update(path_template="/status/{code}", weights={"calls": 3})
    traffic.publish_routes()
    gone = call_from_many(door, customer, "/gateway/demo/echo", calls=20, connections=8)
    new = call_from_many(door, customer, "/gateway/demo/status/200", calls=10, connections=8)

    assert (known, gone, new) == ({200: 20}, {404: 20}, {200: 10})
    traffic.entries()
    assert traffic.used(customer) == 20 + 30


def test_every_entry_is_one_that_the_ledger_takes(door, backend, redis_clean):
    put_on_sale(backend.url, {"GET /units": {"max_units": {"rows": 9}}, "GET /status/{x}": {}})
    customer = make_customer()
    for target in ("units?units=rows%3D7", "status/503", "status/204"):
        ask(door, "GET", f"/gateway/demo/{target}", customer.bearer)
    traffic.entries()

    parsed = [entries.parse(fields) for _, fields in redis_clean.xrange(records.usage_stream(0))]

    assert [entry.operation for entry in parsed] == [
        "GET /units", "GET /status/{x}", "GET /status/{x}",
    ]  # fmt: skip
    assert {entry.account_id for entry in parsed} == {customer.account.pk}
    assert all(entry.latency_us >= entry.upstream_us > 0 for entry in parsed)


# ------------------------------------------------------------------ gateways that die


def test_a_call_whose_gateway_was_killed_is_abandoned_and_refunded(redis_clean, backend):
    put_on_sale(backend.url)
    customer = make_customer(terms(limit=5))
    with traffic.gateway() as doomed, connect(doomed.port) as client:
        client.sendall(traffic.request_bytes("GET", "/gateway/demo/never", customer.bearer))
        eventually(lambda: redis_clean.hlen(records.open_name(0)) == 1)
        doomed.processes[0].kill()
    assert traffic.used(customer) == 1
    (opened,) = redis_clean.hvals(records.open_name(0))
    deadline_ms = int(opened.split(b"\t")[9])

    early = sweep.sweep(redis_clean, 0, deadline_ms - 1)
    swept = sweep.sweep(redis_clean, 0, deadline_ms)
    again = sweep.sweep(redis_clean, 0, deadline_ms)

    assert (early, swept, again) == (0, 1, 0)
    (entry,) = traffic.entries()
    assert (entry["outcome"], entry["billable"], entry["status"]) == ("abandoned", False, 0)
    assert traffic.used(customer) == 0


def test_a_graceful_stop_settles_what_was_answered(redis_clean, backend):
    put_on_sale(backend.url)
    customer = make_customer()
    with traffic.gateway() as stopping:
        statuses = call_from_many(stopping.port, customer, "/gateway/demo/echo", calls=100)
        stopping.processes[0].terminate()
        stopping.processes[0].wait(timeout=10)

    assert statuses == {200: 100}
    assert redis_clean.hlen(records.open_name(0)) == 0
    assert redis_clean.xlen(records.usage_stream(0)) == 100


# ------------------------------------------------------------------ Redis away


def test_a_void_that_came_before_its_admission_is_repeated(redis_clean, backend, settings):
    put_on_sale(backend.url)
    customer = make_customer()

    async def void_then_admit() -> None:
        connection = Link(settings.REDIS_URL, 2.0)
        settler = Settler(connection)
        await connection.start()
        settler.void("event", 0, Operation("other", {}, {}))
        await settler.finish(2.0)
        assert admit_by_hand(redis_clean, customer) == b""
        assert traffic.used(customer) == 1
        await asyncio.sleep(settle.VOID_AGAIN_SECONDS + 0.5)
        await settler.finish(2.0)
        await connection.close()

    asyncio.run(void_then_admit())

    (entry,) = traffic.entries()
    assert (entry["id"], entry["outcome"], entry["status"]) == ("event", "abandoned", 503)
    assert traffic.used(customer) == 0


def admit_by_hand(redis_clean, customer: Customer, most_entries: int = 1000) -> bytes:
    """What the admitting script says of a call to no operation, as the event "event"."""
    script = redis_clean.register_script(admit.SCRIPT.text)
    version = redis_clean.hget(records.routes_name(0), "version")
    key = records.key_name(0, customer.key.digest)
    said = [
        records.tag(0),
        "event",
        version,
        "",
        "demo",
        "other",
        1000,
        most_entries,
        "",
        0,
        "{}",
        "",
        "",
    ]
    return bytes(script(keys=[key], args=[*said, "calls", 1])[0])


def test_a_full_stream_admits_nothing_more(redis_clean, backend):
    put_on_sale(backend.url)
    customer = make_customer()
    stream = records.usage_stream(0)
    pipeline = redis_clean.pipeline(transaction=False)
    for _ in range(1000):
        pipeline.xadd(stream, {"x": 1})
    pipeline.execute()

    assert admit_by_hand(redis_clean, customer, 1000) == b"unavailable"
    assert admit_by_hand(redis_clean, customer, 1001) == b""
