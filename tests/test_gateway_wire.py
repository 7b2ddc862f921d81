"""What backend and client see of each other, byte for byte, and what neither may send."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from gateway import catalogue
from tests import strict, traffic, upstream
from tests.raw_client import RawClient
from tests.traffic import (
    Customer,
    ask,
    ask_raw,
    connect,
    eventually,
    make_customer,
    put_on_sale,
    read_answer,
    request_bytes,
)

pytestmark = pytest.mark.django_db

MB = 1024 * 1024


@pytest.fixture(scope="module")
def backend() -> Iterator[upstream.Upstream]:
    with upstream.serving() as serving:
        yield serving


@pytest.fixture(scope="module")
def running() -> Iterator[traffic.Gateway]:
    with traffic.gateway() as running:
        yield running


@pytest.fixture
def door(running, redis_clean, backend) -> int:
    put_on_sale(
        backend.url,
        first_byte_timeout_seconds=1,
        idle_timeout_seconds=2,
        total_timeout_seconds=60,
        upstream_headers_sealed=catalogue.seal_headers({"X-Upstream-Secret": "s3cret"}),
    )
    return running.port


@pytest.fixture
def customer(door) -> Customer:
    return make_customer()


# ------------------------------------------------------------------ byte for byte


@pytest.mark.parametrize(
    "target",
    [
        "/echo",
        "/echo/",
        "/echo?",
        "/echo?a=1&a=2&&=&x",
        "/echo/?/?a?b",
        "/echo//double///slash/",
        "/echo/%7Etilde/%7etilde/~",
        "/echo/a%2Fb%2fc",
        "/echo/%zz%",
        "/echo/%E2%82%AC/%ff",
        "/echo/a+b%20c;p=1,2:@!$&'()*=",
        '/echo/[brackets]{braces}|pipe^"quotes"<>`',
        "/echo/...",
        "/echo/a..b/.hidden/x.",
        "/echo?next=../../etc/passwd&z=%2e%2e%00",
        "/echo/" + "x" * 4000,
    ],
)
def test_path_and_query_arrive_as_they_were_sent(door, customer, target):
    answer = ask(door, "GET", f"/gateway/demo{target}", customer.bearer)

    assert answer.status == 200
    assert answer.json["target"] == target


def test_the_gateways_own_listener_needs_no_prefix(door, customer):
    assert ask(door, "GET", "/demo/echo/a?b", customer.bearer).json["target"] == "/echo/a?b"
    assert ask(door, "GET", "/demo", customer.bearer).json["target"] == "/"
    assert ask(door, "GET", "/gateway/demo?x=1", customer.bearer).json["target"] == "/?x=1"


def test_a_backend_may_have_a_base_path(redis_clean, running, backend):
    put_on_sale(f"{backend.url}/echo/base/")
    customer = make_customer()

    answer = ask(running.port, "GET", "/gateway/demo/a%2Fb", customer.bearer)

    assert answer.json["target"] == "/echo/base/a%2Fb"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
def test_any_method_and_its_body_arrive(door, customer, method):
    answer = ask(door, method, "/gateway/demo/echo", customer.bearer, b"\x00\xff body")

    assert (answer.json["method"], answer.json["body"]) == (method, "\x00\xff body")


def test_fields_that_the_backend_gets(door, customer):
    sent = customer.bearer | {
        "Accept": "text/html",
        "X-Custom": "kept",
        "Connection": "keep-alive, X-Hop",
        "X-Hop": "1",
        "Keep-Alive": "timeout=5",
        "TE": "trailers",
        "Proxy-Authorization": "Basic x",
        "Cookie": "sessionid=portal",
        "X-Forwarded-For": "6.6.6.6",
        "X-Forwarded-Prefix": "/x",
        "X-Real-IP": "6.6.6.6",
        "Forwarded": "for=6.6.6.6",
        "Keystile-Account": "somebody",
        "Keystile_Account": "somebody",
        "X_Custom": "shadow",
        "X-Upstream-Secret": "guess",
    }

    answer = ask(door, "GET", "/gateway/demo/echo", sent)

    fields = answer.json["fields"]
    names = [name for name, _ in fields]
    assert len(names) == len(set(names))
    got = dict(fields)
    assert got.pop("host").startswith("127.0.0.1:")
    assert got == {
        "accept": "text/html",
        "x-custom": "kept",
        "via": "1.1 keystile",
        "x-upstream-secret": "s3cret",
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "http",
        "x-forwarded-host": "gateway.test",
        "keystile-account": str(customer.account.pk),
        "keystile-key": str(customer.key.pk),
        "keystile-plan": "Pro",
        "keystile-event": answer["keystile-event"],
        "keystile-mode": "live",
    }
    assert customer.secret not in str(fields)


def test_the_backends_own_authorization_passes_and_a_key_never_does(door, customer):
    own = {"X-API-Key": customer.secret, "Authorization": "Bearer token-of-the-backend"}
    both = {"X-API-Key": customer.secret, **customer.bearer}

    passed = ask(door, "GET", "/gateway/demo/echo", own)
    refused = ask(door, "GET", "/gateway/demo/echo", both)

    assert ["authorization", "Bearer token-of-the-backend"] in passed.json["fields"]
    assert customer.secret not in str(passed.json)
    assert refused.code == "malformed_key"


def test_test_calls_go_to_the_test_backend(running, redis_clean, backend):
    with upstream.serving() as rehearsal:
        put_on_sale(backend.url, test_upstream_url=rehearsal.url)
        customer = make_customer(mode="test")

        answer = ask(running.port, "GET", "/gateway/demo/echo", customer.bearer)

    assert answer["keystile-mode"] == "test"
    assert [request.target for request in rehearsal.requests] == ["/echo"]


def test_fields_that_the_client_gets(door, customer):
    answer = ask(door, "GET", "/gateway/demo/units?units=rows%3D3", customer.bearer)

    assert answer["x-kept"] == "yes"
    assert not [name for name in ("x-hop", "keystile-units", "keystile-account") if answer[name]]
    assert answer["x-ratelimit-limit"] == "100000"
    (entry,) = traffic.entries()
    assert entry["meta"] == {"model": "large", "region": "eu", "over_rows": "3"}
    assert entry["units"] == {"calls": 1}


@pytest.mark.parametrize("status", [200, 201, 302, 404, 418, 500])
def test_statuses_pass_and_redirects_are_not_followed(door, customer, status):
    answer = ask(door, "GET", f"/gateway/demo/status/{status}", customer.bearer)

    assert (answer.status, answer.body) == (status, b"said so")
    assert answer["location"] == "/elsewhere"


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_a_body_keep_the_connection(door, customer, status):
    with connect(door) as client:
        for _ in range(2):
            client.sendall(request_bytes("GET", f"/gateway/demo/status/{status}", customer.bearer))
            answer = read_answer(client)
            assert (answer.status, answer["etag"]) == (status, '"x"')


def test_head_is_answered_as_by_the_backend(door, customer):
    with connect(door) as client:
        for _ in range(3):
            client.sendall(request_bytes("HEAD", "/gateway/demo/status/200", customer.bearer))
            answer = read_answer(client, "HEAD")
            assert (answer.status, answer["content-length"]) == (200, "7")


def test_an_interim_answer_comes_ahead_of_the_final_one(door, customer):
    with RawClient(door) as client:
        client.send(request_bytes("GET", "/gateway/demo/interim?pause=0.5", customer.bearer))
        hint = client.next(within_s=0.4)
        answer = client.next()

    assert (hint.status, hint.fields) == (103, [(b"link", b"</x>")])
    assert (answer.status, answer.body, answer.values("link")) == (200, b"final", [])


def test_a_body_that_ends_with_its_connection_is_whole(door, customer):
    answer = ask(door, "GET", "/gateway/demo/until_close", customer.bearer)

    assert (answer.status, answer.body, answer.complete) == (200, b"all of it", True)


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("until_close", b"all of it"),
        ("down?n=200000&chunked", b"x" * 200_000),
        ("down?n=200000", b"x" * 200_000),
        ("status/204", b""),
    ],
)
def test_an_http_1_0_client_gets_no_chunks(door, customer, target, body):
    request = traffic.request_bytes("GET", f"/gateway/demo/{target}", customer.bearer)
    with connect(door) as client:
        client.sendall(request.replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = client.makefile("rb").read()

    head, _, rest = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert rest == body


# ------------------------------------------------------------------ connections


def test_connections_to_the_backend_are_kept(door, customer, backend):
    before = backend.connections

    for _ in range(20):
        assert ask(door, "GET", "/gateway/demo/echo", customer.bearer).status == 200

    assert backend.connections - before <= 1


def test_a_connection_that_died_idle_costs_nobody_a_call(door, customer):
    for _ in range(4):
        assert ask(door, "GET", "/gateway/demo/once", customer.bearer).status == 200
        time.sleep(0.06)


def test_pipelined_calls_are_answered_in_order(door, customer):
    calls = [request_bytes("GET", f"/gateway/demo/echo/{n}", customer.bearer) for n in range(5)]
    with connect(door) as client, client.makefile("rb") as stream:
        client.sendall(b"".join(calls))
        targets = []
        for _ in range(5):
            length = 0
            while (line := stream.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            targets.append(stream.read(length).split(b'"target": "')[1].split(b'"')[0])

    assert targets == [b"/echo/%d" % n for n in range(5)]


# ------------------------------------------------------------------ streams


def test_events_pass_as_they_come(door, customer):
    with connect(door) as client:
        client.sendall(request_bytes("GET", "/gateway/demo/events?pause=0.4&n=3", customer.bearer))
        started = time.monotonic()
        arrived = b""
        while b"data: 0" not in arrived:
            arrived += client.recv(4096)
        assert time.monotonic() - started < 0.35
        while b"data: 1" not in arrived:
            arrived += client.recv(4096)
        assert 0.3 < time.monotonic() - started < 0.75


@pytest.mark.parametrize("framing", ["", "&chunked"])
def test_fifty_megabytes_come_down_in_bounded_memory(door, running, customer, framing):
    ask(door, "GET", "/gateway/demo/echo", customer.bearer)
    before_kb = running.memory_kb()
    most_kb = before_kb
    received = 0

    with connect(door) as client:
        client.sendall(
            request_bytes("GET", f"/gateway/demo/down?n={50 * MB}{framing}", customer.bearer)
        )
        while received < 50 * MB:
            data = client.recv(256 * 1024)
            assert data
            received += len(data)
            if received < 4 * MB:
                time.sleep(0.005)  # a slow reader holds the backend back
            most_kb = max(most_kb, running.memory_kb())

    assert most_kb - before_kb < 16 * 1024


@pytest.mark.parametrize("chunked", [False, True])
def test_fifty_megabytes_go_up_in_bounded_memory(door, running, backend, customer, chunked):
    before_kb = running.memory_kb()
    most_kb = before_kb
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {50 * MB}"
    part = b"y" * (256 * 1024)
    head = (
        f"POST /gateway/demo/echo HTTP/1.1\r\nHost: x\r\nX-API-Key: {customer.secret}\r\n{framing}"
    )
    with connect(door) as client:
        client.sendall(head.encode() + b"\r\n\r\n")
        for _ in range(200):
            client.sendall(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
            most_kb = max(most_kb, running.memory_kb())
        client.sendall(b"0\r\n\r\n" if chunked else b"")
        assert read_answer(client).status == 200

    assert backend.requests[-1].body_bytes == 50 * MB
    assert most_kb - before_kb < 16 * 1024
    (entry,) = traffic.entries()
    assert entry["in"] == 50 * MB


def test_large_bodies_arrive_unchanged(door, customer):
    data = hashlib.shake_256(b"seed").digest(60_000)

    answer = ask(door, "POST", "/gateway/demo/echo", customer.bearer, data)

    assert answer.json["body"].encode("latin-1") == data


def test_expect_continue_is_answered_before_the_body(door, customer):
    with connect(door) as client:
        fields = customer.bearer | {"Expect": "100-continue", "Content-Length": "4"}
        client.sendall(request_bytes("POST", "/gateway/demo/echo", fields))
        assert client.recv(1024).startswith(b"HTTP/1.1 100 ")
        client.sendall(b"body")
        answer = read_answer(client)

    assert answer.json["body"] == "body"
    assert "expect" not in dict(answer.json["fields"])


def test_an_early_answer_reaches_a_client_that_is_still_sending(door, customer):
    with connect(door) as client:
        fields = customer.bearer | {"Content-Length": str(50 * MB)}
        client.sendall(request_bytes("POST", "/gateway/demo/early", fields) + b"z" * 1000)
        answer = read_answer(client)

    assert (answer.status, answer.body) == (413, b"too much")


def test_a_body_without_a_length_is_stopped_at_the_limit(running, redis_clean, backend):
    put_on_sale(backend.url, max_body_bytes=100_000)
    customer = make_customer()
    head = f"POST /gateway/demo/echo HTTP/1.1\r\nHost: x\r\nX-API-Key: {customer.secret}\r\n"
    with connect(running.port) as client:
        client.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        client.sendall((b"c350\r\n" + b"y" * 50_000 + b"\r\n") * 3)
        answer = read_answer(client)

    assert answer.code == "body_too_large"
    (entry,) = traffic.entries()
    assert (entry["status"], entry["billable"]) == (413, False)
    assert traffic.used(customer) == 0


# ------------------------------------------------------------------ leaving in the middle


def test_a_client_that_leaves_before_the_answer_cancels_the_call(door, customer, backend):
    with connect(door) as client:
        client.sendall(request_bytes("GET", "/gateway/demo/never", customer.bearer))
        time.sleep(0.3)

    (entry,) = traffic.entries()
    assert (entry["status"], entry["billable"]) == (499, False)
    assert traffic.used(customer) == 0
    eventually(lambda: backend.requests[-1].aborted)


def test_a_client_that_leaves_a_stream_stops_the_backend(door, customer, backend):
    with connect(door) as client:
        client.sendall(request_bytes("GET", "/gateway/demo/events?pause=0.05", customer.bearer))
        assert b"200 OK" in client.recv(1024)

    (entry,) = traffic.entries()
    assert (entry["status"], entry["code"], entry["billable"]) == (200, "truncated", True)
    eventually(lambda: backend.requests[-1].aborted)


def test_a_client_that_leaves_in_the_middle_of_its_body_is_an_abort(door, customer, backend):
    with connect(door) as client:
        fields = customer.bearer | {"Content-Length": "1000000"}
        client.sendall(request_bytes("POST", "/gateway/demo/echo", fields) + b"z" * 70_000)
        time.sleep(0.2)

    (entry,) = traffic.entries()
    assert (entry["status"], entry["billable"]) == (499, False)
    eventually(lambda: backend.requests[-1].aborted)
    assert not backend.requests[-1].whole


@pytest.mark.parametrize("how", ["", "chunked", "reset", "chunked&reset"])
def test_an_answer_that_breaks_off_is_never_made_to_look_whole(door, customer, how):
    answer = ask(door, "GET", f"/gateway/demo/truncated?{how}", customer.bearer)

    assert answer.status == 200
    assert not answer.complete
    (entry,) = traffic.entries()
    assert (entry["status"], entry["code"]) == (200, "truncated")


def test_a_backend_that_does_not_answer_is_a_timeout(door, customer):
    started = time.monotonic()

    answer = ask(door, "GET", "/gateway/demo/never", customer.bearer)

    assert answer.code == "upstream_timeout"
    assert 0.9 < time.monotonic() - started < 2
    (entry,) = traffic.entries()
    assert (entry["status"], entry["billable"]) == (504, False)


def test_a_backend_that_falls_silent_is_cut_off(door, customer):
    started = time.monotonic()

    answer = ask(door, "GET", "/gateway/demo/events?pause=30", customer.bearer)

    assert not answer.complete
    assert 1.9 < time.monotonic() - started < 4


def test_a_call_ends_when_its_whole_time_is_over(running, redis_clean, backend):
    put_on_sale(backend.url, total_timeout_seconds=1)
    customer = make_customer()
    started = time.monotonic()

    answer = ask(running.port, "GET", "/gateway/demo/events?pause=0.1", customer.bearer)

    assert not answer.complete
    assert 0.9 < time.monotonic() - started < 2.5


@pytest.mark.parametrize(
    "said",
    [
        "not http at all\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nabc",
        "HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 042 What\r\nContent-Length: 0\r\n\r\n",
        "",
    ],
)
def test_a_malformed_answer_is_502(door, customer, said):
    target = f"/gateway/demo/raw?say={quote(said, encoding='latin-1')}&close"

    answer = ask(door, "GET", target, customer.bearer)

    assert (answer.status, answer.code) == (502, "upstream_unreachable")


def test_more_than_was_asked_for_is_not_the_next_callers(door, customer):
    doubled = "HTTP/1.1 200 OK%0D%0AContent-Length: 2%0D%0A%0D%0Aok".replace(" ", "%20")

    first = ask(door, "GET", f"/gateway/demo/raw?say={doubled}{doubled}", customer.bearer)
    second = ask(door, "GET", "/gateway/demo/echo", customer.bearer)

    assert first.body == b"ok"
    assert second.json["target"] == "/echo"


# ------------------------------------------------------------------ what is not let in

START = "GET /gateway/demo/echo HTTP/1.1\r\n"


@pytest.mark.parametrize(
    "path",
    [
        "/echo/../admin",
        "/echo/..",
        "/echo/./x",
        "/echo/.",
        "/echo/%2e%2e/admin",
        "/echo/.%2E/admin",
        "/echo/%2e/x",
        "/echo/..%2fadmin",
        "/echo/%2e%2e%2fadmin",
        "/echo/..%5cadmin",
        "/echo/..\\admin",
        "/echo/..;/admin",
        "/echo/..;x=1",
        "/echo/%252e%252e/admin",
        "/echo/%2f..%2fadmin",
        "/echo/a%00b",
        "/../demo/echo",
    ],
)
def test_dot_segments_and_nul_are_refused_in_every_spelling(door, customer, path):
    answer = ask(door, "GET", f"/gateway/demo{path}", customer.bearer)

    assert (answer.status, answer.code) == (400, "bad_request")
    assert traffic.entries() == []


@pytest.mark.parametrize(
    "host",
    [
        "",
        "Host: \r\n",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nHost: b\r\n",
        "Host: a, b\r\n",
        "Host: user@a\r\n",
        "Host: a/path\r\n",
        "Host: a b\r\n",
        "Host: a:port\r\n",
        "Host: a?x\r\n",
        "Host: [::1\r\n",
    ],
)
def test_host_is_one_host_and_nothing_else(door, customer, host):
    answer = ask_raw(door, f"{START}{host}X-API-Key: {customer.secret}\r\n\r\n".encode())

    assert answer is not None
    assert answer.status == 400


@pytest.mark.parametrize("host", ["a", "a:8080", "EXAMPLE.com.", "127.0.0.1", "[::1]:80"])
def test_ordinary_hosts_are_let_in(door, customer, host):
    answer = ask(door, "GET", "/gateway/demo/echo", customer.bearer | {"Host": host})

    assert dict(answer.json["fields"])["x-forwarded-host"] == host


@pytest.mark.parametrize(
    "first",
    [
        "GET * HTTP/1.1",
        "GET http://evil.test/gateway/demo/echo HTTP/1.1",
        "GET /gateway/demo/echo#fragment HTTP/1.1",
        "TRACE /gateway/demo/echo HTTP/1.1",
        "CONNECT /gateway/demo/echo HTTP/1.1",
        "CONNECT evil.test:80 HTTP/1.1",
        "GET /gateway/demo/ec ho HTTP/1.1",
        "GET /gateway/demo/echo HTTP/9.9",
        "GET /gateway/demo/\x80 HTTP/1.1",
    ],
)
def test_request_lines_that_are_refused(door, customer, first):
    answer = ask_raw(
        door, f"{first}\r\nHost: a\r\nX-API-Key: {customer.secret}\r\n\r\n".encode("latin-1")
    )

    assert answer is None or answer.status == 400


@pytest.mark.parametrize(
    "fields",
    [
        "Content-Length: 1\r\nContent-Length: 2\r\n",
        "Content-Length: 1, 1\r\n",
        "Content-Length: +1\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x1\r\n",
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding:\x0bchunked\r\n",
        "X: a\r\n folded\r\n",
        "X: a\nY: b\r\n",
        "X: a\rY: b\r\n",
        "X\x00: a\r\n",
        "X: a\x00b\r\n",
        "X y: a\r\n",
        ": empty\r\n",
        "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    ],
)
def test_framing_that_two_parsers_could_read_differently_is_refused(
    door, customer, backend, fields
):
    seen = len(backend.requests)
    smuggled = "1\r\nx\r\n0\r\n\r\nGET /gateway/demo/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    request = (
        f"POST /gateway/demo/echo HTTP/1.1\r\nHost: a\r\nX-API-Key: {customer.secret}\r\n"
        f"{fields}\r\n{smuggled}"
    )

    answer = ask_raw(door, request.encode("latin-1"))

    assert answer is None or answer.status in (400, 501)
    time.sleep(0.02)
    assert len(backend.requests) == seen


@pytest.mark.parametrize(
    "body",
    [b"5\r\nhello\r\n0\r\n", b"zz\r\nhello\r\n0\r\n\r\n", b"5 \r\nhello0\r\n\r\n", b"-1\r\n\r\n",
     b"5;ext\nhello\r\n0\r\n\r\n", b"5\r\nhelloX0\r\n\r\n"],
)  # fmt: skip
def test_broken_chunks_never_look_like_a_whole_body(door, customer, backend, body):
    head = (
        f"POST /gateway/demo/echo HTTP/1.1\r\nHost: a\r\nX-API-Key: {customer.secret}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    )
    seen = len(backend.requests)
    with connect(door) as client:
        client.sendall(head.encode() + body)
        time.sleep(0.1)
        client.shutdown(socket.SHUT_WR)
        client.settimeout(5)
        said = client.recv(4096)

    assert not said.startswith(b"HTTP/1.1 200")
    assert not any(request.whole for request in backend.requests[seen:])


def test_trailers_are_not_headers(door, customer):
    request = (
        f"POST /gateway/demo/echo HTTP/1.1\r\nHost: a\r\nX-API-Key: {customer.secret}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Trailer: 1\r\nHost: b\r\n\r\n"
    )

    answer = ask_raw(door, request.encode())

    assert answer is not None
    assert "x-trailer" not in dict(answer.json["fields"])


def test_an_endless_head_is_cut_off(door):
    with connect(door) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n")
        sent = 0
        with pytest.raises(ConnectionError):  # noqa: PT012
            while sent < 4 * MB:
                client.sendall(b"X-Filler: " + b"a" * 1000 + b"\r\n")
                sent += 1000
                time.sleep(0.0005)

    assert sent < 2 * MB


def test_many_clients_at_once_get_their_own_answers(door, customer):
    wrong: list[str] = []

    def many(worker: int) -> None:
        with connect(door) as client:
            for number in range(40):
                target = f"/echo/{worker}/{number}"
                client.sendall(
                    request_bytes("POST", f"/gateway/demo{target}", customer.bearer, b"%d" % number)
                )
                answer = read_answer(client)
                if (answer.json["target"], answer.json["body"]) != (target, str(number)):
                    wrong.append(target)

    workers = [threading.Thread(target=many, args=(worker,)) for worker in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert wrong == []


# ------------------------------------------------------------------ one connection, many callers


def test_fields_are_those_of_the_request_that_they_came_with(door):
    """A proxy before us sends several customers' calls over one connection, cut as it likes."""
    first, second = make_customer(), make_customer()
    whole = request_bytes("GET", "/gateway/demo/echo/1", first.bearer)
    other = request_bytes("GET", "/gateway/demo/echo/2", second.bearer)
    again = request_bytes("GET", "/gateway/demo/echo/3", first.bearer)
    with RawClient(door) as client:
        client.send(whole)
        accounts = [account_of(client.answer())]
        client.send(other[:40])
        time.sleep(0.05)
        client.send(other[40:])
        accounts.append(account_of(client.answer()))
        client.send(again)
        accounts.append(account_of(client.answer()))

    assert accounts[0] == accounts[2] != accounts[1]


