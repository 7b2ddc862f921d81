"""A key is good only where, for what and as often as its owner allows."""

from __future__ import annotations

import time
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db.models import F

from gateway import intake, ledger, refill
from gateway.restrictions import REMEMBERED, Remembered, Restrictions, Site, allows_origin
from keys import entitlements, publish, records
from keys.models import ApiKey
from tests import traffic
from tests.doors import assert_refused
from tests.traffic import NOW, committed, make_customer, make_key, put_on_sale, terms

pytestmark = pytest.mark.django_db

ECHO = "/gateway/demo/echo/a"


def restrict(key: ApiKey, **fields) -> None:
    ApiKey.objects.filter(pk=key.pk).update(revision=F("revision") + 1, **fields)
    assert publish.key(key.pk, NOW)


# ------------------------------------------------------------------ where from


@pytest.mark.parametrize(
    ("networks", "is_let_through"),
    [
        (["127.0.0.1/32"], True),
        (["10.0.0.0/8", "127.0.0.0/8"], True),
        (["10.0.0.0/8"], False),
        (["::1/128"], False),
        (["::/0"], False),
    ],
)
def test_a_key_works_only_from_its_networks(call, customer, networks, is_let_through):
    restrict(customer.key, allowed_networks=networks)

    answer = call(ECHO, customer.bearer)

    if is_let_through:
        assert answer.status == 200
    else:
        assert_refused(answer, "ip_not_allowed")
        assert traffic.used(customer) == 0


