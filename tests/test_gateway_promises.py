"""What headers promise is what the next call meets. Time passes by moving what is stored."""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import admit, settle
from gateway.settle import abandoned, arguments, corrections
from keys import records
from keys.entitlements import MeterTerms
from tests import traffic
from tests.test_gateway_limits import call_from_many
from tests.test_key_restrictions import restrict
from tests.traffic import NOW, Customer, entitle, make_customer, put_on_sale, terms

pytestmark = pytest.mark.django_db

many = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@dataclass
class Said:
    """What the admitting script answered, as headers tell it."""

    code: str
    wait_s: int
    left: int
    reset_s: int
    quota: int | None
    quota_left: int | None
    quota_reset_s: int
    quota_is_first: bool


class Caller:
    """A customer at the real script, whose time can be moved on."""

    def __init__(self, connection: redis.Redis, customer: Customer):
        self.redis = connection
        self.customer = customer
        self._script = connection.register_script(admit.SCRIPT.text)
        self._account = records.account_name(0, customer.account.pk)

    def forget(self) -> None:
        for name in [*self.redis.scan_iter("gcra:*"), *self.redis.scan_iter("used:*")]:
            self.redis.delete(name)

    def call(self, **units: int) -> Said:
        version = self.redis.hget(records.routes_name(0), "version")
        said = [records.tag(0), str(uuid.uuid4()), version, "", "demo", "other", 1000, 10**6]
        charged = [part for pair in ({"calls": 1} | units).items() for part in pair]
        key = records.key_name(0, self.customer.key.digest)
        reply = self._script(keys=[key], args=[*said, "", 0, "{}", "", "", *charged])
        code, wait_s, *_ = reply
        left, reset_s, quota, quota_left, _, quota_reset_s, first = reply[8:]
        return Said(
            code.decode(), wait_s, left, reset_s, quota, quota_left, quota_reset_s, first == 1
        )

    def pass_time(self, seconds: float) -> None:
        for name in self.redis.scan_iter("gcra:*"):
            self.redis.set(name, int(self.redis.get(name)) - int(seconds * 1_000_000))
        for name in self.redis.scan_iter("used:*"):
            *before, start, meter = name.decode().split(":")
            moved_name = ":".join([*before, str(int(start) - round(seconds)), meter])
            self.redis.rename(name, moved_name)
        periods = self.redis.hget(self._account, "periods").decode()
        moved = [int(boundary) - round(seconds) for boundary in periods.split(",")]
        self.redis.hset(self._account, "periods", ",".join(map(str, moved)))


@pytest.fixture
def caller(redis_clean) -> Caller:
    put_on_sale("http://127.0.0.1:9")
    return Caller(redis_clean, make_customer())


rates = st.sampled_from(["0.05", "0.1", "0.3", "0.5", "1", "1.7", "3", "7"]).map(Decimal)


@many
@given(st.integers(1, 3), st.integers(1, 4), rates, st.integers(1, 4))
def test_who_waits_as_long_as_told_is_let_through_and_nobody_sooner(
    caller, rate, burst, key_rate, key_burst
):
    entitle(caller.customer.account, terms(rate=rate, burst=burst))
    restrict(caller.customer.key, rate_per_second=key_rate, burst=key_burst)
    caller.forget()

    calls = [caller.call() for _ in range(min(burst, key_burst))]
    refused = caller.call()

    assert {said.code for said in calls} == {""}
    assert [said.left for said in calls] == list(range(len(calls)))[::-1]
    assert (refused.code, refused.left) == ("rate_limited", 0)
    assert calls[-1].reset_s == refused.reset_s == refused.wait_s
    if refused.wait_s > 1:
        caller.pass_time(refused.wait_s - 1.1)
        assert caller.call().code == "rate_limited"
        caller.pass_time(1.1)
    else:
        caller.pass_time(refused.wait_s)
    assert caller.call().code == ""


@many
@given(
    st.integers(1, 30), st.integers(1, 30), st.integers(1, 5), st.integers(1, 5), st.integers(1, 9)
)
def test_the_next_call_meets_what_the_last_one_was_told(caller, calls, rows, weight, cost, burst):
    granted = terms(
        rate=1,
        burst=burst,
        calls=MeterTerms(calls, "refuse", calls),
        rows=MeterTerms(rows, "refuse", rows),
    )
    entitle(caller.customer.account, granted)
    restrict(caller.customer.key, rate_per_second=None, burst=None)
    caller.forget()
    units = {"calls": weight, "rows": cost}

    said = caller.call(**units)
    while said.code == "":
        told, said = said, caller.call(**units)
        assert told.quota is not None
        cost_of_told = cost if told.quota == rows and rows != calls else weight
        if said.code == "":
            assert told.left > 0
            assert told.quota_left >= min(weight, cost)
        elif said.code == "quota_exceeded":
            assert told.quota_is_first
            assert told.quota_left < max(cost_of_told, weight, cost)
            assert abs(said.wait_s - told.quota_reset_s) <= 1
        else:
            assert (said.code, told.left, told.quota_is_first) == ("rate_limited", 0, False)

    assert said.code in ("quota_exceeded", "rate_limited")


def test_a_new_period_starts_when_retry_after_says(caller):
    entitle(caller.customer.account, terms(limit=1))
    assert caller.call().code == ""
    refused = caller.call()
    assert refused.code == "quota_exceeded"

    caller.pass_time(refused.wait_s - 5)
    soon = caller.call()
    caller.pass_time(soon.wait_s)

    assert soon.code == "quota_exceeded"
    assert 0 < soon.wait_s <= 5
    assert caller.call().code == ""


def test_a_keys_own_quota_is_exact_over_two_processes(redis_clean, backend):
    put_on_sale(backend.url)
    customer = make_customer(terms(limit=1000))
    restrict(customer.key, monthly_quota=150)
    with traffic.gateway(processes=2) as running:
        statuses = call_from_many(
            running.port, customer, "/gateway/demo/echo", calls=300, connections=64
        )
        failed = call_from_many(running.port, customer, "/gateway/demo/status/500", calls=20)

    assert statuses == {200: 150, 429: 150}
    assert failed == {429: 20}
    assert traffic.used(customer) == 150
    name = records.used_name(0, customer.key.pk, "live", NOW - traffic.timedelta(days=1), "calls")
    assert int(redis_clean.get(name)) == 150


def test_a_refund_gives_a_unit_back_once_however_often_it_is_repeated(caller):
    script = caller.redis.register_script(settle.SCRIPT.text)
    restrict(caller.customer.key, monthly_quota=5)
    caller.call()
    caller.call()
    first, _ = caller.redis.hkeys(records.open_name(0))
    refund = arguments(first.decode(), 0, abandoned(0), corrections({"calls": 1}, {}))

    answers = [script(keys=refund[1:3], args=refund[3:]) for _ in range(5)]

    assert Counter(answers) == {1: 1, 0: 4}
    assert traffic.used(caller.customer) == 1
    counters = [int(caller.redis.get(name)) for name in caller.redis.scan_iter("used:*")]
    assert counters == [1, 1]
