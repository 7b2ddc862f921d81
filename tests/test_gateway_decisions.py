"""Who may call what, and what a refused caller is told: the same through both doors."""

from __future__ import annotations

import json
import re
import time
from datetime import timedelta

import pytest
from django.conf import settings

from keys import entitlements, issuance, records, tokens
from keys.entitlements import MeterTerms
from tests import traffic
from tests.doors import assert_refused
from tests.traffic import (
    NOW,
    committed,
    entitle,
    make_customer,
    put_on_sale,
    terms,
)

pytestmark = pytest.mark.django_db


def test_a_good_key_is_let_through(call, customer):
    answer = call("/gateway/demo/echo/a", customer.bearer)

    assert answer.status == 200
    assert answer["keystile-mode"] == "live"
    (entry,) = traffic.entries()
    assert entry["id"] == answer["keystile-event"]
    assert entry["operation"] == "GET /echo/{what}"
    assert entry["billable"] is True
    assert entry["units"] == {"calls": 1}
    assert entry["out"] == len(answer.body)


def test_the_key_may_come_in_its_own_field(call, customer):
    answer = call("/gateway/demo/echo/a", {"X-API-Key": customer.secret})

    assert answer.status == 200


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "missing_key"),
        ({"Authorization": "Basic dXNlcjpwdw=="}, "missing_key"),
        ({"Authorization": "Bearer nonsense"}, "malformed_key"),
        ({"X-API-Key": ""}, "malformed_key"),
        ({"X-API-Key": "ks_live_00" + "a" * 46}, "malformed_key"),
    ],
)
def test_without_a_well_formed_key_nothing_is_asked(call, on_sale, redis_clean, fields, code):
    redis_clean.flushdb()  # a look-up would now say limits_unavailable

    assert_refused(call("/gateway/demo/echo/a", fields), code)


def test_a_key_with_one_wrong_character_is_malformed(call, customer):
    mistyped = customer.secret[:-10] + ("x" if customer.secret[-10] != "x" else "y")
    mistyped += customer.secret[-9:]

    assert_refused(call("/gateway/demo/echo/a", {"X-API-Key": mistyped}), "malformed_key")


@pytest.mark.parametrize("partition", [0, 7])
def test_a_key_that_nobody_has_is_unknown(call, on_sale, partition):
    stranger = tokens.draw("live", partition).text

    assert_refused(call("/gateway/demo/echo/a", {"X-API-Key": stranger}), "unknown_key")


def test_401_says_how_to_authenticate(call, on_sale):
    assert call("/gateway/demo/echo/a")["www-authenticate"].startswith("Bearer")


def test_a_revoked_key_stops_on_the_next_call(call, customer):
    assert call("/gateway/demo/echo/a", customer.bearer).status == 200

    with committed():
        issuance.revoke(customer.key.pk, customer.account, actor=None, address=None, now=NOW)

    assert_refused(call("/gateway/demo/echo/a", customer.bearer), "revoked_key")


def test_a_rotated_key_ends_when_its_overlap_is_over(call, customer):
    now = NOW - timedelta(hours=2)
    with committed():
        issuance.rotate(
            customer.key.pk, customer.account, overlap=timedelta(hours=1),
            actor=None, address=None, now=now,
        )  # fmt: skip

    assert_refused(call("/gateway/demo/echo/a", customer.bearer), "expired_key")


def test_a_suspended_account_stops_on_the_next_call_and_may_come_back(call, customer):
    with committed():
        entitlements.suspend(customer.account.pk, NOW)
    assert_refused(call("/gateway/demo/echo/a", customer.bearer), "account_suspended")

    with committed():
        entitlements.lift(customer.account.pk, NOW)
    assert call("/gateway/demo/echo/a", customer.bearer).status == 200


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"state": "payment_required"}, "payment_required"),
        ({"state": "ended"}, "subscription_ended"),
        ({"ends_at": NOW - timedelta(seconds=1)}, "subscription_ended"),
    ],
)
def test_an_account_that_does_not_pay_is_told_so(call, customer, changes, code):
    entitle(customer.account, terms(), **changes)

    assert_refused(call("/gateway/demo/echo/a", customer.bearer), code)


def test_an_end_in_the_future_changes_nothing_yet(call, customer):
    entitle(customer.account, terms(), ends_at=NOW + timedelta(hours=1))

    assert call("/gateway/demo/echo/a", customer.bearer).status == 200


def test_what_is_not_on_sale_is_not_found(call, customer):
    assert_refused(call("/gateway/nothing/echo/a", customer.bearer), "unknown_api")
    assert_refused(call("/gateway/demo/elsewhere", customer.bearer), "unknown_operation")
    assert_refused(call("/gateway/demo/echo/a/b", customer.bearer), "unknown_operation")


def test_a_stranger_does_not_learn_what_is_on_sale(call, on_sale):
    stranger = {"X-API-Key": tokens.draw("live", 0).text}

    assert_refused(call("/gateway/nothing/echo/a", stranger), "unknown_key")