def test_a_claimed_address_is_not_believed(call, customer):
    restrict(customer.key, allowed_networks=["203.0.113.0/24"])

    claims = {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9"}

    assert_refused(call(ECHO, customer.bearer | claims), "ip_not_allowed")


@pytest.mark.parametrize(
    ("fields", "is_let_through"),
    [
        ({"Referer": "https://shop.example/cart?x=1"}, True),
        ({"Origin": "https://shop.example"}, True),
        ({"Origin": "https://shop.example", "Referer": "https://evil.example/"}, False),
        ({"Referer": "https://shop.example.evil.example/"}, False),
        ({}, False),
    ],
)
def test_a_key_works_only_on_its_sites(call, customer, fields, is_let_through):
    restrict(customer.key, allowed_referrers=["shop.example"])

    answer = call(ECHO, customer.bearer | fields)

    if is_let_through:
        assert answer.status == 200
    else:
        assert_refused(answer, "referrer_not_allowed")


@pytest.mark.parametrize(
    ("site", "origin", "fits"),
    [
        ("example.com", "http://example.com", True),
        ("example.com", "https://EXAMPLE.com:8443/page", True),
        ("example.com", "https://example.com./page", True),
        ("example.com", "https://www.example.com", False),
        ("example.com", "https://example.com@evil.example/", False),
        ("example.com", "https://evil.example\\@example.com/", False),
        ("example.com", "https://evil.example/https://example.com", False),
        ("example.com", "null", False),
        ("example.com", "", False),
        ("example.com", "ftp://example.com", False),
        ("*.example.com", "https://a.b.example.com", True),
        ("*.example.com", "https://example.com", False),
        ("*.example.com", "https://badexample.com", False),
        ("https://example.com", "https://example.com/x", True),
        ("https://example.com", "https://example.com:443/x", True),
        ("https://example.com", "http://example.com/x", False),
        ("https://example.com", "https://example.com:8443/", False),
        ("https://example.com:8443", "https://example.com:8443", True),
        ("example.com:3000", "http://example.com:3000", True),
        ("[::1]:3000", "http://[::1]:3000/", True),
    ],
)
def test_what_a_site_matches(site, origin, fits):
    assert allows_origin((Site(site),), origin.encode()) is fits


# ------------------------------------------------------------------ what for


def test_a_key_calls_only_its_operations(call, customer):
    restrict(customer.key, allowed_operations=["demo GET /echo/{what}", "other POST /echo"])

    assert call(ECHO, customer.bearer).status == 200
    refused = call("/gateway/demo/echo", customer.bearer, method="POST", body=b"x")
    assert_refused(refused, "operation_not_allowed")
    assert_refused(call("/gateway/demo/nowhere", customer.bearer), "unknown_operation")


def test_a_reading_key_does_not_write(call, customer):
    restrict(customer.key, read_only=True)

    assert call(ECHO, customer.bearer).status == 200
    assert call(ECHO, customer.bearer, method="HEAD").status == 200
    refused = call("/gateway/demo/echo", customer.bearer, method="POST", body=b"x")
    assert_refused(refused, "operation_not_allowed")
    assert "read" in refused.json["detail"]


def test_changed_restrictions_hold_on_the_next_call(call, customer):
    for networks, status in (
        (["127.0.0.0/8"], 200),
        (["10.0.0.0/8"], 403),
        (["127.0.0.1/32"], 200),
        ([], 200),
        (["10.0.0.0/8"], 403),
        ([], 200),
    ):
        restrict(customer.key, allowed_networks=networks)
        assert call(ECHO, customer.bearer).status == status


def test_what_ends_a_key_is_said_before_its_restrictions(call, customer):
    restrict(customer.key, allowed_networks=["10.0.0.0/8"])
    assert_refused(call(ECHO, customer.bearer), "ip_not_allowed")

    with committed():
        entitlements.suspend(customer.account.pk, NOW)

    assert_refused(call(ECHO, customer.bearer), "account_suspended")


def test_a_refusal_by_restriction_costs_nothing_and_is_counted(call, on_sale, redis_clean):
    customer = make_customer(terms(rate=1, burst=1, limit=1))
    restrict(customer.key, allowed_networks=["10.0.0.0/8"])

    for _ in range(3):
        assert_refused(call(ECHO, customer.bearer), "ip_not_allowed")
    restrict(customer.key, allowed_networks=[])

    assert call(ECHO, customer.bearer).status == 200
    counted = redis_clean.hgetall(records.refused_name(0))
    assert {(name.split(b"|")[2], int(count)) for name, count in counted.items()} == {
        (b"ip_not_allowed", 3)
    }


def test_an_address_behind_an_ipv6_socket_is_the_ipv4_one():
    restrictions = Restrictions(b"1", b'{"networks":["192.0.2.0/24"]}')
    asked = intake.Call()

    for client, is_let_through in (
        (b"::ffff:192.0.2.7", True), (b"192.0.2.7", True), (b"::1", False), (b"unknown", False),
    ):  # fmt: skip
        asked.client = client
        assert (restrictions.judge(asked, None) is None) is is_let_through


def test_restrictions_that_cannot_be_read_let_nobody_through(call, customer):
    restrict(customer.key, allowed_networks=["everywhere"])

    assert_refused(call(ECHO, customer.bearer), "limits_unavailable")
    assert_refused(call("/gateway/demo/.limits", customer.bearer), "limits_unavailable")


def test_what_a_process_remembers_is_bounded():
    remembered = Remembered()
    for number in range(REMEMBERED + 10):
        remembered.put(str(number), Restrictions(b"1", b"{}"))
        remembered.get("0")

    assert remembered.get("0") is not None
    assert remembered.get("1") is None
    assert remembered.get(str(REMEMBERED + 9)) is not None


# ------------------------------------------------------------------ as often


def test_a_key_with_a_rate_below_one_a_second_is_told_the_truth(call, customer):
    restrict(customer.key, rate_per_second=Decimal("0.1"), burst=2)

    answers = [call(ECHO, customer.bearer) for _ in range(3)]

    assert [answer.status for answer in answers] == [200, 200, 429]
    assert_refused(answers[2], "rate_limited")
    assert answers[0]["ratelimit-policy"].startswith('"burst";q=2;w=20')
    assert int(answers[2]["retry-after"]) in (9, 10)
    assert answers[1]["x-ratelimit-reset"] == answers[2]["retry-after"]


def test_a_keys_own_rate_leaves_the_accounts_other_keys_alone(call, customer):
    restrict(customer.key, rate_per_second=Decimal(1), burst=None)
    _, other = make_key(customer.account)

    assert [call(ECHO, customer.bearer).status for _ in range(2)] == [200, 429]
    assert call(ECHO, {"X-API-Key": other}).status == 200


def test_a_key_stops_at_its_own_quota_and_the_account_goes_on(call, customer):
    restrict(customer.key, monthly_quota=2)
    _, other = make_key(customer.account)

    answers = [call(ECHO, customer.bearer) for _ in range(3)]

    assert [answer.status for answer in answers] == [200, 200, 429]
    assert_refused(answers[2], "quota_exceeded")
    assert answers[0]["keystile-quota-remaining"] == "1"
    assert answers[0]["x-ratelimit-limit"] == "2"
    until_period_ends = (NOW + timedelta(days=29)).timestamp() - time.time()
    assert abs(int(answers[2]["retry-after"]) - until_period_ends) < 5
    assert call(ECHO, {"X-API-Key": other}).status == 200
    assert traffic.used(customer) == 3


def test_what_is_not_billed_comes_back_to_the_keys_quota_too(call, customer):
    restrict(customer.key, monthly_quota=1)

    for _ in range(3):
        assert call("/gateway/demo/status/500", customer.bearer).status == 500
        traffic.entries()

    assert call(ECHO, customer.bearer).status == 200
    assert_refused(call(ECHO, customer.bearer), "quota_exceeded")


def test_the_quota_that_is_met_first_is_the_one_of_the_headers(call, redis_clean, backend):
    put_on_sale(backend.url, {"GET /echo": {"weights": {"calls": 1, "rows": 40}}})
    rows = entitlements.MeterTerms(included=100, past="refuse", limit=100)
    customer = make_customer(terms(limit=50, rows=rows))

    answer = call("/gateway/demo/echo", customer.bearer)

    # 49 calls are left and 60 rows, which are one call.
    assert answer["x-ratelimit-limit"] == "100"
    assert answer["x-ratelimit-remaining"] == "60"


def test_a_keys_quota_comes_back_with_a_refilled_redis(redis_clean, backend, call, customer):
    restrict(customer.key, monthly_quota=3)
    assert [call(ECHO, customer.bearer).status for _ in range(2)] == [200, 200]
    traffic.entries()
    ledger.drain(0, lambda: NOW)
    redis_clean.flushdb()

    refill.refill(0, NOW)

    assert [call(ECHO, customer.bearer).status for _ in range(2)] == [200, 429]
