"""The same bytes with the gateway and without it: requests and responses, field by field.

Each example is sent to the backend twice, directly and through the gateway. What may differ is
hop-by-hop (RFC 9110 §7.6.1) or said in `ADDED_TO_…` and `TAKEN_FROM_…`.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import strict, traffic
from tests.raw_client import RawClient
from tests.recorder import CLOSE, Recorder, recording

pytestmark = pytest.mark.django_db

HOP_BY_HOP = [b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"]
ADDED_TO_REQUESTS = [
    b"via",
    *(b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"),
    *(b"keystile-account", b"keystile-key", b"keystile-plan", b"keystile-event", b"keystile-mode"),
]
TAKEN_FROM_REQUESTS = [b"host", b"x-api-key"]
ADDED_TO_ANSWERS = [
    *(b"ratelimit", b"ratelimit-policy"),
    *(b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset"),
    *(b"keystile-event", b"keystile-mode", b"keystile-quota-remaining"),
]


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    with recording() as recorder:
        yield recorder


@pytest.fixture(scope="module")
def running() -> Iterator[traffic.Gateway]:
    with traffic.gateway() as running:
        yield running


@pytest.fixture(scope="module")
def secret(running, recorder, django_db_setup, django_db_blocker) -> str:
    return traffic.on_stage(django_db_blocker, recorder.url).secret


def end_to_end(message: strict.Message, without: list[bytes]) -> list[tuple[bytes, bytes]]:
    return [field for field in message.fields if field[0] not in HOP_BY_HOP + without]


often = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # on a machine that does other things
)


# ------------------------------------------------------------------ answers


def answers(
    running: traffic.Gateway, recorder: Recorder, secret: str, said: bytes, method: str = "GET"
) -> tuple[strict.Message, strict.Message]:
    """The answer as the backend gives it, and as it comes through the gateway."""
    closing = b"\r\ncontent-length:" not in said.lower() and b"chunked" not in said
    got = []
    with recorder.saying(said, *([CLOSE] if closing else [])):
        for port, target in ((recorder.port, "/x"), (running.port, "/gateway/demo/x")):
            with RawClient(port) as client:
                client.send(traffic.request_bytes(method, target, {"X-API-Key": secret}))
                got.append(client.answer(method))
    return got[0], got[1]


def assert_same_answer(direct: strict.Message, proxied: strict.Message) -> None:
    assert (proxied.status, proxied.body) == (direct.status, direct.body)
    lengths = direct.values("content-length")
    if direct.values("transfer-encoding") and proxied.values("content-length"):
        lengths = [
            b"%d" % len(direct.body)
        ]  # who takes chunks apart says how long all was (§7.1.3)
    assert proxied.values("content-length") == lengths
    ours = ADDED_TO_ANSWERS + ([] if direct.values("date") else [b"date"])
    # Framing may stand elsewhere: the order of different names means nothing (RFC 9110 §5.3).
    framing = [b"content-length"]
    assert end_to_end(proxied, ours + framing) == end_to_end(direct, framing)


def chunked(body: bytes, sizes: list[int]) -> bytes:
    """The body in chunks of these sizes, over and over."""
    parts, number = [], 0
    while body:
        size = sizes[number % len(sizes)]
        part, body = body[:size], body[size:]
        parts.append(b"%x\r\n%b\r\n" % (len(part), part))
        number += 1
    return b"".join(parts) + b"0\r\n\r\n"


def framed(body: bytes, framing: str, sizes: list[int]) -> tuple[bytes, bytes]:
    """The framing's field, and the body in it."""
    if framing == "length":
        return b"Content-Length: %d\r\n" % len(body), body
    if framing == "chunks":
        return b"Transfer-Encoding: chunked\r\n", chunked(body, sizes)
    return b"", body


