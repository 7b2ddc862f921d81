"""The API reference page: what it says, and that its samples are calls that work."""

import http.server
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any, ClassVar, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import pytest
from django.template.loader import render_to_string
from django.test import Client, RequestFactory
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import sync_playwright

from gateway import openapi
from gateway.models import Api
from portal import prose, reference, schemas, snippets
from portal.demo.holidays_api import DOCUMENT

SPEC = json.loads(DOCUMENT)
BASE_URL = "http://127.0.0.1:8001/gateway/holidays"


def costs_of(raw: bytes) -> dict[tuple[str, str], reference.Cost]:
    return {
        (spec.method, spec.path_template): reference.Cost(spec.weights, spec.max_units)
        for spec in openapi.read(raw).operations
    }


def made(raw: dict[str, Any], base_url: str = BASE_URL) -> reference.Reference:
    return reference.build(raw, base_url, costs_of(json.dumps(raw).encode()))


def operations(shown: reference.Reference) -> dict[str, reference.Operation]:
    return {
        f"{operation.method} {operation.path}": operation
        for group in shown.groups
        for operation in group.operations
    }


def document(operation: dict[str, Any], path: str = "/things", **rest: Any) -> dict[str, Any]:
    whole = {"responses": {"200": {"description": "Fine."}}, **operation}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Shop", "version": "1"},
        "paths": {path: {"post": whole}},
        **rest,
    }


@pytest.fixture(scope="module")
def holidays() -> dict[str, reference.Operation]:
    return operations(made(SPEC))


# --- What it says


def test_operations_stand_under_their_tags_in_the_document_s_order() -> None:
    shown = made(SPEC)

    assert [group.name for group in shown.groups] == [tag["name"] for tag in SPEC["tags"]]
    assert [operation.path for operation in shown.groups[1].operations] == [
        "/v1/workdays/between",
        "/v1/workdays/check/{country}",
    ]


def test_only_what_is_on_sale_is_shown_and_at_the_price_it_has() -> None:
    costs = {("GET", "/v1/countries"): reference.Cost({"calls": 3}, {"rows": 1000})}

    shown = operations(reference.build(SPEC, BASE_URL, costs))

    assert list(shown) == ["GET /v1/countries"]
    assert shown["GET /v1/countries"].costs == (
        "Counts as 3 calls.",
        "Uses up to 1,000 rows, as the answer reports.",
    )


def test_a_call_that_costs_one_call_has_nothing_to_say_about_it(
    holidays: dict[str, reference.Operation],
) -> None:
    assert holidays["GET /v1/countries"].costs == ()
    assert holidays["GET /v1/workdays/between"].costs == ("Counts as 2 calls.",)


def test_parameters_are_told_with_type_meaning_and_example(
    holidays: dict[str, reference.Operation],
) -> None:
    country, year, language = holidays["GET /v1/holidays/{country}"].parameters

    assert (country.place, country.required, country.value) == ("path", True, "DE")
    assert (year.type, year.required, year.value) == ("integer from 1000 to 9999", False, "2026")
    assert "<code>languages</code>" in language.description


def test_a_path_item_s_parameters_hold_unless_the_operation_has_its_own() -> None:
    raw = document({"parameters": [{"name": "a", "in": "query", "schema": {"type": "boolean"}}]})
    raw["paths"]["/things"]["parameters"] = [
        {"name": "a", "in": "query", "schema": {"type": "string"}},
        {"name": "b", "in": "query", "required": True, "schema": {"type": "string"}},
        {"name": "Authorization", "in": "header", "schema": {"type": "string"}},
    ]

    (operation,) = operations(made(raw)).values()

    assert [(parameter.name, parameter.type) for parameter in operation.parameters] == [
        ("b", "string"),
        ("a", "boolean"),
    ]


def test_bodies_are_told_field_by_field(holidays: dict[str, reference.Operation]) -> None:
    batch = holidays["POST /v1/holidays/batch"]
    answer = batch.responses[0].body

    assert batch.body is not None
    assert answer is not None
    assert {field.name for field in batch.body.fields} == {"countries", "year"}
    assert "countries[].holidays[].date" in {field.name for field in answer.fields}
    assert json.loads(batch.body.example) == {"countries": ["DE", "FR", "JP"], "year": 2026}


