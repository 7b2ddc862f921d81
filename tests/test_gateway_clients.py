"""Other people's HTTP clients through the gateway: they get what they would get directly."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import httptools
import pytest
import requests

from tests import traffic, upstream

pytestmark = pytest.mark.django_db


class Got(NamedTuple):
    status: int
    fields: dict[str, str]
    body: bytes


Body = bytes | Iterable[bytes] | None
Client = Callable[[str, int, str, dict[str, str], Body], Got]

BROKEN_OFF = (
    *(http.client.HTTPException, ConnectionError),
    *(requests.RequestException, httptools.HttpParserError),
)


def by_http_client(method: str, port: int, target: str, fields: dict[str, str], body: Body) -> Got:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    chunked = not isinstance(body, bytes | None)
    framing = {"Transfer-Encoding": "chunked"} if chunked else {}
    connection.request(method, target, body, fields | framing, encode_chunked=chunked)
    answer = connection.getresponse()
    got = Got(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    connection.close()
    return got


def by_urllib(method: str, port: int, target: str, fields: dict[str, str], body: Body) -> Got:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{target}", body, fields, method=method
    )
    try:
        answer = urllib.request.urlopen(request, timeout=10)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        found = {key.lower(): value for key, value in answer.headers.items()}
        return Got(answer.status, found, answer.read())


def by_requests(method: str, port: int, target: str, fields: dict[str, str], body: Body) -> Got:
    answer = requests.request(
        method, f"http://127.0.0.1:{port}{target}", headers=fields, data=body, timeout=10,
        allow_redirects=False,
    )  # fmt: skip
    found = {key.lower(): value for key, value in answer.headers.items()}
    return Got(answer.status_code, found, answer.content)


class _Parsed:
    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.body = b""
        self.complete = False

    def on_message_begin(self) -> None:
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields[name.decode().lower()] = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True


def by_httptools(method: str, port: int, target: str, fields: dict[str, str], body: Body) -> Got:
    given = {"Host": f"127.0.0.1:{port}"} | fields
    parts = [body] if isinstance(body, bytes) else list(body or [])
    if isinstance(body, bytes):
        given["Content-Length"] = str(len(body))
    elif body is not None:
        given["Transfer-Encoding"] = "chunked"
        parts = [b"%x\r\n%b\r\n" % (len(part), part) for part in parts] + [b"0\r\n\r\n"]
    parsed = _Parsed()
    parser = httptools.HttpResponseParser(parsed)
    with traffic.connect(port) as connection:
        connection.sendall(traffic.request_bytes(method, target, given) + b"".join(parts))
        # An interim answer is complete, too, and the final one comes after it.
        while not parsed.complete or parser.get_status_code() < 200:
            data = connection.recv(65536)
            if not data:
                raise ConnectionError("broken off")
            parser.feed_data(data)
            if method == "HEAD" and parser.get_status_code():
                break
    return Got(parser.get_status_code(), parsed.fields, parsed.body)


@pytest.fixture(scope="module")
def backend() -> Iterator[upstream.Upstream]:
    with upstream.serving() as serving:
        yield serving


@pytest.fixture(scope="module")
def running() -> Iterator[traffic.Gateway]:
    with traffic.gateway() as running:
        yield running


@pytest.fixture(scope="module")
def bearer(running, backend, django_db_setup, django_db_blocker) -> dict[str, str]:
    return traffic.on_stage(django_db_blocker, backend.url).bearer


@pytest.fixture(params=[by_http_client, by_urllib, by_requests, by_httptools])
def client(request) -> Client:
    return request.param


@pytest.fixture
def ask(client, running, bearer) -> Callable[..., Got]:
    def ask(method: str, target: str, body: Body = None, **fields: str) -> Got:
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        return client(method, running.port, f"/gateway/demo{target}", bearer | named, body)

    return ask


# ------------------------------------------------------------------ calls


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_bodies_arrive(ask, method):
    got = ask(method, "/echo/a%2Fb?x=1", b"\x00\xff{}", Content_Type="application/json")

    seen = json.loads(got.body)
    assert (got.status, got.fields["content-type"]) == (200, "application/json")
    assert (seen["method"], seen["target"]) == (method, "/echo/a%2Fb?x=1")
    assert seen["body"] == "\x00\xff{}"
    assert ["content-type", "application/json"] in [
        [name.lower(), value] for name, value in seen["fields"]
    ]


def test_bodies_without_a_length_arrive(ask):
    got = ask("POST", "/echo", iter([b"one,", b"two,", b"three"]))

    assert json.loads(got.body)["body"] == "one,two,three"


def test_head_ends_with_its_head(ask):
    got = ask("HEAD", "/status/200")

    assert (got.status, got.body, got.fields["content-length"]) == (200, b"", "7")


@pytest.mark.parametrize("status", [201, 204, 304, 400, 404, 418, 500, 503])
def test_statuses_arrive(ask, status):
    got = ask("GET", f"/status/{status}")

    assert got.status == status
    assert got.body == (b"" if status in (204, 304) else b"said so")


@pytest.mark.parametrize("target", ["/down?n=1000000", "/down?n=1000000&chunked"])
def test_large_answers_arrive(ask, target):
    assert ask("GET", target).body == b"x" * 1_000_000


def test_an_answer_without_a_length_arrives(ask):
    assert ask("GET", "/until_close").body == b"all of it"


def test_an_interim_answer_is_to_a_client_what_it_is_without_the_gateway(ask, client, backend):
    directly = client("GET", backend.port, "/interim", {}, None)

    got = ask("GET", "/interim")

    assert (got.status, got.body) == (directly.status, directly.body)


@pytest.mark.parametrize("how", ["", "chunked", "reset", "chunked&reset"])
def test_an_answer_that_breaks_off_is_an_error(ask, how):
    with pytest.raises(BROKEN_OFF):
        ask("GET", f"/truncated?{how}")


def test_a_refusal_is_problem_details(ask):
    got = ask("GET", "/echo", Authorization="Bearer ks_live_wrong")

    assert (got.status, got.fields["content-type"]) == (401, "application/problem+json")
    assert json.loads(got.body)["code"] == "malformed_key"


# ------------------------------------------------------------------ connections and streams


def test_a_session_keeps_its_connection(running, bearer):
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
    connection.connect()
    socket = connection.sock

    for body in (None, b"some", None, iter([b"in", b"chunks"]), None):
        connection.request("POST", "/gateway/demo/echo", body, bearer, encode_chunked=False)
        assert connection.getresponse().read()
        assert connection.sock is socket
    connection.close()


def test_a_session_of_requests_mixes_all_kinds(running, bearer):
    url = f"http://127.0.0.1:{running.port}/gateway/demo"
    with requests.Session() as session:
        session.headers.update(bearer)
        for _ in range(5):
            assert session.get(f"{url}/echo", timeout=5).status_code == 200
            assert session.head(f"{url}/status/200", timeout=5).status_code == 200
            assert session.get(f"{url}/status/204", timeout=5).status_code == 204
            assert session.get(f"{url}/down?n=100000&chunked", timeout=5).content == b"x" * 100_000
            files = {"file": ("a.bin", b"\0" * 100_000)}
            assert session.post(f"{url}/echo", files=files, timeout=5).status_code == 200


def _lines_of_requests(url: str, bearer: dict[str, str]) -> Iterator[bytes]:
    with requests.get(url, headers=bearer, stream=True, timeout=10) as answer:
        yield from answer.iter_lines(chunk_size=1)


def _lines_of_urllib(url: str, bearer: dict[str, str]) -> Iterator[bytes]:
    with urllib.request.urlopen(urllib.request.Request(url, headers=bearer), timeout=10) as answer:
        yield from answer


@pytest.mark.parametrize("lines", [_lines_of_requests, _lines_of_urllib])
def test_each_event_arrives_before_the_next_is_made(running, bearer, lines):
    url = f"http://127.0.0.1:{running.port}/gateway/demo/events?n=4&pause=0.25"
    started = time.monotonic()

    arrived = [
        time.monotonic() - started for line in lines(url, bearer) if line.startswith(b"data: ")
    ]

    assert len(arrived) == 4
    for number, at in enumerate(arrived):
        assert number * 0.25 - 0.05 < at < number * 0.25 + 0.2


@pytest.mark.parametrize("client", [by_http_client, by_urllib, by_requests])
def test_each_part_of_an_upload_arrives_before_the_next_is_made(running, bearer, backend, client):
    seen: list[int] = []

    def parts() -> Iterator[bytes]:
        for _ in range(4):
            yield b"x" * 1000
            time.sleep(0.1)
            seen.append(backend.requests[-1].body_bytes)

    got = client("POST", running.port, "/gateway/demo/echo", bearer, parts())

    assert got.status == 200
    assert seen == [1000, 2000, 3000, 4000]


def test_two_streams_at_once_are_told_apart(running, bearer):
    url = f"http://127.0.0.1:{running.port}/gateway/demo/events?n=3&pause=0.1"
    streams: list[Any] = [_lines_of_urllib(url, bearer) for _ in range(8)]

    got = [[next(stream) for stream in streams] for _ in range(6)]

    assert got == [[line] * 8 for number in range(3) for line in (b"data: %d\n" % number, b"\n")]
