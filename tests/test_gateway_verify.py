"""A seller's own server asks `.verify`: decided and charged as a forwarded call would be."""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from gateway import verify
from keys import records, tokens
from keys.entitlements import MeterTerms
from tests import traffic
from tests.doors import assert_refused
from tests.test_key_restrictions import restrict
from tests.traffic import Answer, ask, make_customer, terms

pytestmark = pytest.mark.django_db

TOKEN = "kst_" + "a1B2c3D4" * 5


def publish_token(**fields) -> None:
    given = {
        "rev": 1, "id": "1", "account": "", "state": "active", "scopes": "read,verify",
        "expires_ms": "",
    }  # fmt: skip
    name = records.token_name(0, tokens.digest(TOKEN))
    records.connection().delete(name)
    records.connection().hset(name, mapping=given | fields)


@pytest.fixture
def question(call, on_sale):
    """Asks as the seller's server does, at either door."""
    publish_token()

    def question(body=None, *, verb="POST", token=TOKEN, raw=b"", **asked):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        data = raw or json.dumps(asked if body is None else body).encode()
        return call("/gateway/.verify", headers, method=verb, body=data)

    return question


@pytest.fixture
def customer(on_sale):
    return make_customer(terms(limit=3, rate=50, burst=50))


def test_a_good_key_is_valid_charged_and_in_the_stream_as_a_billable_call(question, customer):
    answer = question(key=customer.secret, method="GET", path="/echo/a?x=1")

    assert answer.status == 200
    decision = answer.json
    assert decision["valid"] is True
    assert (decision["code"], decision["detail"]) == ("", "")
    assert decision["account"] == str(customer.account.pk)
    assert decision["key"] == str(customer.key.pk)
    assert (decision["plan"], decision["mode"]) == ("Pro", "live")
    assert decision["limits"]["quotas"]["calls"]["remaining"] == 2
    assert decision["retry_after_seconds"] is None
    (entry,) = traffic.entries()
    assert entry["id"] == decision["event"]
    assert (entry["operation"], entry["api"]) == ("GET /echo/{what}", "demo")
    assert (entry["outcome"], entry["status"], entry["billable"]) == ("completed", 200, True)
    assert traffic.used(customer) == 1


def test_a_quota_is_exact_over_two_processes(customer):
    publish_token()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    body = json.dumps({"key": customer.secret}).encode()
    with traffic.gateway(processes=2) as running, ThreadPoolExecutor(64) as pool:

        def question(_) -> Answer:
            return ask(running.port, "POST", "/gateway/.verify", headers, body)

        answers = list(pool.map(question, range(128)))

    assert Counter(answer.json["code"] for answer in answers) == {"": 3, "quota_exceeded": 125}
    refused = next(answer.json for answer in answers if not answer.json["valid"])
    assert refused["retry_after_seconds"] > 0
    assert refused["account"] == str(customer.account.pk)
    assert len(traffic.entries()) == 3


def test_the_caller_may_say_what_it_costs(question, on_sale):
    tokens_terms = MeterTerms(included=10, past="refuse", limit=10)
    customer = make_customer(terms(limit=100, tokens=tokens_terms))
    asked = {"key": customer.secret, "operation": "GET /echo/{what}", "units": {"tokens": 6}}

    assert question(asked).json["valid"] is True
    assert question(asked).json["code"] == "quota_exceeded"
    assert traffic.entries()[0]["units"] == {"calls": 1, "tokens": 6}
    assert traffic.used(customer, "tokens") == 6


def test_a_test_key_is_valid_and_never_billed(question, customer):
    _, secret = traffic.make_key(customer.account, "test")

    assert question(key=secret).json["mode"] == "test"
    assert traffic.entries()[0]["billable"] is False


def test_an_operations_scope_is_asked_for_whatever_the_call_is_said_to_cost(
    question, on_sale, customer
):
    on_sale.operations.filter(path_template="/echo/{what}").update(scope="history")
    traffic.publish_routes()
    asked = {"key": customer.secret, "operation": "GET /echo/{what}", "units": {"calls": 2}}

    answer = question(asked).json

    assert (answer["valid"], answer["code"]) == (False, "operation_not_allowed")
    assert "“history”" in answer["detail"]
    assert traffic.entries() == []


def test_what_is_refused_is_an_answer(question, customer):
    stranger = tokens.draw("live", 0).text

    assert question(key="nonsense").json["code"] == "malformed_key"
    assert question(key=stranger).json["code"] == "unknown_key"
    assert question(key=customer.secret, api="nothing").json["code"] == "unknown_api"
    asked = {"key": customer.secret, "operation": "GET /nothing"}
    assert question(asked).json["code"] == "unknown_operation"
    asked = {"key": customer.secret, "method": "PUT", "path": "/echo/a"}
    assert question(asked).json["code"] == "method_not_allowed"
    assert question(asked).json["valid"] is False
    assert traffic.entries() == []