names = st.sampled_from(
    [b"Content-Type", b"ETag", b"VARY", b"cache-control", b"Link", b"Content-Encoding", b"LoCaTiOn",
     b"WWW-Authenticate", b"Via", b"Warning", b"Age", b"Date", b"Content-Language", b"Allow",
     b"Access-Control-Allow-Origin", b"Strict-Transport-Security", b"X_Under_Score", b"X-Empty"]
) | st.from_regex(rb"X-[!#$%&'*+.^`|~0-9A-Za-z-]{1,30}", fullmatch=True)  # fmt: skip
values = st.from_regex(
    rb"([\x21-\x7e\x80-\xff]([\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?", fullmatch=True
) | st.sampled_from([b"x" * 8000, b'"a", "b"', b"a,b;c=d"])
fields = st.lists(st.tuples(names, values), max_size=12)
bodies = st.binary(max_size=300) | st.sampled_from(
    [bytes(range(256)) * 300, b"\r\n" * 50, b"0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]
)
chunk_sizes = st.lists(st.sampled_from([1, 2, 3, 7, 64, 1000, 65536]), min_size=1, max_size=4)
reasons = st.sampled_from([b"OK", b"", b"Not  Quite", b"\xc3\xa9t\xe9", b"404"])
statuses = st.sampled_from([200, 201, 203, 206, 226, 299, 300, 302, 307, 400, 401, 404, 410, 418,
                            429, 451, 500, 503, 599])  # fmt: skip


def lines(given_fields: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%b: %b\r\n" % field for field in given_fields)


@often
@given(
    status=statuses,
    reason=reasons,
    given_fields=fields,
    body=bodies,
    framing=st.sampled_from(["length", "chunks", "close"]),
    sizes=chunk_sizes,
)
def test_answers_are_the_same(
    running, recorder, secret, status, reason, given_fields, body, framing, sizes
):
    framing_field, data = framed(body, framing, sizes)
    said = b"HTTP/1.1 %d %b\r\n%b%b\r\n%b" % (
        *(status, reason, lines(given_fields), framing_field, data),
    )

    assert_same_answer(*answers(running, recorder, secret, said))


@often
@given(status=statuses, given_fields=fields, length=st.integers(0, 10**12))
def test_answers_to_head_are_the_same(running, recorder, secret, status, given_fields, length):
    said = b"HTTP/1.1 %d X\r\n%bContent-Length: %d\r\n\r\n" % (status, lines(given_fields), length)

    assert_same_answer(*answers(running, recorder, secret, said, "HEAD"))


@pytest.mark.parametrize("framing", ["length", "chunks", "close"])
@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 1_000_000])
def test_answers_of_every_size_are_the_same(running, recorder, secret, framing, size):
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    framing_field, data = framed(body, framing, [8191])
    said = b"HTTP/1.1 200 OK\r\n%b\r\n%b" % (framing_field, data)

    assert_same_answer(*answers(running, recorder, secret, said))


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 204 No Content\r\nETag: x\r\n\r\n",
        b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n',
        b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 1234\r\n\r\n',
        b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 206 X\r\nContent-Range: bytes 2-3/10\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b"
        % (len(gzip.compress(b"x" * 999, mtime=0)), gzip.compress(b"x" * 999, mtime=0)),
        b"HTTP/1.1 200 OK\r\nVary: a\r\nVary: b\r\nLink: <1>\r\nLink: <2>\r\n"
        b"Content-Length: 0\r\n\r\n",
        b'HTTP/1.1 401 X\r\nWWW-Authenticate: Basic realm="a"\r\nWWW-Authenticate: Bearer\r\n'
        b"Content-Length: 0\r\n\r\n",
        b"HTTP/1.1 429 X\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n%b\r\n"
        % b"".join(b"X-%d: %d\r\n" % (n, n) for n in range(200))
        .replace(b"X-0: 0", b"Content-Length: 0"),
    ],
    ids=["204", "304", "304 with a length", "205", "206", "date", "server", "gzip", "repeated",
         "401", "429", "200 fields"],
)  # fmt: skip
def test_answers_that_are_easily_changed_are_the_same(running, recorder, secret, said):
    assert_same_answer(*answers(running, recorder, secret, said))


@pytest.mark.parametrize("reason", [b"OK", b"Fine, thanks", b"", b"\xe9t\xe9"])
def test_the_reason_passes(running, recorder, secret, reason):
    said = b"HTTP/1.1 200 %b\r\nContent-Length: 0\r\n\r\n" % reason

    direct, proxied = answers(running, recorder, secret, said)

    assert proxied.reason == direct.reason