def test_a_name_used_twice_gets_an_anchor_of_its_own() -> None:
    raw = document({"tags": ["x"]})
    raw["paths"]["/x"] = {"get": raw["paths"]["/things"]["post"] | {"operationId": "x"}}

    shown = made(raw)

    (group,) = shown.groups
    assert [operation.anchor for operation in group.operations] == ["post-things", "x"]
    assert group.anchor == "x-2"


# --- Schemas in words


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({}, "any"),
        (True, "any"),
        ({"type": "string"}, "string"),
        ({"type": "string", "format": "date"}, "date"),
        ({"type": ["string", "null"]}, "string or null"),
        ({"type": "string", "nullable": True}, "string or null"),
        ({"type": "integer", "minimum": 1}, "integer, at least 1"),
        ({"type": "number", "maximum": 0.5}, "number, at most 0.5"),
        ({"type": "array", "items": {"type": "boolean"}}, "array of boolean"),
        ({"enum": ["a", 1, None, True]}, "one of a, 1, null, true"),
        ({"enum": list(range(20))}, "one of 0, 1, 2, 3, 4, 5, 6, 7, …"),
        ({"const": 5}, "always 5"),
        (
            {"oneOf": [{"type": "string"}, {"type": "integer"}, {"type": "string"}]},
            "string or integer",
        ),
        ({"properties": {"a": {}}}, "object"),
        ({"$ref": "#/components/schemas/Day"}, "date"),
        ({"allOf": [{"$ref": "#/components/schemas/Day"}, {"description": "x"}]}, "date"),
    ],
)
def test_types_are_told_in_words(schema: Any, words: str) -> None:
    components = {"schemas": {"Day": {"type": "string", "format": "date"}}}

    assert schemas.type_of({"components": components}, schema) == words


def test_parts_of_all_of_are_one_object() -> None:
    schema = {
        "allOf": [
            {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}},
            {"required": ["b"], "properties": {"b": {"type": "string", "format": "date"}}},
        ]
    }

    assert [(field.name, field.required) for field in schemas.fields({}, schema)] == [
        ("a", True),
        ("b", True),
    ]
    assert schemas.example({}, schema) == {"a": 1, "b": "2026-01-31"}


def test_schemas_that_refer_to_themselves_come_to_an_end() -> None:
    every = [{"$ref": f"#/components/schemas/S{number}"} for number in range(12)]
    tangled = {
        f"S{number}": {
            "allOf": every,
            "oneOf": every,
            "properties": {f"p{at}": schema for at, schema in enumerate(every)},
        }
        for number in range(12)
    }
    raw = {"components": {"schemas": tangled}}

    assert schemas.type_of(raw, every[0])
    assert len(schemas.fields(raw, every[0])) <= schemas.MAX_ROWS
    assert len(json.dumps(schemas.example(raw, every[0]))) < 100_000


# --- Samples


class Received(NamedTuple):
    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: str


class Recorder(http.server.BaseHTTPRequestHandler):
    """Keeps what it received; answers everything with a little JSON."""

    received: ClassVar[list[Received]] = []

    def do_any(self) -> None:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0))).decode()
        query = parse_qsl(parts.query, keep_blank_values=True)
        self.received.append(Received(self.command, parts.path, query, headers, body))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b'{"fine": true}')

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_any  # noqa: N815, as http.server names them

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def recorder() -> Iterator[str]:
    Recorder.received.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


AWKWARD = 'it\'s "$HOME" `x` ${y} \\ é\n{}%</script>'


def calls(address: str) -> list[snippets.Call]:
    """Calls that are hard to quote, each with a path of its own."""
    awkward_json = {"text": AWKWARD, "n": [1, 2.5, None, True], "long": ["word"] * 20}
    form = "application/x-www-form-urlencoded"
    return [
        snippets.Call("GET", f"{address}/0"),
        snippets.Call("GET", f"{address}/1", query={"q": AWKWARD, "tags": ["a", "b&c"]}),
        snippets.Call("GET", f"{address}/2", headers={"X-Name": "it's $HOME"}),
        snippets.Call("HEAD", f"{address}/3", answers_json=False),
        snippets.Call("DELETE", f"{address}/4"),
        snippets.Call("POST", f"{address}/5", body=awkward_json, media_type="application/json"),
        snippets.Call("PATCH", f"{address}/6", body={"a": 1}, media_type="application/x+json"),
        snippets.Call("PUT", f"{address}/7", body={"a": AWKWARD}, media_type=form),
        snippets.Call("POST", f"{address}/8", body=AWKWARD, media_type="text/plain"),
    ]


