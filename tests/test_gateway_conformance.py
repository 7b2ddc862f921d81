"""HTTP/1.1 at its edges, as a black box: what the gateway refuses, and what it makes of the rest.

The backend is a recorder of raw bytes, and both sides are read by `tests.strict`: whatever is
forwarded is exactly one request, framed once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from keys import records
from tests import answers, probes, strict, traffic
from tests.probes import Probe
from tests.raw_client import RawClient
from tests.recorder import CLOSE, RESET, Recorder, recording

# pytest-django makes the database only for tests that are marked; here the fixture alone asks it.
pytestmark = pytest.mark.django_db

SMUGGLED = b"GET /gateway/demo/smuggled HTTP/1.1\r\nHost: gateway.test\r\nX-API-Key: @KEY@\r\n\r\n"
AFTER = SMUGGLED.replace(b"smuggled", b"after")
NEVER_FORWARDED = [
    *("connection", "keep-alive", "te", "upgrade", "trailer", "expect", "x-hop", "x-sum"),
    *("x-api-key", "transfer_encoding", "content_length", "keystile_account", "http2-settings"),
]


@pytest.fixture(scope="module")
def running() -> Iterator[traffic.Gateway]:
    with traffic.gateway() as running:
        yield running


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    with recording() as recorder:
        yield recorder


@pytest.fixture(scope="module")
def customer(running, recorder, django_db_setup, django_db_blocker) -> traffic.Customer:
    return traffic.on_stage(
        django_db_blocker, recorder.url, first_byte_timeout_seconds=2, idle_timeout_seconds=2
    )


@pytest.fixture
def backend(recorder) -> Recorder:
    recorder.forget()
    return recorder


@pytest.fixture
def client(running, customer) -> Iterator[RawClient]:
    with RawClient(running.port) as client:
        yield client


@pytest.fixture
def keyed(customer):
    """Puts the caller's key in its place."""

    def put(data: bytes | str) -> bytes:
        data = data.encode("latin-1") if isinstance(data, str) else data
        return data.replace(b"@KEY@", customer.secret.encode())

    return put


def name(probe: Probe) -> str:
    return probe.name


def admitted() -> int:
    connection = records.connection()
    return connection.xlen(records.usage_stream(0)) + connection.hlen(records.open_name(0))


def assert_refused(client: RawClient, probe: Probe) -> None:
    answer = client.next(within_s=2)
    assert answer.status in probe.statuses, f"RFC {probe.section}: {answer.first!r}"
    assert client.is_closed(within_s=2), "the connection stayed open"
    assert client.unread == b"", "more than one answer"
    assert answer.values("connection") == [b"close"]
    if answer.status == 405:
        assert answer.values("allow")


def assert_forwarded(client: RawClient, backend: Recorder, probe: Probe, after: bytes) -> None:
    """As one request; and the next one on the connection is still told apart from it."""
    assert client.answer(within_s=2).status == 200
    client.send(after)
    assert client.answer(within_s=2).body == b"/after"

    request, _ = backend.requests()
    assert (request.target, request.body) == (probe.target, probe.body.encode("latin-1"))
    assert [name for name in NEVER_FORWARDED if request.values(name)] == []
    assert request.values("keystile-account") not in ([], [b"1"])
    assert request.values("x-forwarded-for") == [b"127.0.0.1"]
    assert request.trailers == []


# ------------------------------------------------------------------ requests


@pytest.mark.parametrize("probe", probes.REFUSED, ids=name)
def test_refused(client, backend, keyed, probe):
    before = admitted()

    client.send(keyed(probe.data.encode("latin-1") + SMUGGLED))

    assert_refused(client, probe)
    if probe in probes.CHUNKS:
        assert backend.whole_requests() == []
    else:
        assert backend.record == []
        assert admitted() == before


@pytest.mark.parametrize("probe", probes.CHUNKS, ids=name)
def test_refused_when_the_body_comes_later(client, backend, keyed, probe):
    head, blank, body = keyed(probe.data.encode("latin-1") + SMUGGLED).partition(b"\r\n\r\n")

    client.send(head + blank)
    time.sleep(0.02)
    client.send(body)

    assert_refused(client, probe)
    assert backend.whole_requests() == []


