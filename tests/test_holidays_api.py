"""The demo's upstream, asked over real connections to a real server on loopback."""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, urlencode

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from portal.demo import calendars
from portal.demo.holidays_api import DOCUMENT, HolidaysApi

SECRET = "the gateway's own"
TODAY = date(2026, 10, 4)
SPEC = json.loads(DOCUMENT)
FULL_YEAR = 2022
"""A year in which fifty countries have more holidays together than a batch may return."""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> Any:
        return json.loads(self.body)


class Client:
    """Speaks to the service as the gateway does; one connection, kept alive."""

    def __init__(self, port: int):
        self.port = port
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        sent = {"X-Upstream-Secret": SECRET} | ({} if headers is None else headers)
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent = {"Content-Type": "application/json"} | sent
        self.connection.request(method, path, body, sent)
        response = self.connection.getresponse()
        fields = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, fields, response.read())

    def get(self, path: str, **query: str) -> Answer:
        return self.call("GET", f"{path}?{urlencode(query)}" if query else path)

    def post(self, path: str, body: Any) -> Answer:
        return self.call("POST", path, body)


@contextmanager
def serving(app: HolidaysApi, lifespan: Literal["auto", "off"] = "auto") -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan=lifespan))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(timeout=10)


@pytest.fixture(scope="module")
def api() -> Iterator[Client]:
    with serving(HolidaysApi(SECRET, today=lambda: TODAY)) as port:
        yield Client(port)


def holidays_of(code: str) -> tuple[calendars.Holiday, ...]:
    try:
        return calendars.in_year(code, FULL_YEAR)
    except calendars.Unanswerable:
        return ()


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method.upper(), path, operation)
        for path, item in SPEC["paths"].items()
        for method, operation in item.items()
    ]


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        _, _, kind, name = node["$ref"].split("/")
        node = SPEC["components"][kind][name]
    return node


def assert_follows(data: Any, schema: dict[str, Any]) -> None:
    Draft202012Validator({**schema, "components": SPEC["components"]}).validate(data)


def by_example(operation: dict[str, Any], path: str) -> tuple[str, Any]:
    """The path and body that an operation's own examples make."""
    query = {}
    for parameter in map(resolved, operation.get("parameters", [])):
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", parameter["example"])
        else:
            query[parameter["name"]] = parameter["example"]
    content = operation.get("requestBody", {}).get("content", {})
    body = content.get("application/json", {}).get("example")
    return (f"{path}?{urlencode(query)}" if query else path), body


@pytest.mark.parametrize(("method", "path", "operation"), operations())
def test_every_operation_answers_its_example_as_the_document_says(
    api: Client, method: str, path: str, operation: dict[str, Any]
) -> None:
    target, body = by_example(operation, path)

    answer = api.call(method, target, body)

    documented = operation["responses"]
    response = resolved(
        documented.get(str(answer.status)) or documented[f"{answer.status // 100}XX"]
    )
    assert answer.status == (503 if path == "/v1/fail" else 200)
    media_type = answer.headers["content-type"]
    assert_follows(answer.data, response["content"][media_type]["schema"])


@pytest.mark.parametrize(("method", "path", "operation"), operations())
def test_the_examples_of_the_document_follow_its_schemas(
    method: str, path: str, operation: dict[str, Any]
) -> None:
    bodies = [operation["requestBody"]] if "requestBody" in operation else []
    for described in map(resolved, [*operation["responses"].values(), *bodies]):
        for content in described["content"].values():
            if "example" in content:
                assert_follows(content["example"], content["schema"])


@pytest.mark.parametrize(
    ("target", "operation_id"),
    [
        ("/v1/next/DE?from=2026-10-04", "nextHoliday"),
        ("/v1/workdays/check/DE?date=2026-12-25", "checkWorkday"),
        (
            "/v1/workdays/between?country=DE&from=2026-12-21&to=2026-12-31",
            "countWorkdays",
        ),
    ],
)
def test_the_documented_answers_are_the_real_ones(
    api: Client, target: str, operation_id: str
) -> None:
    (operation,) = (op for _, _, op in operations() if op["operationId"] == operation_id)

    answer = api.call("GET", target)

    assert answer.data == operation["responses"]["200"]["content"]["application/json"]["example"]