def assert_made(call: snippets.Call) -> None:
    """The recorder received the call as it was meant, with the key from the environment."""
    path = urlsplit(call.url).path
    (received,) = (one for one in Recorder.received if one.path == path)
    wanted = [
        (name, one)
        for name, value in call.query.items()
        for one in (value if isinstance(value, list) else [value])
    ]
    assert (received.method, received.query) == (call.method, wanted)
    assert received.headers["authorization"] == "Bearer ks_test_1"
    for name, value in call.headers.items():
        assert received.headers[name.lower()] == value
    if call.media_type:
        assert received.headers["content-type"].partition(";")[0] == call.media_type
        sent = json.loads(received.body) if call.sends_json else received.body
        assert sent == (call.body if call.sends_json else call.text)


def test_the_python_samples_make_the_calls(recorder: str) -> None:
    for call in calls(recorder):
        ran = subprocess.run(
            [sys.executable, "-c", snippets.python(call)],
            env={"KEYSTILE_KEY": "ks_test_1", "NO_PROXY": "*"},
            capture_output=True,
            text=True,
            timeout=30,
        )

        assert ran.stderr == ""
        assert_made(call)


def test_the_javascript_samples_make_the_calls(recorder: str) -> None:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"{recorder}/page")
        page.evaluate("globalThis.process = { env: { KEYSTILE_KEY: 'ks_test_1' } }")
        for call in calls(recorder):
            page.evaluate(f"async () => {{ {snippets.javascript(call)} }}")

            assert_made(call)
        browser.close()


def test_the_curl_samples_reach_curl_as_meant() -> None:
    """A shell reads the line; a stand-in for curl says which arguments arrived."""
    stand_in = f'curl() {{ {shlex.quote(sys.executable)} -c "$SAY" "$@"; }}\n'
    environment = {"SAY": "import json, sys; print(json.dumps(sys.argv[1:]))"}

    for call in calls("http://127.0.0.1"):
        ran = subprocess.run(
            ["sh", "-c", stand_in + snippets.curl(call)],
            env={**environment, "KEYSTILE_KEY": "ks_test_1"},
            capture_output=True,
            text=True,
            timeout=30,
        )
        address, *options = json.loads(ran.stdout)

        assert parse_qsl(urlsplit(address).query) == parse_qsl(urlsplit(call.address).query)
        assert "Authorization: Bearer ks_test_1" in options
        assert all(f"{name}: {value}" in options for name, value in call.headers.items())
        if call.media_type:
            assert f"Content-Type: {call.media_type}" in options
            sent = options[options.index("--data-raw") + 1]
            assert (json.loads(sent) if call.sends_json else sent) == (
                call.body if call.sends_json else call.text
            )
        method = "HEAD" if "--head" in options else "POST" if call.media_type else "GET"
        if "-X" in options:
            method = options[options.index("-X") + 1]
        assert method == call.method


def test_samples_call_the_gateway_with_the_document_s_examples(
    holidays: dict[str, reference.Operation],
) -> None:
    curl, python, _ = holidays["GET /v1/holidays/{country}"].samples

    assert curl.text == (
        f"curl '{BASE_URL}/v1/holidays/DE?year=2026&language=en' \\\n"
        '  -H "Authorization: Bearer $KEYSTILE_KEY"'
    )
    assert 'params={"year": "2026", "language": "en"}' in python.text


# --- Prose


def test_prose_shows_what_documents_use_of_markdown() -> None:
    text = "Some `code` and **weight**,\nsee [here](https://example.com/?a=1&b=2).\n\n- one\n- two"

    assert prose.html(text) == (
        "<p>Some <code>code</code> and <strong>weight</strong>,\nsee "
        '<a href="https://example.com/?a=1&amp;b=2" rel="nofollow">here</a>.</p>'
        "<ul><li>one</li><li>two</li></ul>"
    )