@pytest.mark.parametrize(
    "data",
    [
        "GET @KEY@\r\n\r\n",
        "GET /gateway/demo/probe HTTP/1.1\r\nHost: gateway.test\r\nX: a\0b\r\n\r\n",
        "GET /gateway/demo/probe HTTP/1.1\r\nX-API-Key: @KEY@\r\n\r\n",
        probes.PROBE_POST + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        probes.PROBE_POST + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
        f"GET / HTTP/1.1\r\nHost: gateway.test\r\nX: {'a' * 100_000}\r\n\r\n",
    ],
    ids=["line", "field", "host", "framing", "chunk", "head"],
)
def test_every_refusal_is_problem_details_of_a_date(client, keyed, data):
    client.send(keyed(data))

    answer = client.answer()

    assert answer.values("content-type") == [b"application/problem+json"]
    assert json.loads(answer.body)["status"] == answer.status
    assert len(answer.values("date")) == 1


@pytest.mark.parametrize("probe", probes.FORWARDED, ids=name)
def test_forwarded(client, backend, keyed, probe):
    client.send(keyed(probe.data))

    assert_forwarded(client, backend, probe, keyed(AFTER))


@pytest.mark.parametrize("probe", probes.EITHER, ids=name)
def test_refused_or_forwarded(client, backend, keyed, probe):
    client.send(keyed(probe.data))

    first = client.next(within_s=2)
    if first.status == 200:
        client.unread = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + client.unread
        assert_forwarded(client, backend, probe, keyed(AFTER))
    else:
        assert first.status in probe.statuses, f"RFC {probe.section}: {first.first!r}"
        assert client.is_closed(within_s=2), "the connection stayed open"
        assert backend.whole_requests() == []


@pytest.mark.parametrize(
    "data",
    [
        "GET /gateway/demo/probe HTTP/1.1\r\nHost: gateway.test\r\nX-API-Key: @KEY@\r\n",
        "GET /gateway/demo/probe HTTP/1.1\r\nHost: gateway.test\r\nX-API-K",
        "GET /gateway/de",
        probes.PROBE_POST + "Content-Length: 5\r\n\r\nhel",
        probes.PROBE_POST + "Content-Length: 5\r\n\r\n",
        probes.PROBE_POST + "Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
        probes.PROBE_POST + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        probes.PROBE_POST + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        probes.PROBE_POST
        + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffe\r\nhello\r\n0\r\n\r\n",
    ],
    ids=[
        "head",
        "field",
        "line",
        "length",
        "no body",
        "chunk",
        "no last chunk",
        "no last line",
        "huge chunk",
    ],
)
def test_half_a_request_is_never_a_request(client, backend, keyed, data):
    client.send(keyed(data))
    client.end()

    assert client.is_closed()
    assert b" 200 " not in client.unread
    assert backend.whole_requests() == []


def test_a_client_that_only_stops_sending_is_answered_or_closed(client, backend, keyed):
    """It can't be told from one that has left, so that the gateway may take it for that."""
    with backend.saying(0.1, answers.OK):
        client.send(keyed(AFTER))
        client.end()

        assert client.is_closed()
    assert client.unread == b"" or client.answer().body == b"ok"


def test_how_the_bytes_are_cut_makes_no_difference(running, backend, keyed):
    requests = [keyed(probe.data) for probe in probes.FORWARDED if probe.name in probes.CUT]
    cuts = [(data, at) for data in requests for at in range(1, len(data), 7)]

    for data, at in cuts:
        with RawClient(running.port) as client:
            client.send(data[:at])
            time.sleep(0.001)
            client.send(data[at:])
            assert client.answer().status == 200

    assert len(backend.whole_requests()) == len(cuts)


# ------------------------------------------------------------------ the course of a connection