def test_calls_that_do_not_come_from_the_gateway_are_refused(api: Client) -> None:
    for secret in ("", "guess", SECRET + "x", "é"):
        answer = api.call("GET", "/v1/countries", headers={"X-Upstream-Secret": secret})

        assert answer.status == 403
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_stranger_learns_nothing_of_paths_or_document(api: Client) -> None:
    answers = [
        api.call("GET", path, headers={"X-Upstream-Secret": ""})
        for path in ("/v1/countries", "/no/such/path", "/openapi.json")
    ]

    assert {answer.body for answer in answers} == {answers[0].body}
    assert {answer.status for answer in answers} == {403}


def test_health_is_answered_without_the_secret_and_not_documented(api: Client) -> None:
    answer = api.call("GET", "/healthz", headers={"X-Upstream-Secret": ""})

    assert (answer.status, answer.data) == (200, {"status": "ok"})
    assert "/healthz" not in SPEC["paths"]


def test_without_a_secret_it_refuses_to_start_with_one_sentence() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "DEMO_UPSTREAM_SECRET"}
    command = [sys.executable, "-m", "uvicorn", "--port", "0", "portal.demo.holidays_api:app"]

    run = subprocess.run(
        command,
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert run.returncode != 0
    assert run.stderr.count("DEMO_UPSTREAM_SECRET") == 1
    assert "Traceback" not in run.stderr


def test_without_a_secret_it_answers_nobody_even_if_the_server_starts_it() -> None:
    with serving(HolidaysApi(""), lifespan="off") as port:
        answer = Client(port).call("GET", "/v1/countries", headers={"X-Upstream-Secret": ""})

    assert answer.status == 403


def test_the_document_is_served_as_it_lies_in_the_tree(api: Client) -> None:
    assert api.get("/openapi.json").body == DOCUMENT


def test_names_come_in_english_unless_another_language_is_asked_for(api: Client) -> None:
    def name_of_3_october(**query: str) -> str:
        listed = api.get("/v1/holidays/DE", year="2026", **query).data["holidays"]
        (name,) = (holiday["name"] for holiday in listed if holiday["date"] == "2026-10-03")
        return str(name)

    assert name_of_3_october() == "German Unity Day"
    assert name_of_3_october(language="de") == "Tag der Deutschen Einheit"
    assert name_of_3_october(language="en") == name_of_3_october(language="en_US")


def test_a_year_left_out_is_the_current_one(api: Client) -> None:
    assert api.get("/v1/holidays/de").data["year"] == TODAY.year
    assert api.get("/v1/next/DE").data["from"] == TODAY.isoformat()


def test_answers_that_depend_on_the_day_are_not_kept_by_clients(api: Client) -> None:
    assert api.get("/v1/next/DE").headers["cache-control"] == "no-store"
    assert "max-age" in api.get("/v1/next/DE", **{"from": "2026-01-01"}).headers["cache-control"]


@pytest.mark.parametrize(
    ("country", "day", "working", "reason"),
    [
        ("DE", "2026-10-05", True, "working_day"),
        ("DE", "2026-10-04", False, "weekend"),
        ("DE", "2026-10-03", False, "weekend"),  # German Unity Day, on a Saturday
        ("DE", "2026-12-25", False, "holiday"),
        ("SA", "2026-10-04", True, "working_day"),  # Sunday
        ("SA", "2026-10-02", False, "weekend"),  # Friday
        ("CN", "2026-01-04", True, "weekend_workday"),
    ],
)
def test_working_days_follow_the_country(
    api: Client, country: str, day: str, working: bool, reason: str
) -> None:
    answer = api.get(f"/v1/workdays/check/{country}", date=day)

    assert (answer.data["working_day"], answer.data["reason"]) == (working, reason)


@settings(max_examples=25, deadline=None)
@given(
    first=st.dates(date(2015, 1, 1), date(2030, 12, 31)),
    days=st.integers(0, 90),
    country=st.sampled_from(["DE", "SA", "CN", "US", "IL", "IN"]),
)
def test_business_days_are_the_days_that_check_calls_working(
    api: Client, first: date, days: int, country: str
) -> None:
    span = [date.fromordinal(first.toordinal() + offset) for offset in range(days + 1)]

    checks = [api.get(f"/v1/workdays/check/{country}", date=str(day)).data for day in span]
    counted = api.get(
        "/v1/workdays/between", country=country, **{"from": str(span[0]), "to": str(span[-1])}
    ).data

    assert counted["business_days"] == sum(check["working_day"] for check in checks)
    kinds = counted["business_days"] + counted["weekend_days"] + counted["holidays"]
    assert kinds == counted["calendar_days"] == len(span)


def test_a_batch_reports_the_rows_that_it_returned(api: Client) -> None:
    answer = api.post("/v1/holidays/batch", {"countries": ["de", "FR", "JP"], "year": 2026})

    listed = answer.data["countries"]
    rows = sum(len(country["holidays"]) for country in listed)
    assert [country["country"] for country in listed] == ["DE", "FR", "JP"]
    assert answer.data["count"] == rows > 0
    assert answer.headers["keystile-units"] == f"rows={rows}"


def test_a_batch_over_the_declared_maximum_is_refused_instead_of_cut(api: Client) -> None:
    declared = SPEC["paths"]["/v1/holidays/batch"]["post"]["x-keystile"]["max_units"]["rows"]
    fullest = sorted(calendars.COUNTRY_NAMES, key=lambda code: len(holidays_of(code)))[-50:]
    rows = sum(len(holidays_of(code)) for code in fullest)

    whole = api.post("/v1/holidays/batch", {"countries": fullest, "year": FULL_YEAR})
    part = api.post("/v1/holidays/batch", {"countries": fullest[:40], "year": FULL_YEAR})

    assert rows > declared
    assert (whole.status, part.status) == (400, 200)
    assert part.data["count"] <= declared


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"countries": ["DE"]},
        {"countries": ["DE"], "year": 2026, "more": 1},
        {"countries": "DE", "year": 2026},
        {"countries": [], "year": 2026},
        {"countries": ["DE", "de"], "year": 2026},
        {"countries": ["XX"], "year": 2026},
        {"countries": ["\ud800"], "year": 2026},
        {"countries": [1], "year": 2026},
        {"countries": ["DE"], "year": "2026"},
        {"countries": ["DE"], "year": True},
        {"countries": ["DE"], "year": 10**30},
        {"countries": ["DE"] * 51, "year": 2026},
        b"",
        b"{",
        b"[" * 10_000,
        b"\xff",
    ],
)
def test_a_batch_that_cannot_be_read_is_refused(api: Client, body: Any) -> None:
    answer = api.call(
        "POST", "/v1/holidays/batch", body, headers={"Content-Type": "application/json"}
    )

    assert answer.status == 400
    assert answer.data["detail"].endswith(".")
    assert "keystile-units" not in answer.headers