def test_another_method_is_told_which_are_allowed(call, customer):
    answer = call("/gateway/demo/echo/a", customer.bearer, method="POST", body=b"x")

    assert_refused(answer, "method_not_allowed")
    assert answer["allow"] == "GET, HEAD"


def test_a_body_that_is_announced_too_large_is_refused_at_once(call, customer):
    answer = call("/gateway/demo/echo", customer.bearer, method="POST", body=b"x" * 1001)

    assert_refused(answer, "body_too_large")
    assert traffic.used(customer) == 0


def test_a_body_at_the_limit_goes_through(call, customer):
    answer = call("/gateway/demo/echo", customer.bearer, method="POST", body=b"x" * 1000)

    assert answer.json["body"] == "x" * 1000


def test_quota_and_what_is_left_of_it(call, on_sale):
    customer = make_customer(terms(limit=2, rate=50, burst=7))

    first, second, third = (call("/gateway/demo/echo/a", customer.bearer) for _ in range(3))

    assert [first.status, second.status] == [200, 200]
    assert first["keystile-quota-remaining"] == "1"
    policy = r'"burst";q=7;w=1, "quota";q=2;w=2592000'
    assert first["ratelimit-policy"] == policy
    assert re.fullmatch(r'"burst";r=6;t=1, "quota";r=1;t=\d+', first["ratelimit"])
    # The quota ends before the burst does, so the older fields speak of it.
    assert (first["x-ratelimit-limit"], first["x-ratelimit-remaining"]) == ("2", "1")
    assert second["x-ratelimit-remaining"] == "0"
    assert_refused(third, "quota_exceeded")
    assert third.json["upgrade"] == f"{settings.SITE_URL}/pricing"
    until_period_ends = (NOW + timedelta(days=29)).timestamp() - time.time()
    assert abs(int(third["retry-after"]) - until_period_ends) < 5


def test_past_what_is_included_a_billing_meter_goes_on(call, on_sale):
    included = MeterTerms(included=1, past="bill", limit=None)
    customer = make_customer(terms(calls=included))

    answers = [call("/gateway/demo/echo/a", customer.bearer) for _ in range(3)]

    assert [answer.status for answer in answers] == [200, 200, 200]
    assert [answer["keystile-quota-remaining"] for answer in answers] == ["0", "0", "0"]
    assert "quota" not in answers[0]["ratelimit"]


def test_a_rate_limited_client_is_told_when_to_come_back(call, on_sale):
    customer = make_customer(terms(rate=1, burst=2))

    answers = [call("/gateway/demo/echo/a", customer.bearer) for _ in range(3)]

    assert [answer.status for answer in answers] == [200, 200, 429]
    assert_refused(answers[2], "rate_limited")
    assert answers[2]["retry-after"] == "1"
    assert answers[2]["x-ratelimit-remaining"] == "0"
    time.sleep(1.05)
    assert call("/gateway/demo/echo/a", customer.bearer).status == 200


def test_a_refused_call_takes_nothing_from_what_is_left(call, on_sale):
    slow = make_customer(terms(rate=1, burst=1, limit=5))
    done = make_customer(terms(rate=50, burst=7, limit=1))

    for customer in (slow, done):
        call("/gateway/demo/echo/a", customer.bearer)
    limited = call("/gateway/demo/echo/a", slow.bearer)
    time.sleep(0.05)
    exhausted = call("/gateway/demo/echo/a", done.bearer)

    assert_refused(limited, "rate_limited")
    assert limited["keystile-quota-remaining"] == "4"
    assert re.fullmatch(r'"burst";r=0;t=1, "quota";r=4;t=\d+', limited["ratelimit"])
    assert_refused(exhausted, "quota_exceeded")
    assert exhausted["keystile-quota-remaining"] == "0"
    assert re.fullmatch(r'"burst";r=7;t=0, "quota";r=0;t=\d+', exhausted["ratelimit"])


def test_what_is_left_is_too_little_for_a_heavy_call_and_is_told(call, redis_clean, backend):
    put_on_sale(backend.url, {"GET /echo": {"weights": {"calls": 3}}})
    customer = make_customer(terms(limit=5))

    call("/gateway/demo/echo", customer.bearer)
    refused = call("/gateway/demo/echo", customer.bearer)

    assert_refused(refused, "quota_exceeded")
    assert refused["keystile-quota-remaining"] == "2"