@pytest.mark.parametrize("number", [2, 5, 20])
def test_pipelined_requests_are_answered_in_their_order(client, backend, keyed, number):
    client.send(b"".join(keyed(AFTER.replace(b"after", b"p/%d" % n)) for n in range(number)))

    assert [client.answer().body for _ in range(number)] == [b"/p/%d" % n for n in range(number)]
    assert len(backend.requests()) == number


@pytest.mark.parametrize("framed", ["a length", "chunks"])
def test_a_body_and_what_is_pipelined_behind_it_are_told_apart(client, backend, keyed, framed):
    post = next(probe for probe in probes.FORWARDED if probe.name == framed)

    client.send(keyed(post.data.encode() + AFTER + post.data.encode() + AFTER))

    bodies = [client.answer().body for _ in range(4)]
    assert bodies == [b"/probe", b"/after", b"/probe", b"/after"]
    assert [len(request.body) for request in backend.requests()] == [len(post.body), 0] * 2


def test_nothing_behind_an_error_is_executed(client, backend, keyed):
    broken = AFTER.replace(b"Host:", b"Host :")

    client.send(keyed(AFTER + broken + SMUGGLED + SMUGGLED))

    assert client.answer().body == b"/after"
    assert client.answer().status == 400
    assert client.is_closed()
    assert [request.target for request in backend.requests()] == ["/after"]


def test_bytes_behind_a_body_are_the_next_request_and_no_good_one(client, backend, keyed):
    client.send(keyed(probes.PROBE_POST + "Content-Length: 5\r\n\r\nhelloGARBAGE\r\n\r\n"))

    assert client.answer().status == 200
    assert client.answer().status == 400
    assert client.is_closed()
    assert [request.body for request in backend.requests()] == [b"hello"]


@pytest.mark.parametrize("named", ["close", "Close", "close, X-Hop", "keep-alive, close"])
def test_connection_close_is_the_last_request(client, backend, keyed, named):
    last = AFTER.replace(b"\r\n\r\n", b"\r\nConnection: %b\r\n\r\n" % named.encode())

    client.send(keyed(last + SMUGGLED))

    answer = client.answer()
    assert (answer.body, answer.values("connection")) == (b"/after", [b"close"])
    assert client.is_closed()
    assert client.unread == b""
    assert [request.target for request in backend.requests()] == ["/after"]


def test_http_1_0_is_one_request(client, backend, keyed):
    client.send(keyed((AFTER + SMUGGLED).replace(b"HTTP/1.1", b"HTTP/1.0")))

    assert client.answer().body == b"/after"
    assert client.is_closed()
    assert client.unread == b""
    assert len(backend.requests()) == 1


