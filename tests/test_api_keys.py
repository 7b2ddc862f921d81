"""The control plane: who may what, what is refused and how, and that one wish makes one key."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from django.core.cache import cache
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from openapi_spec_validator import validate

from keys import issuance, records, service_tokens, tokens
from keys.models import ApiKey, KeyRequest
from portal.api import idempotency
from portal.api.access import PerToken
from portal.api.problems import PROBLEMS
from tests.factories import make_account, make_api
from tests.markup import faults
from tests.test_issuance import at_once
from tests.test_publish import redis_away
from tests.traffic import entitle, make_key, terms

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_clean")]

KEYS = "/api/v1/keys"
BOTH = ("keys:read", "keys:write")


def token_of(account, scopes=BOTH):
    _, text = service_tokens.create(
        account,
        name="CI",
        scopes=scopes,
        expires_at=None,
        actor=None,
        address=None,
        now=timezone.now(),
    )
    return text


class Program:
    """A program that holds a service token."""

    def __init__(self, text):
        self._text = text

    def ask(self, method, path, body=None, **headers):
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return Client().generic(
            method,
            path,
            b"" if body is None else raw,
            "application/json",
            headers={"Authorization": f"Bearer {self._text}", **headers},
        )

    def make(self, body=None, **headers):
        return self.ask("POST", KEYS, {"name": "server"} | (body or {}), **headers)


@pytest.fixture
def account():
    make_api()
    account = make_account()
    entitle(account, terms(rate=20, burst=40, limit=10_000))
    return account


@pytest.fixture
def program(account):
    return Program(token_of(account))


@pytest.fixture
def key(account):
    return make_key(account)[0]


def problem(answer):
    assert answer["Content-Type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == answer.status_code
    assert body["type"].endswith(f"/docs/management#{body['code']}")
    assert body["code"] in PROBLEMS
    return body["code"]


def test_a_program_makes_a_working_key_with_its_restrictions(program, account):
    answer = program.make(
        {
            "mode": "test",
            "allowed_networks": ["10.1.2.3/8"],
            "allowed_operations": ["holidays GET /v1/countries"],
            "rate_per_second": 0.5,
        }
    )

    body = answer.json()
    key = account.keys.get(pk=body["id"])
    assert answer.status_code == 201
    assert answer["Cache-Control"] == "no-store"
    assert tokens.digest(body["secret"]) == key.digest
    assert records.connection().exists(records.key_name(0, key.digest))
    assert (body["mode"], body["allowed_networks"]) == ("test", ["10.0.0.0/8"])
    assert (body["rate_per_second"], body["burst"], body["confirmed"]) == (0.5, None, True)


def test_the_trail_names_the_token(program, account):
    key_id = program.make().json()["id"]

    program.ask("PATCH", f"{KEYS}/{key_id}", {"read_only": True})

    events = account.keys.get(pk=key_id).events.order_by("id")
    assert [(e.kind, e.service_token.name, e.address) for e in events] == [
        ("created", "CI", "127.0.0.1"),
        ("changed", "CI", "127.0.0.1"),
    ]


def test_a_list_comes_in_pages_without_a_secret(program, account):
    made = [program.make().json() for _ in range(3)]

    first = program.ask("GET", f"{KEYS}?limit=2").json()
    second = program.ask("GET", f"{KEYS}?limit=2&cursor={first['next_cursor']}").json()

    listed = [key["id"] for key in first["data"] + second["data"]]
    assert listed == [key["id"] for key in reversed(made)]
    assert second["next_cursor"] is None
    assert "secret" not in first["data"][0]


def test_a_change_changes_what_is_given_and_no_more(program, key):
    program.ask("PATCH", f"{KEYS}/{key.pk}", {"rate_per_second": 2, "burst": 3})
    answer = program.ask("PATCH", f"{KEYS}/{key.pk}", {"name": "shop"})

    body = answer.json()
    assert (body["name"], body["rate_per_second"], body["burst"]) == ("shop", 2.0, 3)
    cleared = program.ask("PATCH", f"{KEYS}/{key.pk}", {"rate_per_second": None}).json()
    assert (cleared["rate_per_second"], cleared["burst"]) == (None, None)


def test_what_the_gateway_has_not_confirmed_is_202(program, key):
    with redis_away():
        changed = program.ask("PATCH", f"{KEYS}/{key.pk}", {"expires_at": "2099-01-01T00:00:00Z"})
        revoked = program.ask("POST", f"{KEYS}/{key.pk}/revoke")

    assert (changed.status_code, changed.json()["confirmed"]) == (202, False)
    assert (revoked.status_code, revoked.json()["state"]) == (202, "revoked")
    again = program.ask("POST", f"{KEYS}/{key.pk}/revoke")
    assert (again.status_code, again.json()["confirmed"]) == (200, True)


def test_a_rotation_gives_a_successor_and_the_old_key_its_overlap(program, key):
    before = timezone.now()

    answer = program.ask("POST", f"{KEYS}/{key.pk}/rotate", {"overlap_seconds": 60})

    key.refresh_from_db()
    assert answer.status_code == 201
    assert answer.json()["replaces"] == str(key.pk)
    assert tokens.digest(answer.json()["secret"]) == key.successors.get().digest
    assert before < key.expires_at - timedelta(seconds=60) < timezone.now()


# ------------------------------------------------------------------ once


@pytest.mark.parametrize("act", ["create", "rotate"])
def test_a_request_sent_again_makes_no_second_key(program, account, key, act):
    path, body = (KEYS, {"name": "a"}) if act == "create" else (f"{KEYS}/{key.pk}/rotate", {})

    first = program.ask("POST", path, body, **{"Idempotency-Key": "order 7"})
    second = program.ask("POST", path, body, **{"Idempotency-Key": "order 7"})

    assert first.status_code == 201
    assert (second.status_code, problem(second)) == (409, "already_made")
    assert second.json()["key"] == first.json()["id"]
    assert first.json()["secret"] not in second.content.decode()
    assert account.keys.count() == 2


def test_of_many_sent_at_once_one_makes_a_key(program, account):
    answers = at_once(*[lambda: program.make(**{"Idempotency-Key": "k"})] * 5)

    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]
    assert account.keys.count() == 1


def test_another_wish_under_the_same_idempotency_key_is_refused(program):
    program.make(**{"Idempotency-Key": "k"})

    answer = program.make({"name": "other"}, **{"Idempotency-Key": "k"})

    assert (answer.status_code, problem(answer)) == (422, "idempotency_key_reused")


def test_a_request_that_failed_may_be_sent_again(program, account):
    entitle(account, terms(rate=20, burst=40, limit=10_000), state="ended")
    refused = program.make(**{"Idempotency-Key": "k"})
    entitle(account, terms(rate=20, burst=40, limit=10_000))

    assert problem(refused) == "no_plan"
    assert program.make(**{"Idempotency-Key": "k"}).status_code == 201


def test_an_idempotency_key_is_remembered_for_a_day(program, account):
    program.make(**{"Idempotency-Key": "k"})
    made_at = KeyRequest.objects.get().created_at

    assert idempotency.forget(made_at + timedelta(hours=24)) == 0
    assert problem(program.make(**{"Idempotency-Key": "k"})) == "already_made"
    assert idempotency.forget(made_at + timedelta(hours=24, seconds=1)) == 1
    assert program.make(**{"Idempotency-Key": "k"}).status_code == 201
    assert account.keys.count() == 2


def test_idempotency_keys_of_two_accounts_do_not_meet(program):
    other = make_account()
    entitle(other, terms())
    program.make(**{"Idempotency-Key": "k"})

    assert Program(token_of(other)).make(**{"Idempotency-Key": "k"}).status_code == 201


@pytest.mark.parametrize("given", ["", "é", "x" * 256])
def test_an_idempotency_key_that_is_none_is_named(program, given):
    answer = program.make(**{"Idempotency-Key": given})

    assert problem(answer) == "invalid_request"
    assert answer.json()["errors"][0]["field"] == "Idempotency-Key"


# ------------------------------------------------------------------ who


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer kst_x", "Basic YTpi", "Bearer " + service_tokens.draw()]
)
def test_without_a_living_token_there_is_nothing(authorization):
    headers = {"Authorization": authorization} if authorization else {}

    answer = Client().get(KEYS, headers=headers)

    assert answer.status_code == 401
    assert problem(answer) == ("bad_token" if authorization else "missing_token")
    assert answer["WWW-Authenticate"].startswith("Bearer")


def test_a_session_or_an_api_key_opens_nothing(account):
    browser = Client()
    browser.force_login(account.members.get(), backend="django.contrib.auth.backends.ModelBackend")
    _, secret = make_key(account)

    assert browser.get(KEYS).status_code == 401
    assert Program(secret).ask("GET", KEYS).status_code == 401


def test_a_revoked_token_opens_nothing(account):
    text = token_of(account)
    service_tokens.revoke(
        account.service_tokens.get(), actor=None, address=None, now=timezone.now()
    )

    assert problem(Program(text).ask("GET", KEYS)) == "bad_token"


def test_a_scope_opens_what_it_names(account, key):
    reader, writer = (
        Program(token_of(account, ["keys:read"])),
        Program(token_of(account, ["keys:write"])),
    )

    assert reader.ask("GET", f"{KEYS}/{key.pk}").status_code == 200
    refused = [
        reader.make(),
        reader.ask("PATCH", f"{KEYS}/{key.pk}", {"name": "x"}),
        reader.ask("POST", f"{KEYS}/{key.pk}/rotate", {}),
        reader.ask("POST", f"{KEYS}/{key.pk}/revoke"),
        writer.ask("GET", KEYS),
    ]
    assert {problem(answer) for answer in refused} == {"scope_missing"}
    assert "keys:write" in refused[0].json()["detail"]
    assert account.keys.count() == 1


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("PATCH", "", {"name": "x"}),
        ("POST", "/rotate", {}),
        ("POST", "/revoke", None),
    ],
)
def test_an_outsider_gets_404(key, method, path, body):
    stranger = make_account()
    entitle(stranger, terms())
    outsider = Program(token_of(stranger))
    address = f"{KEYS}/{key.pk}{path}"

    for path in (address, f"{address}?account={key.account_id}"):
        answer = outsider.ask(method, path, body)
        assert (answer.status_code, problem(answer)) == (404, "not_found")

    key.refresh_from_db()
    assert (key.state, key.revision) == ("active", 1)
    assert outsider.make({"account": str(key.account_id)}).status_code == 404
    assert outsider.ask("GET", f"{KEYS}?account={key.account_id}").status_code == 404
    assert outsider.ask("GET", KEYS).json()["data"] == []


def test_the_portal_s_own_key_is_not_there(program, account):
    console = issuance.console_key(account, timezone.now())

    assert program.ask("GET", f"{KEYS}/{console.pk}").status_code == 404
    assert program.ask("GET", KEYS).json()["data"] == []


def test_the_seller_s_token_acts_for_the_account_it_names(account, key):
    seller = Program(token_of(None))

    made = seller.make({"account": str(account.pk)})
    listed = seller.ask("GET", f"{KEYS}?account={account.pk}")

    assert made.json()["account"] == str(account.pk)
    assert len(listed.json()["data"]) == 2
    assert problem(seller.ask("GET", KEYS)) == "invalid_request"
    assert seller.ask("GET", f"{KEYS}/{key.pk}?account={key.pk}").status_code == 404
    assert problem(seller.ask("GET", f"{KEYS}?account=x")) == "invalid_request"


# ------------------------------------------------------------------ what


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"name": "\ud800"}, "name"),
        ({"name": {"a": 1}}, "name"),
        ({"mode": "root"}, "mode"),
        ({"allowed_networks": ["10.0.0.0/8", "x"]}, "allowed_networks"),
        ({"allowed_networks": "10.0.0.0/8"}, "allowed_networks"),
        ({"allowed_operations": ["holidays GET /v1/other"]}, "allowed_operations"),
        ({"rate_per_second": 21}, "rate_per_second"),
        ({"rate_per_second": "NaN"}, "rate_per_second"),
        ({"rate_per_second": 1e300}, "rate_per_second"),
        ({"monthly_quota": 10_001}, "monthly_quota"),
        ({"monthly_quota": 10**30}, "monthly_quota"),
        ({"burst": 3}, "burst"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "0001-01-01T00:00:00+23:59"}, "expires_at"),
        ({"allowed_network": []}, "allowed_network"),
        ({"state": "active"}, "state"),
    ],
)
def test_a_field_that_can_t_be_is_named_and_makes_nothing(program, account, body, field):
    answer = program.make(body)

    assert (answer.status_code, problem(answer)) == (400, "invalid_request")
    assert {error["field"].split(".")[0] for error in answer.json()["errors"]} == {field}
    assert not account.keys.exists()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"name": NaN}',
        b'{"name": "a", "name": "b"}',
        b"\xff",
        b'{"a":' * 10_000,
        b"[" * 30_000,
        b'{"burst": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_body_that_is_no_json_object_is_refused(program, account, body):
    answer = Program(token_of(account)).ask("POST", KEYS, body)

    assert answer.status_code == 400
    assert problem(answer) in ("bad_json", "invalid_request")


def test_a_body_that_is_too_large_is_refused(program):
    answer = program.ask("POST", KEYS, b'{"name": "' + b"x" * 70_000 + b'"}')

    assert (answer.status_code, problem(answer)) == (413, "body_too_large")


def test_other_forms_methods_and_addresses_are_problems_too(program):
    bearer = {"Authorization": f"Bearer {program._text}"}
    form = Client().post(KEYS, {"name": "a"}, headers=bearer)
    charset = Client().generic(
        "POST", KEYS, b'{"name": "a"}', "application/json; charset=hex", headers=bearer
    )

    assert problem(form) == "unsupported_media_type"
    assert charset.status_code == 201  # JSON is UTF-8, whatever is said of it
    assert problem(program.ask("DELETE", KEYS)) == "method_not_allowed"
    assert problem(program.ask("GET", "/api/v2/keys")) == "not_found"
    assert problem(program.ask("GET", f"{KEYS}/1")) == "not_found"


def test_a_plan_s_number_of_keys_holds(program):
    for _ in range(10):
        assert program.make().status_code == 201

    assert problem(program.make()) == "key_limit_reached"


def test_a_dead_key_is_neither_changed_nor_rotated(program, key):
    program.ask("POST", f"{KEYS}/{key.pk}/revoke")

    assert problem(program.ask("PATCH", f"{KEYS}/{key.pk}", {"name": "x"})) == "key_not_active"
    assert problem(program.ask("POST", f"{KEYS}/{key.pk}/rotate", {})) == "key_not_active"


def test_a_token_that_asks_too_often_is_told_when_to_come_again(account, monkeypatch):
    monkeypatch.setattr(PerToken, "rate", "3/min")
    program, other = Program(token_of(account)), Program(token_of(account))

    answers = [program.ask("GET", KEYS) for _ in range(4)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert problem(answers[3]) == "rate_limited"
    assert 0 < int(answers[3]["Retry-After"]) <= 60
    assert other.ask("GET", KEYS).status_code == 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
NAMES = ("name", "mode", "account", "allowed_networks", "allowed_referrers", "allowed_operations")
NAMES += ("read_only", "rate_per_second", "burst", "monthly_quota", "expires_at")


@given(st.dictionaries(st.sampled_from(NAMES) | st.text(), json_values, max_size=5))
@effort(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_body_is_a_fault_of_ours(program, key, body):
    cache.clear()
    program_is_told = [
        program.ask("POST", KEYS, body),
        program.ask("PATCH", f"{KEYS}/{key.pk}", body),
        program.ask("POST", f"{KEYS}/{key.pk}/rotate", {"overlap_seconds": body.get("burst", 0.5)}),
    ]

    assert all(answer.status_code < 500 for answer in program_is_told)
    ApiKey.objects.exclude(pk=key.pk).delete()
    ApiKey.objects.update(state="active", revoked_at=None, expires_at=None)


@given(st.text(), st.text(), st.text())
@effort(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_query_is_a_fault_of_ours(program, cursor, limit, account_id):
    cache.clear()
    query = {"cursor": cursor, "limit": limit, "account": account_id}

    answer = Client().get(KEYS, query, headers={"Authorization": f"Bearer {program._text}"})

    assert answer.status_code in (400, 404)


# ------------------------------------------------------------------ documents


def test_the_openapi_document_is_valid_and_describes_every_operation():
    document = Client().get("/api/schema/").json()

    validate(document)
    assert document["openapi"].startswith("3.1")
    assert {path for path in document["paths"] if path.startswith(KEYS)} == {
        KEYS,
        f"{KEYS}/{{key_id}}",
        f"{KEYS}/{{key_id}}/rotate",
        f"{KEYS}/{{key_id}}/revoke",
    }
    for item in document["paths"].values():
        for operation in item.values():
            assert operation["summary"]
            assert "Scope: `" in operation["description"]
            assert operation["security"] == [{"serviceToken": []}]
            good = [a for code, a in operation["responses"].items() if code in ("200", "201")]
            json_ones = [a["content"].get("application/json") for a in good]
            assert all(answer["examples"] for answer in json_ones if answer)
            assert "application/problem+json" in operation["responses"]["404"]["content"]


def test_the_docs_list_operations_and_every_code():
    html = Client().get("/docs/management").content.decode()

    assert faults(html) == []
    assert "/api/v1/keys/{key_id}/rotate" in html
    assert all(f'id="{code}"' in html for code in PROBLEMS)
    assert 'href="/api/schema/"' in html


def test_a_remembered_request_holds_no_secret(program):
    secret = program.make(**{"Idempotency-Key": "k"}).json()["secret"]

    assert secret not in str(list(KeyRequest.objects.values()))
    assert datetime.now(UTC) - KeyRequest.objects.get().created_at < timedelta(minutes=1)