def test_a_key_with_a_rate_of_its_own_meets_the_narrower_one(call, on_sale, redis_clean):
    customer = make_customer(terms(rate=50, burst=7))
    name = records.key_name(0, customer.key.digest)
    redis_clean.hset(
        name, mapping={"own": 1, "rate": 1, "burst": 2, "restrictions": "", "quota": ""}
    )

    answers = [call("/gateway/demo/echo/a", customer.bearer) for _ in range(3)]

    assert [answer.status for answer in answers] == [200, 200, 429]
    assert [answer["x-ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
    assert {answer["x-ratelimit-limit"] for answer in answers} == {"2"}


def test_a_rate_above_the_clocks_step_is_a_limit_like_any_other(call, on_sale):
    fast = make_customer(terms(rate=5_000_000, burst=2_000_000))

    answer = call("/gateway/demo/echo/a", fast.bearer)

    assert answer.status == 200
    assert 1_999_990 <= int(answer["x-ratelimit-remaining"]) < 2_000_000


def test_a_changed_limit_holds_on_the_next_call(call, on_sale):
    customer = make_customer(terms(limit=1))
    assert call("/gateway/demo/echo/a", customer.bearer).status == 200
    assert_refused(call("/gateway/demo/echo/a", customer.bearer), "quota_exceeded")

    entitle(customer.account, terms(limit=2))

    assert call("/gateway/demo/echo/a", customer.bearer).status == 200
    assert_refused(call("/gateway/demo/echo/a", customer.bearer), "quota_exceeded")


def test_test_keys_have_a_small_quota_of_their_own_and_are_not_billed(call, on_sale):
    customer = make_customer(terms(limit=1000, test_quota=2))
    _, test_secret = traffic.make_key(customer.account, "test")
    test_key = {"X-API-Key": test_secret}

    answers = [call("/gateway/demo/echo/a", test_key) for _ in range(3)]

    assert [answer.status for answer in answers] == [200, 200, 429]
    assert answers[0]["keystile-mode"] == "test"
    assert int(answers[2]["retry-after"]) <= 86400
    assert [entry["billable"] for entry in traffic.entries()] == [False, False]
    assert traffic.used(customer, mode="test") == 2
    assert call("/gateway/demo/echo/a", customer.bearer).status == 200


def test_refusals_are_counted_and_cost_nothing(call, on_sale, redis_clean):
    customer = make_customer(terms(limit=1))

    for _ in range(3):
        call("/gateway/demo/echo/a", customer.bearer)
    call("/gateway/demo/elsewhere", customer.bearer)

    counted = {}
    for name, count in redis_clean.hgetall(records.refused_name(0)).items():
        account, key, code, _minute = name.decode().split("|")
        assert (account, key) == (str(customer.account.pk), str(customer.key.pk))
        counted[code] = counted.get(code, 0) + int(count)
    assert counted == {"quota_exceeded": 2, "unknown_operation": 1}
    latest = redis_clean.lrange(records.refusals_name(0, customer.account.pk), 0, -1)
    newest, older = json.loads(latest[0]), json.loads(latest[1])
    assert (newest["code"], newest["status"], newest["api"]) == ("unknown_operation", 404, "demo")
    assert (older["code"], older["status"]) == ("quota_exceeded", 429)
    assert older["op"] == "GET /echo/{what}"
    assert abs(newest["at_ms"] - time.time() * 1000) < 60_000
    assert len(traffic.entries()) == 1


def test_strangers_leave_nothing_in_redis(call, on_sale, redis_clean):
    before = set(redis_clean.scan_iter())

    for _ in range(5):
        call("/gateway/demo/echo/a", {"X-API-Key": tokens.draw("live", 0).text})

    assert set(redis_clean.scan_iter()) == before


@pytest.mark.parametrize(
    ("status", "is_billed"),
    [(200, True), (204, True), (301, True), (404, True), (408, False), (429, False),
     (500, False), (503, False)],
)  # fmt: skip
def test_what_the_backend_answers_decides_what_is_billed(call, customer, status, is_billed):
    answer = call(f"/gateway/demo/status/{status}", customer.bearer)

    assert answer.status == status
    (entry,) = traffic.entries()
    assert (entry["status"], entry["billable"]) == (status, is_billed)
    assert traffic.used(customer) == int(is_billed)


def test_a_backend_that_is_away_is_not_billed(call, redis_clean):
    put_on_sale("http://127.0.0.1:9")
    customer = make_customer(terms(limit=5))

    answer = call("/gateway/demo/anything", customer.bearer)

    assert_refused(answer, "upstream_unreachable")
    assert answer["keystile-event"]
    (entry,) = traffic.entries()
    assert (entry["status"], entry["code"]) == (502, "upstream_unreachable")
    assert entry["billable"] is False
    assert traffic.used(customer) == 0


def test_a_backend_on_a_private_address_is_refused_unless_allowed(call, backend):
    put_on_sale(backend.url, allow_private_upstream=False)
    customer = make_customer()

    answer = call("/gateway/demo/echo", customer.bearer)

    assert_refused(answer, "upstream_unreachable")
    assert not [r for r in backend.requests if r.values("keystile-key") == [str(customer.key.pk)]]


def test_an_empty_redis_admits_nobody_and_calls_nobody_unknown(call, customer, redis_clean):
    redis_clean.delete(records.ready_name(0))

    answer = call("/gateway/demo/echo/a", customer.bearer)

    assert_refused(answer, "limits_unavailable")
    assert answer["retry-after"] == "1"