def test_http_1_0_keeps_alive_only_by_a_word_of_both(client, keyed):
    asked = keyed(AFTER.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"))
    client.send(asked.replace(b"HTTP/1.1", b"HTTP/1.0"))

    answer = client.answer()

    if answer.values("connection") == [b"keep-alive"]:
        client.send(keyed(AFTER))
        assert client.answer().body == b"/after"
    else:
        assert client.is_closed()


@pytest.mark.parametrize("value", ["100-continue", "100-Continue"])
def test_a_body_that_waits_for_100_is_asked_for(client, backend, keyed, value):
    client.send(keyed(probes.PROBE_POST + f"Content-Length: 5\r\nExpect: {value}\r\n\r\n"))
    interim = client.next()
    client.send(b"hello")

    assert (interim.status, interim.fields) == (100, [])
    assert client.next().status == 200
    assert [request.body for request in backend.requests()] == [b"hello"]


def test_a_body_that_comes_anyway_needs_no_100(client, backend, keyed):
    client.send(keyed(probes.PROBE_POST + "Content-Length: 5\r\nExpect: 100-continue\r\n\r\nhello"))

    assert client.answer().status == 200
    client.send(keyed(AFTER))
    assert client.answer().body == b"/after"
    assert [request.body for request in backend.requests()] == [b"hello", b""]


def test_http_1_0_gets_no_100(client, keyed):
    data = keyed(probes.PROBE_POST + "Content-Length: 5\r\nExpect: 100-continue\r\n\r\nhello")
    client.send(data.replace(b"HTTP/1.1", b"HTTP/1.0"))

    assert client.next().status == 200


@pytest.mark.parametrize("framing", ["Content-Length: 5", "Transfer-Encoding: chunked"])
def test_who_is_refused_is_not_asked_for_the_body(client, backend, keyed, framing):
    refused = probes.PROBE_POST.replace("X-API-Key: @KEY@", "X-API-Key: ks_live_wrong")
    client.send(keyed(refused + f"{framing}\r\nExpect: 100-continue\r\n\r\n"))

    answer = client.next()

    # It may send the body all the same, which is then nobody's (RFC 9110 §10.1.1).
    assert answer.status == 401
    if answer.values("connection") == [b"close"]:
        assert client.is_closed()
    else:
        client.send(b"hello" if "Length" in framing else b"5\r\nhello\r\n0\r\n\r\n")
        client.send(keyed(AFTER))
        assert client.answer().body == b"/after"


@pytest.mark.parametrize("framed", ["length", "chunks"])
def test_a_refused_call_leaves_its_body_to_nobody(client, backend, keyed, framed):
    head = probes.PROBE_POST.replace("X-API-Key: @KEY@", "X-API-Key: ks_live_wrong").encode()
    body = keyed(SMUGGLED)
    if framed == "length":
        client.send(head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    else:
        chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        client.send(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)

    answer = client.answer()

    assert answer.status == 401
    if answer.values("connection") == [b"close"]:
        assert client.is_closed()
    else:
        client.send(keyed(AFTER))
        assert client.answer().body == b"/after"
    assert "/smuggled" not in [request.target for request in backend.requests()]


@pytest.mark.parametrize("key", ["X-API-Key: @KEY@", "X-API-Key: ks_live_wrong"])
def test_a_body_answered_early_is_never_the_next_request(client, backend, keyed, key):
    body = keyed(SMUGGLED)
    head = probes.PROBE_POST.replace("X-API-Key: @KEY@", key)
    with backend.saying(answers.OK, early=True):
        client.send(keyed(head + f"Content-Length: {len(body) + 5}\r\n\r\nhello"))
        assert client.answer().status in (200, 401)
    client.send(body + keyed(AFTER))

    if not client.is_closed(within_s=0.3):
        assert client.answer().body == b"/after"
        assert client.unread == b""
    assert not [data for data in backend.record if data.startswith(b"GET /smuggled")]


def test_a_key_in_the_url_is_none(client, backend, keyed):
    client.send(
        keyed("GET /gateway/demo/probe?api_key=@KEY@&key=@KEY@ HTTP/1.1\r\nHost: a\r\n\r\n")
    )

    assert client.answer().status == 401
    assert backend.record == []


@pytest.mark.parametrize("line", ["/gateway/demo/probe", "/gateway/none/probe", "/gateway/demo/.."])
def test_a_refused_head_has_no_body(client, keyed, line):
    key = "ks_live_wrong" if line.endswith("demo/probe") else "@KEY@"
    client.send(keyed(f"HEAD {line} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n\r\n"))

    answer = client.answer("HEAD")

    assert answer.status in (400, 401, 404)
    if answer.values("connection") == [b"close"]:
        assert client.is_closed()
        assert client.unread == b""
    else:
        client.send(keyed(AFTER))
        assert client.answer().body == b"/after"


def test_options_of_the_server_itself_is_nobodys_call(client, backend, keyed):
    client.send(keyed("OPTIONS * HTTP/1.1\r\nHost: gateway.test\r\nX-API-Key: @KEY@\r\n\r\n"))

    assert client.answer().status in (200, 204, 400, 404, 405)
    assert backend.record == []


def test_http_1_0_needs_no_host(client, backend, keyed):
    client.send(keyed("GET /gateway/demo/probe HTTP/1.0\r\nX-API-Key: @KEY@\r\n\r\n"))

    assert client.answer().status in (200, 400)
    assert client.is_closed()
    assert len(backend.requests()) <= 1


# ------------------------------------------------------------------ answers without a body


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nETag: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nETag: x\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\nETag: x\r\n\r\n",
    ],
    ids=["length", "chunks", "neither", "404"],
)
def test_head_has_the_fields_and_nothing_more(client, backend, keyed, said):
    with backend.saying(said):
        client.send(keyed(AFTER.replace(b"GET", b"HEAD")))
        answer = client.answer("HEAD")

    assert answer.values("etag") == [b"x"]
    expected = [b"1234"] if b"1234" in said else [b"9"] if b"404" in said else []
    assert answer.values("content-length") == expected
    client.send(keyed(AFTER))
    assert client.answer().body == b"/after"