def account_of(answer: strict.Message) -> str:
    return dict(json.loads(answer.body)["fields"])["keystile-account"]


@pytest.mark.parametrize("framed", ["Content-Length: 5", "Transfer-Encoding: chunked"])
def test_a_client_that_would_rather_speak_http_2_is_answered_in_http_1(door, customer, framed):
    fields = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    body = b"hello" if "Length" in framed else b"5\r\nhello\r\n0\r\n\r\n"
    head = request_bytes("POST", "/gateway/demo/echo", customer.bearer)[:-2].decode()
    with RawClient(door) as client:
        client.send(f"{head}{fields}{framed}\r\n\r\n".encode() + body)
        echoed = json.loads(client.answer().body)
        client.send(request_bytes("GET", "/gateway/demo/echo/after", customer.bearer))

        assert json.loads(client.answer().body)["target"] == "/echo/after"
    names = [name.lower() for name, _ in echoed["fields"]]
    assert not {"upgrade", "http2-settings", "connection"} & set(names)


def test_the_second_who_asks_for_http_2_on_a_connection_is_refused(door, customer):
    asking = request_bytes(
        "GET", "/gateway/demo/echo", customer.bearer | {"Connection": "Upgrade", "Upgrade": "h2c"}
    )
    with RawClient(door) as client:
        client.send(asking * 500)

        assert client.answer().status == 200
        assert client.answer().status == 400
        assert client.is_closed()
