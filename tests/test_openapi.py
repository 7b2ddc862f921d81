"""Documents that sellers bring: good ones become operations, bad ones a sentence."""

import contextlib
import copy
import datetime
import http.server
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import addresses, fetching, openapi, plain_data
from gateway.addresses import EVERYWHERE, Networks
from gateway.openapi import InvalidDocument
from portal.demo.holidays_api import DOCUMENT

OK = {"200": {"description": "Fine."}}


def document(**changes: Any) -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {"title": "Shop", "version": "1.2"},
        "paths": {"/orders": {"get": {"responses": OK}}},
    } | changes


def with_paths(*templates: str, **operation: Any) -> dict[str, Any]:
    paths = {}
    for template in templates:
        names = openapi.PARAMETER.findall(template)
        declared = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
        paths[template] = {"get": {"parameters": declared, "responses": OK, **operation}}
    return document(paths=paths)


def read(raw: Any) -> openapi.Document:
    return openapi.read(json.dumps(raw).encode())


def refusal(raw: Any) -> str:
    """The sentence with which a document is refused."""
    text = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    with pytest.raises(InvalidDocument) as caught:
        openapi.read(text)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert len(sentence) < 700
    return sentence


# --- What is read


def test_the_demo_s_document_is_read_with_its_weights() -> None:
    read_document = openapi.read(DOCUMENT)

    specs = {(spec.method, spec.path_template): spec for spec in read_document.operations}
    assert (read_document.title, read_document.version) == ("Holidays API", "1.0.0")
    assert specs["GET", "/v1/workdays/between"].weights == {"calls": 2}
    assert specs["POST", "/v1/holidays/batch"].max_units == {"rows": 1000}


def test_json_and_yaml_of_one_document_are_the_same() -> None:
    as_yaml = yaml.safe_dump(json.loads(DOCUMENT), sort_keys=False).encode()

    assert openapi.read(as_yaml) == openapi.read(DOCUMENT)


def test_yaml_is_read_by_the_rules_of_openapi() -> None:
    text = b"""
openapi: 3.0.3
info: {title: Shop, version: '1'}
paths:
  /orders:
    get:
      parameters:
        - {name: since, in: query, schema: {type: string, enum: [2026-01-01, no, 012, 1_000]}}
      responses:
        200: {description: Fine.}
"""

    operation = openapi.read(text).raw["paths"]["/orders"]["get"]

    assert operation["responses"] == {"200": {"description": "Fine."}}
    assert operation["parameters"][0]["schema"]["enum"] == ["2026-01-01", "no", "012", "1_000"]


def test_yaml_may_share_parts_by_alias_and_merge() -> None:
    text = b"""
openapi: 3.1.0
info: {title: Shop, version: '1'}
x-fine: &fine {description: Fine.}
paths:
  /orders:
    get: {responses: {200: *fine}}
    post: {responses: {201: {<<: *fine, description: Made.}}}
"""

    item = openapi.read(text).raw["paths"]["/orders"]

    assert item["get"]["responses"]["200"] == {"description": "Fine."}
    assert item["post"]["responses"]["201"] == {"description": "Made."}


def test_a_path_item_may_be_a_reference() -> None:
    raw = document(
        paths={"/orders": {"$ref": "#/components/pathItems/Orders"}},
        components={"pathItems": {"Orders": {"get": {"responses": OK, "summary": "List"}}}},
    )

    (spec,) = read(raw).operations

    assert (spec.method, spec.path_template, spec.summary) == ("GET", "/orders", "List")


def test_recursive_schemas_are_fine() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/components/schemas/Node"}}}

    read(document(components={"schemas": {"Node": node}}))


@pytest.mark.parametrize(
    "template", ["/", "/a/{id}", "/reports/{name}.{format}", "/a/{id}:cancel", "/a%20b", "/a/"]
)
def test_path_templates_that_the_gateway_can_match(template: str) -> None:
    (spec,) = read(with_paths(template)).operations

    assert spec.path_template == template