@pytest.mark.parametrize("said", [
    b"HTTP/1.1 204 No Content\r\nETag: x\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nETag: x\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\nETag: x\r\n\r\n",
    b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\nETag: x\r\n\r\n",
])  # fmt: skip
def test_answers_without_a_body_are_framed_as_such(client, backend, keyed, said):
    with backend.saying(said):
        client.send(keyed(AFTER))
        answer = client.answer()

    assert (answer.body, answer.values("etag")) == (b"", [b"x"])
    client.send(keyed(AFTER))
    assert client.answer().body == b"/after"


# ------------------------------------------------------------------ what backends say


@pytest.mark.parametrize("probe", answers.WRONG, ids=name)
def test_a_wrong_answer_is_502_and_ends_with_its_connection(client, backend, keyed, probe):
    with backend.saying(probe.data, CLOSE):
        client.send(keyed(AFTER))
        answer = client.answer()

    assert answer.status == 502, f"RFC {probe.section}"
    assert b"evil" not in client.unread
    client.send(keyed(AFTER))
    assert client.answer().body == b"/after"


@pytest.mark.parametrize("probe", answers.TRUNCATED, ids=name)
@pytest.mark.parametrize("pause", [0.0, 0.05], ids=["at once", "later"])
def test_a_broken_answer_never_looks_whole(client, backend, keyed, probe, pause):
    head, blank, rest = probe.data.partition(b"\r\n\r\n")
    with backend.saying(head + blank, pause, rest, CLOSE):
        client.send(keyed(AFTER))
        try:
            answer = client.answer()
        except ConnectionError:
            answer = None

    assert answer is None or answer.status == 502, f"RFC {probe.section}"


@pytest.mark.parametrize("probe", answers.RIGHT, ids=name)
def test_an_odd_but_right_answer_passes(client, backend, keyed, probe):
    with backend.saying(probe.data, *([CLOSE] if probe.closes else [])):
        client.send(keyed(AFTER))
        answer = client.answer()

    assert (answer.status, answer.body) == (probe.status, probe.body), f"RFC {probe.section}"
    for field in probe.fields:
        assert field in answer.fields
    assert answer.trailers == [] or b"trailer" in dict(answer.fields)
    if answer.values("connection") != [b"close"]:
        client.send(keyed(AFTER))
        assert client.answer().body == b"/after"


@pytest.mark.parametrize("probe", answers.REFUSED_OR_CLEANED, ids=name)
def test_an_answer_against_the_grammar_is_502_or_made_clean(client, backend, keyed, probe):
    with backend.saying(probe.data, CLOSE):
        client.send(keyed(AFTER))
        answer = client.answer()

    if answer.status != 502:
        assert (answer.status, answer.body) == (probe.status, probe.body), f"RFC {probe.section}"
        for field in probe.fields:
            assert field in answer.fields


def test_bytes_behind_an_answer_are_nobodys(client, backend, keyed):
    for said in answers.EXCESS:
        with backend.saying(said):
            client.send(keyed(AFTER))
            assert client.answer().body == b"ok"
        client.send(keyed(AFTER))
        assert client.answer().body == b"/after"


def test_an_answer_that_nobody_asked_for_is_nobodys(client, backend, keyed):
    with backend.saying(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 0.05, answers.EVIL):
        client.send(keyed(AFTER))
        assert client.answer().body == b"ok"
        time.sleep(0.1)
    client.send(keyed(AFTER))

    assert client.answer().body == b"/after"