def test_restrictions_are_judged_by_what_the_caller_says(question, customer):
    restrict(
        customer.key,
        allowed_networks=["192.0.2.0/24"],
        allowed_referrers=["shop.example"],
        allowed_operations=["demo GET /echo/{what}"],
    )
    good = {
        "key": customer.secret,
        "operation": "GET /echo/{what}",
        "address": "192.0.2.9",
        "referrer": "https://shop.example/",
    }

    assert question(good).json["valid"] is True
    assert question(good | {"address": "198.51.100.1"}).json["code"] == "ip_not_allowed"
    assert question(good | {"address": ""}).json["code"] == "ip_not_allowed"
    assert question(good | {"referrer": "https://x.example"}).json["code"] == "referrer_not_allowed"
    del good["operation"]
    assert question(good).json["code"] == "operation_not_allowed"


def test_a_verified_call_runs_for_no_time(question, on_sale):
    customer = make_customer(replace(terms(), concurrency=1))

    for _ in range(3):
        assert question(key=customer.secret).json["valid"] is True
        traffic.entries()


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "revoked"},
        {"scopes": "read,verifying"},
        {"scopes": ""},
        {"expires_ms": int(time.time() * 1000) - 1},
        {"account": "0199a1b2-0000-7000-8000-000000000000"},
    ],
)
def test_a_token_that_may_not_is_refused(question, customer, fields):
    publish_token(**fields)

    answer = question(key=customer.secret)

    assert_refused(answer, "invalid_token")
    assert answer["www-authenticate"].startswith("Bearer")


def test_a_token_ends_at_the_time_that_the_clock_was_moved_to(question, customer):
    publish_token(expires_ms=str(int(time.time() * 1000) + 3_600_000))
    assert question(key=customer.secret).json["valid"] is True

    records.publish_shift(0, 3601)

    assert_refused(question(key=customer.secret), "invalid_token")


@pytest.mark.parametrize("token", ["", "kst_" + "x" * 40, "kst_x", "nothing"])
def test_who_has_no_token_learns_nothing(question, customer, token):
    assert_refused(question(key=customer.secret, token=token), "invalid_token")
    assert_refused(question(key=customer.secret, token=customer.secret), "invalid_token")


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"key": ""},
        {"key": 7},
        {"key": "k" * 201},
        {"key": "k", "api": None},
        {"key": "k", "colour": "red"},
        {"key": "k", "method": "GET"},
        {"key": "k", "path": "/x"},
        {"key": "k", "method": "GET", "path": "x"},
        {"key": "k", "method": "GET", "path": "/x/../y"},
        {"key": "k", "method": "GET", "path": "/x", "operation": "GET /x"},
        {"key": "k", "address": "\ud800"},
        {"key": "k", "referrer": "a\r\nb"},
        {"key": "k", "units": {}},
        {"key": "k", "units": []},
        {"key": "k", "units": {"Calls": 1}},
        {"key": "k", "units": {"calls": True}},
        {"key": "k", "units": {"calls": 1.0}},
        {"key": "k", "units": {"calls": -1}},
        {"key": "k", "units": {"calls": 10**12 + 1}},
        {"key": "k", "units": {f"m{n}": 1 for n in range(9)}},
    ],
)
def test_a_question_is_read_strictly(body):
    with pytest.raises(verify.Invalid):
        verify.parse(json.dumps(body).encode())


@pytest.mark.parametrize("raw", [b"", b"{", b"[" * 10_000, b"\xff", b'{"key": NaN}', b"9" * 9999])
def test_what_is_no_json_is_no_question(raw):
    with pytest.raises(verify.Invalid):
        verify.parse(raw)


def test_a_bad_question_is_a_problem_and_charges_nothing(question, customer):
    assert_refused(question(raw=b"{"), "bad_request")
    assert_refused(question(raw=b" " * (verify.MAX_BODY_BYTES + 1)), "body_too_large")
    refused = question(key=customer.secret, verb="GET")
    assert_refused(refused, "method_not_allowed")
    assert refused["allow"] == "POST"


def test_without_redis_there_is_no_answer(question, customer, redis_clean):
    redis_clean.delete(records.ready_name(0))

    assert_refused(question(key=customer.secret), "limits_unavailable")


def test_a_question_that_does_not_arrive_is_not_waited_for(customer):
    publish_token()
    head = {"Authorization": f"Bearer {TOKEN}", "Content-Length": "100"}

    with traffic.gateway() as running, traffic.connect(running.port) as client:
        client.sendall(traffic.request_bytes("POST", "/.verify", head) + b"{")
        started = time.monotonic()
        answer = traffic.read_answer(client)

    assert (answer.status, answer.code) == (400, "bad_request")
    assert time.monotonic() - started < verify.BODY_SECONDS + 3
    assert traffic.entries() == []
