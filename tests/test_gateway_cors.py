"""Pages of the origins that an API allows may call it; nobody else's read an answer."""

from __future__ import annotations

import pytest
from django.urls import reverse

from gateway import cors
from gateway.models import Api
from tests import traffic
from tests.doors import assert_refused
from tests.test_admin import desk, staff  # noqa: F401
from tests.test_key_restrictions import ECHO, restrict
from tests.traffic import make_customer, put_on_sale

pytestmark = pytest.mark.django_db

PAGE = "https://app.example"


@pytest.fixture
def on_sale(redis_clean, backend) -> Api:
    return put_on_sale(
        backend.url, {"GET /echo/{what}": {}}, cors_origins=[PAGE, "https://*.shop.example"]
    )


@pytest.fixture
def customer(on_sale):
    return make_customer()


def asked_ahead(call, origin=PAGE, target=ECHO, **fields):
    given = {
        "Origin": origin,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization,x-thing",
    }
    return call(target, given | fields, method="OPTIONS")


@pytest.mark.parametrize("origin", [PAGE, "https://a.shop.example"])
def test_a_preflight_is_answered_without_a_key(call, on_sale, origin):
    answer = asked_ahead(call, origin)

    assert answer.status == 204
    assert answer["access-control-allow-origin"] == origin
    assert answer["access-control-allow-methods"] == "GET"
    assert answer["access-control-allow-headers"] == "authorization,x-thing"
    assert "Origin" in answer["vary"]
    assert traffic.entries() == []


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://app.example", "https://app.example.evil", "null"]
)
def test_a_preflight_of_another_page_is_refused(call, on_sale, origin):
    answer = asked_ahead(call, origin)

    assert_refused(answer, "missing_key")
    assert answer["access-control-allow-origin"] == ""


def test_a_preflight_with_a_broken_field_list_is_refused(call, on_sale):
    answer = asked_ahead(call, **{"Access-Control-Request-Headers": "a: b"})

    assert_refused(answer, "missing_key")


def test_an_allowed_page_may_read_answers_and_refusals(call, customer):
    answers = [
        call(ECHO, customer.bearer | {"Origin": PAGE}),
        call("/gateway/demo/nowhere", customer.bearer | {"Origin": PAGE}),
        call(ECHO, {"X-API-Key": "mistyped", "Origin": PAGE}),
        call("/gateway/demo/.limits", customer.bearer | {"Origin": PAGE}),
    ]

    assert [answer.status for answer in answers] == [200, 404, 401, 200]
    for answer in answers:
        assert answer["access-control-allow-origin"] == PAGE
        assert "Keystile-Event" in answer["access-control-expose-headers"]
        assert "Origin" in answer["vary"]


def test_another_page_may_not_read_and_caches_are_told(call, customer):
    answers = [
        call(ECHO, customer.bearer | {"Origin": "https://evil.example"}),
        call(ECHO, customer.bearer),
    ]

    for answer in answers:
        assert answer.status == 200
        assert answer["access-control-allow-origin"] == ""
        assert "Origin" in answer["vary"]


def test_a_key_is_judged_by_its_own_sites_all_the_same(call, customer):
    restrict(customer.key, allowed_referrers=["other.example"])

    refused = call(ECHO, customer.bearer | {"Origin": PAGE})

    assert_refused(refused, "referrer_not_allowed")
    assert refused["access-control-allow-origin"] == PAGE


def test_changed_origins_hold_for_the_next_preflight(call, on_sale):
    assert asked_ahead(call, "https://new.example").status == 401

    Api.objects.filter(pk=on_sale.pk).update(cors_origins=["*"])
    traffic.publish_routes()

    answer = asked_ahead(call, "https://new.example")
    assert answer.status == 204
    assert answer["access-control-allow-origin"] == "*"


def test_an_api_without_origins_leaves_browsers_to_its_backend(call, redis_clean, backend):
    put_on_sale(backend.url, {"GET /echo/{what}": {}, "OPTIONS /echo/{what}": {}})
    customer = make_customer()

    assert_refused(asked_ahead(call), "missing_key")
    answer = asked_ahead(call, **customer.bearer)

    assert answer.status == 200
    assert "Origin" not in answer["vary"]


def test_the_backends_own_fields_are_replaced():
    origins = cors.Origins([PAGE])
    backends = [(b"access-control-allow-origin", b"*"), (b"content-type", b"text/plain")]

    headers = origins.replaced(backends, PAGE.encode())

    assert headers[0] == (b"content-type", b"text/plain")
    assert dict(headers)[b"access-control-allow-origin"] == PAGE.encode()
    assert b"access-control-allow-origin" not in dict(origins.replaced(backends, b""))


@pytest.mark.parametrize("text", ["app.example", "ftp://app.example", "https://", "https://a/b"])
def test_what_is_no_origin_is_refused_with_a_sentence(text):
    with pytest.raises(ValueError, match=r"“.*” is not"):
        cors.parse(text)


def test_staff_say_whose_pages_may_call(desk, on_sale):  # noqa: F811
    page = reverse("admin:gateway_api_change", args=[on_sale.pk])
    form = {
        "name": "Demo", "unlisted": "refuse", "enabled": "on", "upstream_url": on_sale.upstream_url,
        "allow_private_upstream": "on", "slug": "demo", "connect_timeout_seconds": 5,
        "first_byte_timeout_seconds": 30, "idle_timeout_seconds": 60,
        "total_timeout_seconds": 300, "max_body_bytes": 1000,
        "operations-TOTAL_FORMS": 0, "operations-INITIAL_FORMS": 0,
    }  # fmt: skip

    refused = desk.post(page, form | {"cors_origins": "app.example"})
    assert "is not an origin" in refused.content.decode()
    desk.post(page, form | {"cors_origins": "https://App.example\n*"})

    on_sale.refresh_from_db()
    assert on_sale.cors_origins == ["https://app.example", "*"]