# --- What is refused, and how


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"swagger": "2.0", "info": {}, "paths": {}}, "Swagger 2.0"),
        (document(openapi="3.2.0"), "3.0 and 3.1"),
        (document(openapi=3.1), "3.1.0"),
        ([], "not an OpenAPI document"),
        ({}, "'openapi'"),
        (b"", "not an OpenAPI document"),
        (b"Hello, world", "not an OpenAPI document"),
        (b"{", "JSON"),
        (b"a: [", "YAML"),
        (b"a: b\n---\nc: d\n", "YAML"),
        (b"\xff\xfe", "UTF-8"),
        (b"a: !!python/object/apply:os.system [id]", "YAML"),
        (b"a: !!timestamp 2026-01-01", "JSON does not know"),
        (b"a: !!set {b}", "JSON does not know"),
        (b"? [a, b]\n: c", "plain text"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a": "\\u0000"}', "NUL"),
        (b'{"a": "\\ud800"}', "half a character"),
        (b'{"a": 1, "a": 2}', "'a' twice"),
        (b"a: 1\nb: 2\na: 3\n", "again at line 3"),
        (document(paths={}), "no operation"),
        (document(info={"title": "Shop"}), "version"),
        (document(paths={"/a": {"gett": {"responses": OK}}}), "gett"),
        (document(paths={"/a": {"trace": {"responses": OK}}}), "TRACE"),
        (document(components={"schemas": {"A": {"type": "strng"}}}), "strng"),
    ],
)
def test_what_cannot_be_sold_from_is_refused_with_its_reason(raw: Any, words: str) -> None:
    assert words in refusal(raw)


@pytest.mark.parametrize("version", ["3.0.3", "3.1.0"])
def test_a_mistake_is_named_with_its_place(version: str) -> None:
    raw = document(openapi=version, paths={"/orders": {"get": {"responses": {"200": {}}}}})

    assert "at paths › /orders › get › responses › 200:" in refusal(raw)


@pytest.mark.parametrize(
    ("templates", "words"),
    [
        (["/a/{id}", "/a/{name}"], "differ in the names"),
        (["/a/{id}/b", "/a/{name}/b"], "would match both"),
        (["/a/{id"], "braces"),
        (["/a/id}"], "braces"),
        (["/a/{}"], "braces"),
        (["/a/{x/y}"], "braces"),
        (["/a/{path*}"], "plain name"),
        (["/a/{+path}"], "plain name"),
        (["/a/{id}{format}"], "nothing between"),
        (["/a/{id}/{id}"], "twice"),
        (["/a?b=c"], "query"),
        (["/a b"], "blank"),
        (["/ä"], "percent-encoding"),
        (["/a/../b"], "'..'"),
        (["/a/%2e%2e/b"], "'..'"),
        (["/" + "a" * 300], "longer"),
    ],
)
def test_paths_that_the_gateway_cannot_match_are_refused(templates: list[str], words: str) -> None:
    assert words in refusal(with_paths(*templates))


def test_a_parameter_of_the_path_must_be_declared() -> None:
    raw = document(paths={"/a/{id}": {"get": {"responses": OK}}})

    assert "'id'" in refusal(raw)


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ([], "'weights', 'max_units' and 'scope'"),
        ({"wieghts": {}}, "'weights', 'max_units' and 'scope'"),
        ({"weights": [2]}, "map meters"),
        ({"weights": {"calls": 0}}, "from 1"),
        ({"weights": {"calls": True}}, "whole number"),
        ({"weights": {"calls": 1.5}}, "whole number"),
        ({"weights": {"calls": "2"}}, "whole number"),
        ({"weights": {"calls": 10**12}}, "1,000,000"),
        ({"weights": {"Große": 1}}, "small letters"),
        ({"max_units": {"calls": 5}}, "counted by the gateway"),
        ({"weights": {"rows": 1}, "max_units": {"rows": 5}}, "in weights and in max_units"),
    ],
)
def test_costs_that_make_no_sense_are_refused(terms: Any, words: str) -> None:
    sentence = refusal(with_paths("/a", **{"x-keystile": terms}))

    assert words in sentence
    assert "GET /a" in sentence


# --- Hostile documents


def test_aliases_that_multiply_are_refused_at_once() -> None:
    laughs = b"a0: &a0 [ha, ha, ha]\n" + b"".join(
        b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 40)
    )
    started = time.monotonic()

    assert "aliases written out" in refusal(laughs)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("text", [b"a: &a [*a]", b"a: *nowhere", b"a: &a {<<: *a}"])
def test_aliases_of_what_is_not_complete_are_refused(text: bytes) -> None:
    assert "refers to nothing before it" in refusal(text)


@pytest.mark.parametrize("text", [b'{"a":' * 100_000, b"[" * 100_000, b"- " * 10_000, b"{" * 3000])
def test_depth_is_bounded(text: bytes) -> None:
    refusal(text)
    nested = json.dumps({"a": json.loads("[" * 90 + "]" * 90)}).encode()
    assert "deeper" in refusal(nested)


def test_size_is_bounded() -> None:
    assert "5 MB" in refusal(b" " * (plain_data.MAX_BYTES + 1))
    assert "values" in refusal(b'{"a": [' + b"1," * 400_000 + b"1]}")


