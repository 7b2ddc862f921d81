"""“Try it”: calls from a form, in test mode, for members who may use keys."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.test import Client
from django.urls import reverse

from keys import issuance
from keys.models import Entitlement
from portal.models import Account, Membership, User
from tests import traffic, upstream
from tests.traffic import NOW, committed, entitle, put_on_sale, terms

pytestmark = pytest.mark.django_db

ADDRESS = reverse("try_it", args=["demo"])
HTMX = {"HX-Request": "true"}


@pytest.fixture(scope="module")
def backend() -> Iterator[upstream.Upstream]:
    with upstream.serving() as serving:
        yield serving


@pytest.fixture
def account(redis_clean, backend) -> Account:
    put_on_sale(
        backend.url,
        {"GET /echo/{what}": {}, "POST /echo": {}, "GET /down": {}, "GET /status/{code}": {}},
    )
    account = Account.objects.create(name="Northwind Labs", billing_email="a@example.com")
    entitle(account, terms(test_quota=3))
    return account


def signed_in(account: Account, role: str = "developer", **options: bool) -> Client:
    user = User.objects.create(email=f"{role}@example.com")
    Membership.objects.create(user=user, account=account, role=role)
    client = Client(**options)
    client.force_login(user)
    return client


def send(client: Client, **form: str):
    with committed():  # the console's key is published before it is used
        issuance.console_key(Account.objects.get(), NOW)
    fields = {"method": "GET", "path_template": "/echo/{what}", **form}
    return client.post(ADDRESS, fields, headers=HTMX)


def test_a_form_becomes_a_call_in_test_mode(account, backend):
    response = send(
        signed_in(account),
        **{
            "param.path.what": "a/b ü",
            "param.query.year": "2026 & more",
            "param.query.empty": "",
            "param.header.Accept-Language": "de",
        },
    )

    assert response.status_code == 200
    assert response.templates[0].name == "docs/_try_result.html"
    got = backend.requests[-1]
    assert got.target == "/echo/a%2Fb%20%C3%BC?year=2026+%26+more"
    assert (got.values("accept-language"), got.values("keystile-mode")) == (["de"], ["test"])
    assert b"200 OK" in response.content
    assert b"x-ratelimit-remaining" in response.content
    (entry,) = traffic.entries()
    assert (entry["mode"], entry["billable"]) == ("test", False)


def test_a_body_is_sent_as_it_was_typed(account, backend):
    body = '{"countries": ["DE"],\r\n "year": 2026}'

    send(signed_in(account), method="POST", path_template="/echo", body=body)

    got = backend.requests[-1]
    assert (got.method, got.body_bytes) == ("POST", len(body))
    assert got.values("content-type") == ["application/json"]


def test_the_answer_is_escaped_and_pretty(account):
    response = send(signed_in(account), **{"param.path.what": "<script>alert(1)</script>"})

    assert b"<script>alert" not in response.content
    assert b"&quot;method&quot;: &quot;GET&quot;,\n" in response.content


def test_a_long_answer_is_cut(account):
    query = {"param.query.n": "200000"}

    response = send(signed_in(account), path_template="/down", **query)

    assert b"Only the beginning" in response.content
    assert len(response.content) < 70_000


def test_a_refusal_is_shown_like_an_answer(account):
    client = signed_in(account)
    for _ in range(3):
        send(client, **{"param.path.what": "x"})

    response = send(client, **{"param.path.what": "x"})

    assert response.status_code == 200
    assert b"429 Too Many Requests" in response.content
    assert b"quota_exceeded" in response.content


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({}, "Fill in “what”"),
        ({"param.path.what": ".."}, "dot segment"),
        ({"param.path.what": "x", "param.header.X-A": "a\r\nb: c"}, "can&#x27;t be sent"),
        ({"param.path.what": "x", "method": "TRACE"}, "TRACE is not forwarded"),
        ({"path_template": "/nowhere"}, "unknown_operation"),
    ],
)
def test_what_can_not_be_sent_is_said(account, backend, form, said):
    seen = len(backend.requests)

    response = send(signed_in(account), **form)

    assert said in response.content.decode()
    assert len(backend.requests) == seen


def test_an_account_without_a_plan_is_told_to_choose_one(account):
    Entitlement.objects.all().delete()

    response = signed_in(account).post(
        ADDRESS, {"method": "GET", "path_template": "/echo/x"}, headers=HTMX
    )

    assert b"has no plan yet" in response.content


def test_without_htmx_the_answer_is_a_page(account):
    response = signed_in(account).post(ADDRESS, {"method": "GET", "path_template": "/echo/{x}"})

    assert b"<!doctype html>" in response.content[:200].lower()
    assert reverse("docs_api", args=["demo"]).encode() in response.content


@pytest.mark.parametrize("role", ["billing", "viewer"])
def test_who_may_not_use_keys_may_not_call(account, backend, role):
    seen = len(backend.requests)

    response = send(signed_in(account, role), **{"param.path.what": "x"})

    assert response.status_code == 403
    assert len(backend.requests) == seen


def test_a_visitor_and_a_user_without_an_account_are_refused(account):
    stranger = Client()
    stranger.force_login(User.objects.create(email="nobody@example.com"))

    assert Client().post(ADDRESS, {"method": "GET"}).status_code == 403
    assert stranger.post(ADDRESS, {"method": "GET"}).status_code == 403


def test_a_form_of_another_site_is_refused(account):
    client = signed_in(account, enforce_csrf_checks=True)

    response = client.post(ADDRESS, {"method": "GET", "path_template": "/echo/x"}, headers=HTMX)

    assert response.status_code == 403
    assert traffic.entries() == []
