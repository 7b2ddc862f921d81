"""A backend can check who calls, by what docs/backend.md says and nothing else."""

from __future__ import annotations

import json
import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.conf import settings

from gateway import catalogue, identity
from gateway.models import Api
from gateway.routes import ApiRoutes
from keys import records
from tests import traffic, upstream
from tests.traffic import ask, committed, make_customer, put_on_sale

pytestmark = pytest.mark.django_db

PAGE = Path(__file__).parent.parent / "docs" / "backend.md"
TARGET = "/gateway/demo/echo/caf%C3%A9/%22{x}?a=1"


@pytest.fixture(scope="module")
def backend():
    with upstream.serving() as serving:
        yield serving


@pytest.fixture(scope="module")
def running():
    with traffic.gateway() as running:
        yield running


@pytest.fixture
def api(redis_clean, backend) -> Api:
    return put_on_sale(f"{backend.url}/echo")


@pytest.fixture
def customer(api):
    return make_customer()


def draw(api: Api) -> identity.Secret:
    with committed():
        return catalogue.draw_identity_secret(api)


def documented(*secrets: identity.Secret) -> Any:
    """The page's own way to check an identity."""
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(program, names)  # noqa: S102  it is ours
    names["SECRETS"].clear()
    names["SECRETS"].update(secrets)
    return names["identity"]


def received(running, customer, method: str = "GET", **fields: str) -> tuple[list[str], str, str]:
    """The identities that the backend got, and the method and path that it was asked for."""
    seen = ask(running.port, method, TARGET, customer.bearer | fields).json
    identities = [value for name, value in seen["fields"] if name.lower() == "keystile-identity"]
    return identities, seen["method"], seen["target"].partition("?")[0]


def test_the_documented_check_passes_on_a_forwarded_call(running, api, customer, backend):
    check = documented(draw(api))
    before = int(time.time())

    answer = ask(running.port, "PUT", TARGET, customer.bearer, b"body")

    fields = dict(answer.json["fields"])
    claims = check(fields["keystile-identity"], "PUT", answer.json["target"].partition("?")[0])
    assert before <= claims.pop("iat") == claims.pop("exp") - 60
    assert claims == {
        "iss": settings.SITE_URL,
        "sub": str(customer.account.pk),
        "key": str(customer.key.pk),
        "plan": "Pro",
        "mode": "live",
        "jti": answer["keystile-event"],
        "htm": "PUT",
        "htu": f"{backend.url}/echo/echo/caf%C3%A9/%22{{x}}",
    }


def test_nothing_is_signed_without_a_secret(running, api, customer):
    identities, _, _ = received(running, customer, **{"Keystile-Identity": "mine"})

    assert identities == []


def test_a_client_can_not_say_who_it_is(running, api, customer):
    secret = draw(api)

    identities, method, path = received(running, customer, **{"Keystile-Identity": "mine"})

    assert len(identities) == 1
    assert documented(secret)(identities[0], method, path)["sub"] == str(customer.account.pk)


def test_the_documented_check_refuses_what_the_gateway_did_not_sign(running, api, customer):
    secret = draw(api)
    check = documented(secret)
    (token,), method, path = received(running, customer)
    head, body, signature = token.split(".")
    claims = json.loads(urlsafe_b64decode(body + "=="))

    def encoded(value: dict[str, Any]) -> str:
        return urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    check(token, method, path)
    for forged in (
        f"{head}.{encoded(claims | {'sub': 'another'})}.{signature}",
        f"{encoded({'alg': 'none', 'kid': secret.kid})}.{body}.",
        f"{encoded({'alg': 'HS256', 'kid': 'unknown'})}.{body}.{signature}",
        f"{head}.{body}.",
        f"{head}.{body}.{signature[:-4]}AAAA",
        f"{head}.{body}",
        "",
    ):
        with pytest.raises((ValueError, KeyError)):
            check(forged, method, path)
    for other in (("POST", path), (method, path + "/more")):
        with pytest.raises(ValueError, match="another call"):
            check(token, *other)
    with pytest.raises(ValueError, match="not signed"):
        documented(identity.Secret(secret.kid, "not it"))(token, method, path)


class Somebody(NamedTuple):
    event_id: str = "event"
    account: bytes = b"account"
    key: bytes = b"key"
    plan: bytes = "Größer".encode()
    mode: bytes = b"live"


def test_an_identity_is_good_for_a_minute():
    secret = identity.draw()
    check = documented(secret)
    now_s = int(time.time())

    def made_at(then_s: int) -> str:
        return identity.Signer(secret).token("GET", b"http://b/x", Somebody(), then_s).decode()

    assert check(made_at(now_s - 57), "GET", "/x")["plan"] == "Größer"
    with pytest.raises(ValueError, match="too late"):
        check(made_at(now_s - 61), "GET", "/x")


def test_a_rotation_never_signs_with_what_the_backend_does_not_know(running, api, customer):
    first = draw(api)
    second = draw(api)
    both = documented(first, second)

    (while_waiting,), method, path = received(running, customer)
    with committed():
        catalogue.use_next_identity_secret(api)
    (switched,), _, _ = received(running, customer)
    with committed():
        catalogue.remove_identity_secrets(api)
    removed, _, _ = received(running, customer)

    assert documented(first)(while_waiting, method, path)
    assert documented(second)(switched, method, path)
    assert both(while_waiting, method, path)
    assert both(switched, method, path)
    assert removed == []


def test_a_next_secret_that_waits_is_replaced_and_the_signing_one_never(api):
    first, _, third = draw(api), draw(api), draw(api)

    api.refresh_from_db()

    assert identity.unseal(api.identity_sealed) == [first, third]


def test_switching_without_a_next_secret_changes_nothing(api):
    only = draw(api)

    catalogue.use_next_identity_secret(api)

    api.refresh_from_db()
    assert identity.unseal(api.identity_sealed) == [only]


def test_a_secret_is_stored_and_published_sealed_only(api):
    secret = draw(api)

    api.refresh_from_db()
    blob = records.connection().hget(records.routes_name(0), "blob").decode()

    assert api.identity_sealed in blob
    assert secret.text not in blob
    assert secret.text not in api.identity_sealed
    assert len(secret.text) >= 43


def test_an_api_whose_seal_is_broken_sends_its_calls_unsigned(api):
    row = {
        "slug": "x", "upstream": "http://b", "test_upstream": "", "sealed_headers": "",
        "sealed_identity": "not sealed by us", "allow_private": False, "unlisted": "refuse",
        "connect_s": 1, "first_byte_s": 1, "idle_s": 1, "total_s": 1, "max_body": 1,
        "operations": [],
    }  # fmt: skip

    assert ApiRoutes(row).signer is None