@contextlib.contextmanager
def listening() -> Iterator[tuple[int, list[str]]]:
    """A server on loopback and the paths that were asked of it."""
    asked: list[str] = []

    class Recorder(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"type": "string"}')

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_address[1], asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_references_to_elsewhere_are_never_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text('{"type": "string"}')

    with listening() as (port, asked):
        url = f"http://127.0.0.1:{port}/schema.json"
        schemas: list[dict[str, Any]] = [
            {"$ref": url},
            {"$ref": secret.as_uri()},
            {"$ref": "other.json#/A"},
            {"$ref": "//127.0.0.1/A"},
            {"$dynamicRef": url},
            {"properties": {"example": {"$ref": url, "default": "x"}}},
            {"properties": {"default": {"$ref": url}}},
            {"allOf": [{"$ref": url}]},
        ]
        for schema in schemas:
            refusal(document(components={"schemas": {"A": schema}}))
        refusal(document(paths={"/a": {"$ref": url}}))
        refusal(document(jsonSchemaDialect=url, components={"schemas": {"A": {"type": "string"}}}))
        based = {"$id": url, "default": 1, "allOf": [{"$ref": "#/components/schemas/B"}]}
        read(document(components={"schemas": {"A": based, "B": {"type": "integer"}}}))

    assert asked == []


def test_a_reference_in_an_example_is_the_seller_s_own_data() -> None:
    example = {"$ref": "https://example.com/schema.json"}

    read(document(components={"schemas": {"A": {"type": "object", "example": example}}}))


@pytest.mark.parametrize(
    "components",
    [
        {
            "schemas": {
                "A": {"$ref": "#/components/schemas/B"},
                "B": {"$ref": "#/components/schemas/A"},
            }
        },
        {"schemas": {"A": {"$ref": "#/components/schemas/A"}}},
        {"schemas": {"A": {"$ref": "#/components/schemas/Missing"}}},
        {"schemas": {"A": {"$ref": "#anchor"}}},
        {"parameters": {"A": {"$ref": "#/components/parameters/A"}}},
    ],
)
def test_references_that_lead_nowhere_are_refused(components: dict[str, Any]) -> None:
    refusal(document(components=components))


def test_a_reference_to_the_wrong_kind_of_object_is_refused() -> None:
    raw = with_paths("/a", parameters=[{"$ref": "#/info"}])

    assert "wrong kind" in refusal(raw)


