"""Both doors of the data plane, an API on sale behind them, and a customer who may call it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.conf import settings
from django.test import Client

from gateway.problems import PROBLEMS
from tests import traffic, upstream
from tests.traffic import Answer, Customer, make_customer, put_on_sale, terms

Door = Callable[..., Answer]


@pytest.fixture(scope="module")
def backend():
    with upstream.serving() as serving:
        yield serving


@pytest.fixture(scope="module")
def fast_door():
    with traffic.gateway() as running:

        def call(target, fields=None, *, method="GET", body=b""):
            return traffic.ask(running.port, method, target, fields, body)

        yield call


def drf_door(target, fields=None, *, method="GET", body=b"") -> Answer:
    """The DRF view, called as a WSGI server calls it."""
    headers = {"Host": "gateway.test"} | (fields or {})
    response = Client().generic(method, "/gateway/", body, headers=headers, RAW_URI=target)
    content = b"".join(response.streaming_content) if response.streaming else response.content
    fields = [(name.lower(), value) for name, value in response.headers.items()]
    return Answer(response.status_code, fields, content, True)


@pytest.fixture(params=["asgi", "drf"])
def call(request, settings, redis_clean) -> Door:
    settings.ALLOWED_HOSTS = ["*"]
    return drf_door if request.param == "drf" else request.getfixturevalue("fast_door")


@pytest.fixture
def on_sale(redis_clean, backend):
    return put_on_sale(
        backend.url,
        {"GET /echo/{what}": {}, "POST /echo": {}, "GET /status/{code}": {}},
        max_body_bytes=1000,
    )


@pytest.fixture
def customer(on_sale) -> Customer:
    return make_customer(terms(limit=1000))


def assert_refused(answer: Answer, code: str) -> None:
    status, title, _ = PROBLEMS[code]
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer["content-type"] == "application/problem+json"
    assert answer.json["type"] == f"{settings.SITE_URL}/docs/errors#{code}"
    assert (answer.json["title"], answer.json["status"]) == (title, status)
    assert answer.json["detail"].endswith(".")