class Tags(HTMLParser):
    """Collects the tags and attributes of a piece of HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, list[tuple[str, str | None]]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, attrs))


def tags_of(text: str) -> list[tuple[str, list[tuple[str, str | None]]]]:
    parser = Tags()
    parser.feed(text)
    return parser.seen


MARKUP = st.text(alphabet="`*[]()<>\"'=/:&;- \nahtpsonclickx#.", max_size=80)


@settings(max_examples=300, deadline=None)
@given(MARKUP | MARKUP.map(lambda text: f"[x](https://{text})"))
def test_prose_never_lets_a_document_write_html(text: str) -> None:
    for tag, attributes in tags_of(prose.html(text) + prose.inline(text)):
        assert tag in {"p", "ul", "li", "code", "strong", "a"}
        assert {name for name, _ in attributes} <= {"href", "rel"}
        assert all(
            (value or "").startswith(("https://", "http://", "nofollow")) for _, value in attributes
        )


# --- The page


def page(shown: reference.Reference | None, **context: Any) -> str:
    request = RequestFactory().get("/docs/api/holidays/")
    return render_to_string(
        "docs/_reference.html", {"reference": shown, **context}, request=request
    )


def test_the_page_has_a_form_per_operation_for_those_who_may_try() -> None:
    text = page(made(SPEC), try_url="/dashboard/try/holidays/")

    forms = [dict(attrs) for tag, attrs in tags_of(text) if tag == "form"]
    names = {dict(attrs).get("name") for tag, attrs in tags_of(text) if tag != "a"}
    assert len(forms) == len(operations(made(SPEC)))
    assert {form["action"] for form in forms} == {"/dashboard/try/holidays/"}
    assert {form["hx-target"] for form in forms} == {"next .try-result"}
    assert {"method", "path_template", "param.path.country", "param.query.year", "body"} <= names
    assert "csrfmiddlewaretoken" in names
    assert "Sign in to try it here" not in text


def test_a_visitor_is_asked_to_sign_in_before_trying() -> None:
    text = page(made(SPEC))

    assert not [tag for tag, _ in tags_of(text) if tag == "form"]
    assert 'href="/login/?next=/docs/api/holidays/"' in text


def test_every_id_is_unique_and_every_label_has_its_input() -> None:
    seen = tags_of(page(made(SPEC), try_url="/try/"))

    ids = [dict(attrs)["id"] for _, attrs in seen if "id" in dict(attrs)]
    targets = [dict(attrs)["for"] for tag, attrs in seen if tag == "label" and "for" in dict(attrs)]
    anchors = [
        dict(attrs)["href"][1:]
        for tag, attrs in seen
        if tag == "a"
        if dict(attrs)["href"][0] == "#"
    ]
    assert len(ids) == len(set(ids))
    assert set(targets) | set(anchors) <= set(ids)


def test_nothing_in_a_document_becomes_markup() -> None:
    evil = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>"
    schema = {"type": "object", "description": evil, "properties": {evil: {"description": evil}}}
    raw = document(
        {
            "summary": evil,
            "description": evil,
            "operationId": evil,
            "tags": [evil],
            "parameters": [
                {
                    "name": "q",
                    "in": "query",
                    "description": evil,
                    "schema": {"enum": [evil]},
                    "example": evil,
                }
            ],
            "requestBody": {
                "description": evil,
                "content": {"application/json": {"schema": schema}},
            },
            "responses": {
                "200": {"description": evil, "content": {"text/plain": {"example": evil}}}
            },
        },
        tags=[{"name": evil, "description": evil}],
    )

    seen = tags_of(page(made(raw), try_url="/try/"))

    assert not {tag for tag, _ in seen} & {"script", "img", "style"}
    assert not [
        name for _, attrs in seen for name, _ in attrs if name.startswith("on") or name == "style"
    ]


def test_an_api_without_a_document_says_so() -> None:
    assert "no reference yet" in page(None)


@pytest.mark.django_db
def test_the_reference_page_is_open_to_visitors(client: Client) -> None:
    api = Api.objects.create(
        slug="days", name="Days", upstream_url="http://127.0.0.1:1", document=SPEC
    )
    api.operations.create(method="GET", path_template="/v1/countries")

    text = client.get("/docs/api/days/").content.decode()

    assert "List the countries" in text
    assert "/gateway/days/v1/countries" in text
    assert "/v1/slow" not in text


@pytest.mark.django_db
def test_the_reference_of_an_api_shows_its_operations_at_its_address() -> None:
    api = Api.objects.create(
        slug="days", name="Days", upstream_url="http://127.0.0.1:1", document=SPEC
    )
    api.operations.create(method="GET", path_template="/v1/countries", weights={"calls": 5})

    shown = reference.of(api)

    assert shown is not None
    assert shown.base_url.endswith("/gateway/days")
    (operation,) = operations(shown).values()
    assert operation.costs == ("Counts as 5 calls.",)
    assert reference.of(Api(slug="none", name="None")) is None