def test_patterns_of_a_seller_are_not_run() -> None:
    schema = {"type": "string", "pattern": "^(a+)+$", "default": "a" * 60 + "!"}
    started = time.monotonic()

    read(document(components={"schemas": {"A": schema}}))

    assert time.monotonic() - started < 5


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything inside plain data."""
    if isinstance(node, dict | list):
        for key, member in node.items() if isinstance(node, dict) else enumerate(node):
            yield (*path, key)
            yield from places(member, (*path, key))


SPEC = json.loads(DOCUMENT)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("#/components"),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["$ref", "type", "properties", "name", "in", "get"]), inner, max_size=2
        )
    ),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(list(places(SPEC))), JUNK)
def test_any_change_to_a_document_is_read_or_refused_but_never_breaks(
    place: tuple[Any, ...], junk: Any
) -> None:
    changed = copy.deepcopy(SPEC)
    parent = changed
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = junk

    with contextlib.suppress(InvalidDocument):
        read(changed)


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=200)
    | st.text(alphabet=":-?&*!|>'\"{}[], \n\tab0~<", max_size=60).map(str.encode)
)
def test_any_bytes_are_read_or_refused_but_never_break(text: bytes) -> None:
    with contextlib.suppress(plain_data.Unreadable):
        json.dumps(plain_data.load(text), allow_nan=False).encode()


# --- References and previews


def test_a_pointer_is_resolved_through_references_and_escapes() -> None:
    raw = {
        "a/b": {"~c": [{"$ref": "#/d"}]},
        "d": {"$ref": "#/e%20f"},
        "e f": {"type": "string"},
    }

    assert openapi.resolve(raw, "#/a~1b/~0c/0") == {"type": "string"}
    assert openapi.resolve(raw, "#") is raw


def test_a_pointer_round_in_circles_ends_in_a_sentence() -> None:
    with pytest.raises(InvalidDocument, match="circles"):
        openapi.resolve({"a": {"$ref": "#/b"}, "b": {"$ref": "#/a"}}, "#/a")


def test_a_preview_tells_what_is_added_kept_and_removed() -> None:
    read_document = read(with_paths("/a", "/b"))

    found = openapi.preview(read_document, [("GET", "/b"), ("POST", "/b"), ("GET", "/c")])

    assert [spec.path_template for spec in found.added] == ["/a"]
    assert [spec.path_template for spec in found.kept] == ["/b"]
    assert found.removed == (("GET", "/c"), ("POST", "/b"))


# --- Fetching


class Peer(http.server.BaseHTTPRequestHandler):
    """Answers as its path says."""

    def do_GET(self) -> None:
        action, _, rest = self.path[1:].partition("/")
        if action == "to":
            self.answer(302, b"", Location=rest)
        elif action == "large":
            self.answer(200, b"x" * (plain_data.MAX_BYTES + 1))
        elif action == "short":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"half")
        elif action == "missing":
            self.answer(404, b"")
        else:
            self.answer(200, json.dumps({"host": self.headers["Host"]}).encode())

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@contextlib.contextmanager
def peer(wrap: Callable[[socket.socket], socket.socket] = lambda plain: plain) -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Peer)
    server.socket = wrap(server.socket)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with peer() as found:
        yield found


def failure(url: str, *, private: Networks = EVERYWHERE) -> str:
    with pytest.raises(InvalidDocument) as caught:
        openapi.fetch(url, private=private)
    return str(caught.value)


def test_a_url_is_fetched_and_its_redirects_followed(port: int) -> None:
    plain = openapi.fetch(f"http://localhost:{port}/doc", private=EVERYWHERE)
    redirected = openapi.fetch(f"http://localhost:{port}/to//doc", private=EVERYWHERE)

    assert json.loads(plain) == {"host": f"localhost:{port}"}
    assert redirected == plain


def test_private_addresses_are_refused_unless_allowed(port: int) -> None:
    for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0"):
        assert "private network" in failure(f"http://{host}:{port}/", private=())


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "2002:a00:1::",
        "fd00:ec2::254",
    ],
)
def test_addresses_inside_are_not_public(address: str) -> None:
    assert not addresses.is_public(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f::1", "::ffff:8.8.8.8"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert addresses.is_public(address)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("missing", "404"),
        ("large", "larger than 5 MB"),
        ("short", "could not be reached"),
        ("to/file:///etc/passwd", "https://"),
        ("to//to//to//to//to//doc", "too many times"),
    ],
)
def test_a_failed_fetch_says_why(port: int, path: str, words: str) -> None:
    assert words in failure(f"http://127.0.0.1:{port}/{path}")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/doc",
        "file:///etc/passwd",
        "gopher://example.com/",
        "http://",
        "http://user:pass@example.com/",
        "http://example.com:0/",
        "http://example.com:99999/",
        "http://[::1/",
        "http://example.com/a b",
        "http://example.com/a\r\nX: y",
        "http://exämple.com/",
        f"http://{'a' * 80}.example/",
        "http://nothing.invalid/",
    ],
)
def test_what_is_not_a_url_of_the_web_is_refused(url: str) -> None:
    assert failure(url).endswith(".")


def test_a_server_that_drips_is_cut_off_by_the_clock() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                try:
                    while True:
                        connection.sendall(b"x")
                        time.sleep(0.05)
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        started = time.monotonic()

        with pytest.raises(fetching.Unfetchable, match="within 1 seconds"):
            fetching.get(
                f"http://127.0.0.1:{listener.getsockname()[1]}/",
                max_bytes=1000,
                timeout_seconds=1,
                private=EVERYWHERE,
            )

        assert time.monotonic() - started < 3
        thread.join(timeout=5)


def certificate(folder: Path, name: str) -> Path:
    """A key and a self-signed certificate for a host name, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(private + signed.public_bytes(encoding))
    return path


def test_tls_is_verified_against_the_host_and_not_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    file = certificate(tmp_path, "localhost")
    context.load_cert_chain(file)
    names: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: names.append(name)

    def wrap(plain: socket.socket) -> socket.socket:
        return context.wrap_socket(plain, server_side=True)

    with peer(wrap) as tls_port:
        unknown = failure(f"https://localhost:{tls_port}/doc")
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        fetched = openapi.fetch(f"https://localhost:{tls_port}/doc", private=EVERYWHERE)
        other_name = failure(f"https://127.0.0.1:{tls_port}/doc")

    assert json.loads(fetched) == {"host": f"localhost:{tls_port}"}
    assert "TLS" in unknown
    assert "TLS" in other_name
    assert set(names) == {"localhost", None}


def test_a_scope_is_a_short_plain_word():
    stated = read(with_paths("/a", **{"x-keystile": {"scope": "history"}}))

    assert [spec.scope for spec in stated.operations] == ["history"]
    for scope in ("History", "a,b", 5, ["history"]):
        sentence = refusal(with_paths("/a", **{"x-keystile": {"scope": scope}}))
        assert "small letters, digits and '-'" in sentence