def test_an_answer_that_comes_byte_by_byte_is_the_same(client, backend, keyed):
    said = b"HTTP/1.1 201 Made\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    steps = [step for byte in said for step in (bytes([byte]), 0.002)]
    with backend.saying(*steps):
        client.send(keyed(AFTER))
        answer = client.answer()

    assert (answer.status, answer.body, answer.values("x-a")) == (201, b"ok", [b"b"])


def test_how_an_answer_is_cut_makes_no_difference(client, backend, keyed):
    said = b"HTTP/1.1 201 Made\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    for at in range(1, len(said)):
        with backend.saying(said[:at], 0.002, said[at:]):
            client.send(keyed(AFTER))
            answer = client.answer()
        assert (answer.status, answer.body, answer.values("x-a")) == (201, b"ok", [b"b"]), at


@pytest.mark.parametrize(("method", "times"), [("GET", 2), ("PUT", 2), ("POST", 1), ("PATCH", 1)])
def test_what_may_not_be_repeated_is_not_sent_twice(client, backend, keyed, method, times):
    client.send(keyed(AFTER))
    assert client.answer().body == b"/after"
    backend.forget()

    with backend.saying(RESET):
        client.send(keyed(AFTER).replace(b"GET", method.encode()))
        assert client.answer().status == 502

    assert 1 <= len(backend.requests()) <= times


def test_http_1_0_gets_no_interim_answer(client, backend, keyed):
    with backend.saying(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answers.OK):
        client.send(keyed(AFTER).replace(b"HTTP/1.1", b"HTTP/1.0"))

        assert client.next().status == 200


@pytest.mark.parametrize("status", [b"102 Processing", b"100 Continue"])
def test_endless_interim_answers_end(client, backend, keyed, status):
    with backend.saying(*[b"HTTP/1.1 %b\r\n\r\n" % status * 1000] * 100):
        client.send(keyed(AFTER))

        assert client.answer().status in (502, 504)


def test_interim_answers_pass_before_the_final_one(client, backend, keyed):
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    odd = b"HTTP/1.1 199 Whatever\r\nX-A: b\r\n\r\n"
    with backend.saying(interim, 0.05, odd + interim, 0.05, answers.OK):
        client.send(keyed(AFTER))
        hints = [client.next() for _ in range(3)]
        answer = client.next()

    hint = (103, [(b"link", b"</x>")])
    assert [(h.status, h.fields) for h in hints] == [hint, (199, [(b"x-a", b"b")]), hint]
    assert (answer.status, answer.body, answer.values("link")) == (200, b"ok", [])


def test_of_an_interim_answer_the_hop_s_own_fields_are_dropped(client, backend, keyed):
    interim = (
        b"HTTP/1.1 103 Early Hints\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=9\r\n"
        b"Keystile-Units: rows=3\r\nX-RateLimit-Limit: 5\r\nSet-Cookie: a=b\r\nX-Kept: 1\r\n\r\n"
    )
    with backend.saying(interim + answers.OK):
        client.send(keyed(AFTER))

        assert client.next().fields == [(b"x-kept", b"1")]
        assert client.next().status == 200


@pytest.mark.parametrize("framing", [b"Content-Length: 2", b"Transfer-Encoding: chunked"])
def test_an_interim_answer_with_a_body_is_none(client, backend, keyed, framing):
    with backend.saying(b"HTTP/1.1 103 Early Hints\r\n%b\r\n\r\n" % framing + answers.OK):
        client.send(keyed(AFTER))

        assert client.next().status == 502


def test_a_backend_s_100_is_its_word_to_the_gateway(client, backend, keyed):
    with backend.saying(b"HTTP/1.1 100 Continue\r\n\r\n" + answers.OK):
        client.send(keyed(AFTER))

        assert client.next().status == 200


def test_strict_itself_takes_no_two_framings():
    with pytest.raises(strict.Malformed):
        strict.requests(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
                        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")  # fmt: skip
