"""Which operation a path is, and how a change of routes gets to the gateways."""

from __future__ import annotations

import json
import logging

import pytest

from gateway import catalogue, routes
from gateway.models import Routes
from gateway.problems import Refusal
from gateway.routes import ApiRoutes, Operation, Table
from keys import records
from tests import traffic

OPERATIONS = {
    "GET /v1/countries": {},
    "POST /v1/countries": {},
    "GET /v1/next/{country}": {},
    "GET /v1/next/first": {"weights": {"calls": 5}},
    "GET /v1/files/{name}.json": {},
    "GET /v1/{kind}/{id}/parts/{part}": {},
    "DELETE /v1/{kind}/{id}": {},
    "GET /v1/a b": {},
}


@pytest.fixture
def table(db, redis_clean) -> Table:
    traffic.put_on_sale("https://backend.test/base/", OPERATIONS)
    return published()


@pytest.fixture
def forwarding(db, redis_clean) -> ApiRoutes:
    traffic.put_on_sale("http://backend.test", OPERATIONS, unlisted="forward")
    return published().apis["demo"]


def published() -> Table:
    record = records.connection().hgetall(records.routes_name(0))
    return Table(record[b"version"].decode(), record[b"blob"])


def label(found: Operation | Refusal) -> str:
    return found.label if isinstance(found, Operation) else found.code


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v1/countries", "GET /v1/countries"),
        ("POST", "/v1/countries", "POST /v1/countries"),
        ("HEAD", "/v1/countries", "GET /v1/countries"),
        ("GET", "/v1/countries/", "unknown_operation"),
        ("GET", "/V1/countries", "unknown_operation"),
        ("GET", "//v1/countries", "unknown_operation"),
        ("GET", "/v1/next/DE", "GET /v1/next/{country}"),
        ("GET", "/v1/next/first", "GET /v1/next/first"),
        ("GET", "/v1/next/", "unknown_operation"),
        ("GET", "/v1/files/x.json", "GET /v1/files/{name}.json"),
        ("GET", "/v1/files/x.jsonl", "method_not_allowed"),
        ("GET", "/v1/files/xejson", "method_not_allowed"),
        ("GET", "/v1/car/7/parts/door", "GET /v1/{kind}/{id}/parts/{part}"),
        ("DELETE", "/v1/next/first", "DELETE /v1/{kind}/{id}"),
        ("PATCH", "/v1/countries", "method_not_allowed"),
        ("GET", "/v1/a%20b", "GET /v1/a b"),
    ],
)
def test_the_most_literal_template_wins(table, method, path, expected):
    assert label(table.apis["demo"].find(method, path.encode())) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/%63ountries", "GET /v1/countries"),
        ("/v1/next/%66irst", "GET /v1/next/first"),
        ("/v1/next/a%2Fb", "GET /v1/next/{country}"),
        ("/v1/next/%E2%82%AC", "GET /v1/next/{country}"),
        ("/v1/next%2ffirst", "unknown_operation"),
        ("/v1/x/y%2Fparts%2Fz/parts/p", "GET /v1/{kind}/{id}/parts/{part}"),
    ],
)
def test_another_spelling_does_not_escape_its_operation(table, path, expected):
    assert label(table.apis["demo"].find("GET", path.encode())) == expected


def test_an_encoded_slash_that_makes_it_another_operation_is_refused(forwarding):
    # One backend sees /v1/next/first, which costs 5; another sees a single odd segment.
    assert label(forwarding.find("GET", b"/v1/next%2Ffirst")) == "bad_request"
    assert label(forwarding.find("GET", b"/v1/next/a%2Fb")) == "GET /v1/next/{country}"
    assert label(forwarding.find("GET", b"/elsewhere%2Fx")) == "other"


def test_an_api_may_forward_what_it_does_not_list(forwarding):
    other = forwarding.find("PATCH", b"/anything")

    assert isinstance(other, Operation)
    assert (other.label, other.units) == ("other", {"calls": 1})


def test_units_are_weights_and_maxima_with_calls_first(db, redis_clean):
    costs = {"weights": {"rows": 2}, "max_units": {"tokens": 9}}
    traffic.put_on_sale("http://backend.test", {"GET /x": costs})

    found = published().apis["demo"].find("GET", b"/x")

    assert isinstance(found, Operation)
    assert found.units_json == '{"calls":1,"rows":2,"tokens":9}'
    assert found.arguments == ("calls", "1", "rows", "2", "tokens", "9")
    assert found.reported == {"tokens": 9}


def test_upstream_headers_are_sealed_on_the_way(db, redis_clean):
    sealed = catalogue.seal_headers({"X-Secret": "s3cret"})
    traffic.put_on_sale("https://backend.test:8443/base/", upstream_headers_sealed=sealed)

    assert b"s3cret" not in records.connection().hget(records.routes_name(0), "blob")
    api = published().apis["demo"]
    assert api.secret_lines == b"x-secret: s3cret\r\n"
    assert api.live[:5] == ("https", "backend.test", 8443, b"backend.test:8443", b"/base")


def test_headers_sealed_under_another_key_are_left_out_and_said(db, redis_clean, caplog):
    traffic.put_on_sale("http://backend.test", upstream_headers_sealed="of another key")

    with caplog.at_level(logging.ERROR):
        api = published().apis["demo"]

    assert api.secret_lines == b""
    assert "seal_broken" in caplog.text


def test_a_disabled_api_is_not_there(db, redis_clean):
    traffic.put_on_sale("http://backend.test", enabled=False)

    assert published().apis == {}


def test_an_older_version_never_replaces_a_newer_one(table):
    newer = int(table.version) + 5
    blob = json.dumps([])
    record = records.Record(records.routes_name(0), newer, {"version": newer, "blob": blob})
    records.publish_record(record)

    traffic.publish_routes()

    assert published().version == str(newer)


def test_beat_publishes_what_has_not_arrived_and_then_nothing(table):
    assert routes.republish() is False

    Routes.objects.update(version=int(table.version) + 1)

    assert routes.republish() is True
    assert published().version == str(int(table.version) + 1)
    assert routes.republish() is False
