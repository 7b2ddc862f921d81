"""`.limits` tells the truth and costs nothing; concurrency is exact and leaves no ghosts."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import replace
from decimal import Decimal

import pytest

from gateway import sweep
from keys import entitlements, records
from keys.entitlements import Grant, MeterTerms
from keys.spend import MeterCost, SpendCap
from tests import traffic
from tests.doors import assert_refused
from tests.test_key_restrictions import ECHO, restrict
from tests.traffic import NOW, ask, committed, connect, entitle, eventually, make_customer, terms

pytestmark = pytest.mark.django_db

LIMITS = "/gateway/demo/.limits"


def test_limits_say_what_is_left_and_cost_nothing(call, on_sale):
    customer = make_customer(terms(rate=1, burst=3, limit=10))
    restrict(customer.key, rate_per_second=Decimal("0.5"), burst=2, monthly_quota=4)
    call(ECHO, customer.bearer)
    traffic.entries()

    for _ in range(3):
        answer = call(LIMITS, customer.bearer)

    assert answer.status == 200
    told = answer.json
    assert (told["account"], told["key"]) == (str(customer.account.pk), str(customer.key.pk))
    assert (told["plan"], told["mode"]) == ("Pro", "live")
    assert told["rate"] == {"per_second": 1, "burst": 3, "remaining": 2}
    assert told["key_rate"] == {"per_second": 0.5, "burst": 2, "remaining": 1}
    ends = told["period"]["end"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", ends)
    assert told["quotas"] == {
        "calls": {"limit": 10, "included": 10, "used": 1, "remaining": 9, "resets_at": ends}
    }
    assert told["key_quota"] == {"limit": 4, "used": 1, "remaining": 3, "resets_at": ends}
    assert [told[name] for name in ("concurrency", "credits", "spend_cap")] == [None] * 3
    assert len(traffic.entries()) == 1


def test_limits_of_an_account_that_has_everything(call, on_sale, redis_clean):
    calls = MeterTerms(included=0, past="credits", limit=None, credits_per_unit=2)
    rows = MeterTerms(included=5, past="bill", limit=None)
    soon = int(NOW.timestamp()) + 3600
    customer = make_customer(
        replace(
            terms(calls=calls, rows=rows),
            concurrency=3,
            grants=(Grant(1, 10, soon), Grant(2, 5, None), Grant(3, 9, soon - 7200)),
            spend_cap=SpendCap(500, "USD", (MeterCost("rows", 5, ((0, 0, 1, 3, 2),)),)),
        )
    )
    call(ECHO, customer.bearer)
    period = NOW - traffic.timedelta(days=1)
    redis_clean.set(records.used_name(0, customer.account.pk, "live", period, "rows"), 8)
    traffic.entries()

    told = call(LIMITS, customer.bearer).json

    assert told["concurrency"] == {"limit": 3, "running": 0}
    assert told["credits"]["balance"] == 13
    assert told["credits"]["next_expiry"].endswith("Z")
    assert told["spend_cap"] == {"cap_minor": 500, "spent_minor": 5, "currency": "USD"}
    assert told["quotas"]["rows"]["remaining"] is None


def test_limits_of_a_test_key_are_those_of_the_day(call, on_sale):
    customer = make_customer(terms(limit=10, test_quota=7))
    _, secret = traffic.make_key(customer.account, "test")

    told = call(LIMITS, {"X-API-Key": secret}).json

    assert told["mode"] == "test"
    assert told["quotas"]["calls"]["remaining"] == 7
    assert told["period"]["end"].endswith("T00:00:00Z")


def test_limits_are_refused_where_a_call_would_be(call, customer):
    assert_refused(call(LIMITS), "missing_key")
    assert_refused(call(LIMITS, customer.bearer, method="POST", body=b"x"), "method_not_allowed")
    assert_refused(call("/gateway/nothing/.limits", customer.bearer), "unknown_api")

    restrict(customer.key, allowed_networks=["10.0.0.0/8"])
    assert_refused(call(LIMITS, customer.bearer), "ip_not_allowed")

    with committed():
        entitlements.suspend(customer.account.pk, NOW)
    assert_refused(call(LIMITS, customer.bearer), "account_suspended")


def test_an_api_outside_the_plan_is_refused(call, on_sale):
    customer = make_customer(replace(terms(), apis=("other", "demo2")))
    assert_refused(call(ECHO, customer.bearer), "api_not_in_plan")
    assert_refused(call(LIMITS, customer.bearer), "api_not_in_plan")

    entitle(customer.account, replace(terms(), apis=("other", "demo")))

    assert call(ECHO, customer.bearer).status == 200


def test_an_operation_with_a_scope_is_for_those_who_have_it(call, on_sale):
    on_sale.operations.filter(path_template="/echo/{what}").update(scope="history")
    traffic.publish_routes()
    customer = make_customer(replace(terms(limit=10), scopes=("archive", "historyless")))

    refused = call(ECHO, customer.bearer)

    assert_refused(refused, "operation_not_allowed")
    assert "“history”" in refused.json["detail"]
    assert "/pricing#add-ons" in refused.json["detail"]
    assert call(LIMITS, customer.bearer).json["quotas"]["calls"]["used"] == 0
    assert call("/gateway/demo/status/204", customer.bearer).status == 204

    entitle(customer.account, replace(terms(limit=10), scopes=("archive", "history")))

    assert call(ECHO, customer.bearer).status == 200


# ------------------------------------------------------------------ concurrency


@pytest.fixture(scope="module")
def running():
    with traffic.gateway(processes=2) as running:
        yield running


@pytest.fixture
def port(running, redis_clean) -> int:
    return running.port


def test_as_many_calls_run_at_once_as_the_plan_allows_and_no_more(port, on_sale, redis_clean):
    on_sale.operations.create(method="GET", path_template="/events")
    traffic.publish_routes()
    customer = make_customer(replace(terms(), concurrency=5))
    statuses = []

    def work() -> None:
        statuses.append(
            ask(port, "GET", "/gateway/demo/events?n=1&pause=1", customer.bearer).status
        )

    workers = [threading.Thread(target=work) for _ in range(24)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert (statuses.count(200), statuses.count(429)) == (5, 19)
    traffic.entries()
    assert not redis_clean.exists(records.running_name(0, customer.account.pk))
    refused = ask(port, "GET", ECHO, customer.bearer)
    assert refused.status == 200


def test_a_client_at_its_concurrency_is_told_to_wait_a_second(port, on_sale):
    on_sale.operations.create(method="GET", path_template="/never")
    traffic.publish_routes()
    customer = make_customer(replace(terms(), concurrency=1))
    with connect(port) as client:
        client.sendall(traffic.request_bytes("GET", "/gateway/demo/never", customer.bearer))
        eventually(lambda: records.connection().hlen(records.open_name(0)) == 1)

        refused = ask(port, "GET", ECHO, customer.bearer)

        assert_refused(refused, "concurrency_limited")
        assert refused["retry-after"] == "1"
    # The client has left: its call ends, and makes room.
    eventually(lambda: ask(port, "GET", ECHO, customer.bearer).status == 200)


def test_ghosts_of_a_dead_gateway_leave_with_their_deadline(port, on_sale, redis_clean):
    on_sale.operations.create(method="GET", path_template="/never")
    traffic.publish_routes()
    customer = make_customer(replace(terms(), concurrency=1))
    name = records.running_name(0, customer.account.pk)
    with traffic.gateway() as doomed, connect(doomed.port) as client:
        client.sendall(traffic.request_bytes("GET", "/gateway/demo/never", customer.bearer))
        eventually(lambda: redis_clean.hlen(records.open_name(0)) == 1)
        doomed.processes[0].kill()
    assert_refused(ask(port, "GET", ECHO, customer.bearer), "concurrency_limited")

    # Its deadline passes: the next call goes through, swept or not.
    ((ghost, _),) = redis_clean.zrange(name, 0, -1, withscores=True)
    redis_clean.zadd(name, {ghost: time.time() * 1000 - 1})
    assert ask(port, "GET", ECHO, customer.bearer).status == 200

    eventually(lambda: redis_clean.hlen(records.open_name(0)) == 1)
    assert sweep.sweep(redis_clean, 0, int(time.time() * 1000) + 10_000_000) == 1
    assert redis_clean.zcard(name) == 0