def test_a_batch_must_be_json_and_small(api: Client) -> None:
    plain = api.call("POST", "/v1/holidays/batch", b"{}", {"Content-Type": "text/plain"})
    large = api.post("/v1/holidays/batch", {"countries": ["DE" * 10_000], "year": 2026})

    assert (plain.status, large.status) == (415, 413)


@pytest.mark.parametrize(
    ("target", "status", "word"),
    [
        ("/v1/holidays/XX", 404, "country"),
        ("/v1/holidays/DEU", 404, "country"),
        ("/v1/holidays/DE?year=26", 400, "year"),
        ("/v1/holidays/DE?year=1800", 404, "known from"),
        ("/v1/holidays/DE?year=", 400, "year"),
        ("/v1/holidays/DE?yaer=2026", 400, "yaer"),
        ("/v1/holidays/DE?year=2026&year=2027", 400, "twice"),
        ("/v1/holidays/DE?language=tlh", 400, "en_US"),
        ("/v1/holidays/GB/2026", 404, "path"),
        ("/v1/holidays/DE?year=%ff", 400, "UTF-8"),
        ("/v1/next/DE?from=20261004", 400, "from"),
        ("/v1/next/DE?from=2026-02-30", 400, "from"),
        ("/v1/next/DE?from=2100-12-31", 404, "known"),
        ("/v1/workdays/check/DE", 400, "date"),
        ("/v1/workdays/between?country=DE&from=2026-01-02&to=2026-01-01", 400, "before"),
        ("/v1/workdays/between?country=DE&from=2020-01-01&to=2026-01-01", 400, "1830"),
        ("/v1/workdays/between?country=XX&from=2026-01-01&to=2026-01-01", 400, "XX"),
        ("/v1/slow?seconds=31", 400, "30"),
        ("/v1/slow?seconds=-1", 400, "30"),
        ("/v1/slow?seconds=nan", 400, "30"),
        ("/v1/fail?status=200", 400, "400 to 599"),
        ("/v1/countries?page=2", 400, "page"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_a_sentence(
    api: Client, target: str, status: int, word: str
) -> None:
    answer = api.call("GET", target)

    assert (answer.status, answer.data["status"]) == (status, status)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert word in answer.data["detail"]


def test_a_method_that_a_path_does_not_take_is_refused_with_those_it_takes(api: Client) -> None:
    answer = api.call("DELETE", "/v1/countries")

    assert (answer.status, answer.headers["allow"]) == (405, "GET")


@settings(max_examples=150, deadline=None)
@given(
    path=st.sampled_from(
        [path.replace("{country}", "{0}") for path in SPEC["paths"] if path != "/v1/fail"]
    ),
    segment=st.text(min_size=1, max_size=6),
    query=st.dictionaries(
        st.sampled_from(["year", "language", "from", "to", "date", "country", "x"]),
        st.one_of(
            st.text(max_size=12),
            st.dates().map(str),
            st.integers(-1, 10_000).map(str),
            st.sampled_from(["DE", "AE", "0001-01-01", "9999-12-31"]),
        ),
        max_size=3,
    ),
)
def test_no_input_breaks_it(api: Client, path: str, segment: str, query: dict[str, str]) -> None:
    pathname = path.format(quote(segment, safe="", errors="replace"))
    encoded = urlencode({"seconds": "0"} if path == "/v1/slow" else query, errors="replace")

    answer = api.call("GET", f"{pathname}?{encoded}")

    assert answer.status in (200, 400, 404, 405)
    if answer.status != 200:
        assert_follows(answer.data, SPEC["components"]["schemas"]["Problem"])


def test_failing_on_request(api: Client) -> None:
    assert api.get("/v1/fail").status == 500
    for status in (400, 418, 429, 499, 503, 599):
        answer = api.get("/v1/fail", status=str(status))
        assert (answer.status, answer.data["status"]) == (status, status)


def test_a_slow_call_sends_nothing_before_its_time(api: Client) -> None:
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", api.port)) as connection:
        head = (
            f"GET /v1/slow?seconds=0.4 HTTP/1.1\r\nHost: x\r\nX-Upstream-Secret: {SECRET}\r\n\r\n"
        )
        connection.sendall(head.encode())
        first_bytes = connection.recv(12)

    assert first_bytes == b"HTTP/1.1 200"
    assert time.monotonic() - started >= 0.4


def test_a_slow_call_holds_up_no_other(api: Client) -> None:
    waiting = threading.Thread(target=Client(api.port).get, args=("/v1/slow?seconds=1",))
    waiting.start()
    started = time.monotonic()

    api.get("/v1/countries")

    assert time.monotonic() - started < 0.8
    waiting.join()