def test_cookies_of_the_backend_are_never_joined(running, recorder, secret):
    said = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1, 2\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n"

    _, proxied = answers(running, recorder, secret, said)

    assert proxied.values("set-cookie") in ([], [b"a=1, 2", b"b=2"])


# ------------------------------------------------------------------ requests


def requests(
    running: traffic.Gateway, recorder: Recorder, head: bytes, data: bytes, secret: str
) -> tuple[strict.Message, strict.Message]:
    """What the backend gets directly, and through the gateway. `head` has @ before its path."""
    got = []
    key = b"Host: gateway.test\r\nX-API-Key: %b\r\n\r\n" % secret.encode()
    for port, prefix in ((recorder.port, b""), (running.port, b"/gateway/demo")):
        recorder.forget()
        with RawClient(port) as client:
            client.send(head.replace(b"@", prefix, 1) + key + data)
            assert client.answer(head.split(b" ")[0].decode()).status == 200
        (request,) = recorder.requests()
        got.append(request)
    return got[0], got[1]


def assert_same_request(direct: strict.Message, proxied: strict.Message) -> None:
    assert proxied.first == direct.first
    assert proxied.body == direct.body
    assert end_to_end(proxied, ADDED_TO_REQUESTS + TAKEN_FROM_REQUESTS) == end_to_end(
        direct, TAKEN_FROM_REQUESTS
    )


request_names = st.sampled_from(
    [b"Accept", b"USER-AGENT", b"Accept-Encoding", b"range", b"If-None-Match", b"Content-Type",
     b"Content-Encoding", b"Referer", b"Origin", b"Date", b"Max-Forwards", b"Priority", b"Pragma",
     b"traceparent", b"Idempotency-Key", b"Sec-Fetch-Mode", b"X-Requested-With", b"Cache-Control"]
) | st.from_regex(rb"X-[A-EG-NP-Za-z0-9][!#$%&'*+.^`|~0-9A-Za-z-]{0,30}",
                    fullmatch=True)  # fmt: skip
methods = st.sampled_from([b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"REPORT"])
segments = st.from_regex(rb"s[A-Za-z0-9._~!$&'()*+,;=:@-]{0,20}", fullmatch=True) | st.from_regex(
    rb"(s|%(2[0-9AaBbCcDdFf]|[3-9A-Fa-f][0-9A-Fa-f])){1,8}", fullmatch=True
)
paths = st.lists(segments | st.just(b""), max_size=6).map(lambda found: b"/p/" + b"/".join(found))
queries = st.from_regex(rb"(\?[A-Za-z0-9._~!$&'()*+,;=:@/?%-]{0,60})?", fullmatch=True)


@often
@given(
    method=methods,
    path=paths,
    query=queries,
    given_fields=st.lists(st.tuples(request_names, values), max_size=12),
    body=bodies,
    framing=st.sampled_from(["length", "chunks", "none"]),
    sizes=chunk_sizes,
)
def test_requests_are_the_same(
    running, recorder, secret, method, path, query, given_fields, body, framing, sizes
):
    framing_field, data = framed(b"" if framing == "none" else body, framing, sizes)
    head = b"%b @%b%b HTTP/1.1\r\n%b%b" % (
        *(method, path, query, lines(given_fields), framing_field),
    )

    assert_same_request(*requests(running, recorder, head, data, secret))


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 1_000_000])
def test_requests_of_every_size_are_the_same(running, recorder, secret, framing, size):
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    framing_field, data = framed(body, framing, [65521])

    assert_same_request(
        *requests(running, recorder, b"POST @/x HTTP/1.1\r\n" + framing_field, data, secret)
    )


@pytest.mark.parametrize(
    "field",
    ["Authorization: Basic dTpw", "Authorization: Digest a, b", "Range: bytes=0-1,5-",
     "Accept: a\r\nAccept: b", "If-Match: \"a\", W/\"b\"", "Content-Type: a/b; charset=\"x\"",
     "Accept-Encoding: gzip, br;q=0.5", "From: a@b", "Prefer: respond-async", "DNT: 1"],
)  # fmt: skip
def test_fields_that_are_easily_changed_are_the_same(running, recorder, secret, field):
    head = b"GET @/x HTTP/1.1\r\n%b\r\n" % field.encode()

    assert_same_request(*requests(running, recorder, head, b"", secret))
