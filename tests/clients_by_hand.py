"""curl and Node through the gateway. Not part of the suite, whose locks hold neither; run it with

    make test ARGS="tests/clients_by_hand.py"

on a machine that has both.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests import traffic, upstream

pytestmark = pytest.mark.django_db

NODE = """
import http from "node:http";
import assert from "node:assert";
const [base, key] = process.argv.slice(2);
const headers = {"x-api-key": key};
const ask = (target, init = {}) => fetch(base + target, {redirect: "manual", ...init, headers});

let answer = await ask("/echo/a%2Fb?x=1", {method: "POST", body: "hello"});
let seen = await answer.json();
assert.deepEqual([seen.method, seen.target, seen.body], ["POST", "/echo/a%2Fb?x=1", "hello"]);

for (const status of [201, 204, 302, 304, 404, 500])
  assert.equal((await ask(`/status/${status}`)).status, status);

answer = await ask("/status/200", {method: "HEAD"});
assert.equal(answer.headers.get("content-length"), "7");

for (const how of ["", "&chunked"])
  assert.equal((await (await ask("/down?n=5000000" + how)).arrayBuffer()).byteLength, 5000000);

const parts = new ReadableStream({
  async start(controller) {
    for (const part of ["a", "b", "c"]) {
      controller.enqueue(new TextEncoder().encode(part));
      await new Promise((done) => setTimeout(done, 50));
    }
    controller.close();
  },
});
seen = await (await ask("/echo", {method: "PUT", body: parts, duplex: "half"})).json();
assert.equal(seen.body, "abc");

const started = Date.now();
const arrived = [];
for await (const chunk of (await ask("/events?n=4&pause=0.2")).body)
  if (Buffer.from(chunk).includes("data: ")) arrived.push(Date.now() - started);
assert.equal(arrived.length, 4);
arrived.forEach((at, number) => assert(Math.abs(at - number * 200) < 190, `${arrived}`));

for (const how of ["", "chunked", "reset", "chunked&reset"])
  await assert.rejects(ask("/truncated?" + how).then((broken) => broken.text()));

const leaving = new AbortController();
const gone = ask("/events?pause=0.05", {signal: leaving.signal}).then((events) => events.text());
setTimeout(() => leaving.abort(), 200);
await assert.rejects(gone);

const agent = new http.Agent({keepAlive: true, maxSockets: 1});
const sockets = new Set();
for (let number = 0; number < 20; number += 1)
  await new Promise((done, failed) => {
    const request = http.request(base + "/echo", {agent, headers, method: "POST"}, (response) => {
      sockets.add(response.socket);
      response.resume().on("end", done);
    });
    request.on("error", failed).end("x".repeat(number * 5000));
  });
assert.equal(sockets.size, 1);

await new Promise((done, failed) => {
  const expecting = {...headers, expect: "100-continue", "content-length": 5};
  const request = http.request(base + "/echo", {method: "POST", headers: expecting}, (response) => {
    response.resume().on("end", done);
  });
  request.on("error", failed).on("continue", () => request.end("hello"));
  request.flushHeaders();
});
agent.destroy();
console.log("all well");
"""


@pytest.fixture(scope="module")
def backend() -> Iterator[upstream.Upstream]:
    with upstream.serving() as serving:
        yield serving


@pytest.fixture(scope="module")
def running() -> Iterator[traffic.Gateway]:
    with traffic.gateway() as running:
        yield running


@pytest.fixture(scope="module")
def secret(running, backend, django_db_setup, django_db_blocker) -> str:
    return traffic.on_stage(django_db_blocker, backend.url).secret


@pytest.fixture
def curl(running, secret):
    def run(target: str, *options: str, send: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        url = f"http://127.0.0.1:{running.port}/gateway/demo{target}"
        command = ["curl", "-sS", "-m", "10", "-H", f"X-API-Key: {secret}", *options, url]
        return subprocess.run(command, input=send, capture_output=True, check=False)

    return run


@pytest.mark.parametrize(
    "options",
    [
        ["--data-binary", "@-"],
        ["--data-binary", "@-", "-X", "PUT"],
        ["--data-binary", "@-", "-H", "Transfer-Encoding: chunked"],
        ["-T", "-"],
        ["--data-binary", "@-", "-H", "Expect: 100-continue"],
        ["-T", "-", "-H", "Expect: 100-continue"],
        ["--data-binary", "@-", "--http1.0"],
        ["--data-binary", "@-", "-H", "Expect:"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("size", [1, 60_000])
def test_curl_uploads(curl, options, size):
    got = curl("/echo", *options, send=b"x" * size)

    assert got.returncode == 0, got.stderr
    assert json.loads(got.stdout)["body"] == "x" * size


def test_curl_uploads_two_megabytes(curl, backend):
    for options in (["--data-binary", "@-"], ["-T", "-"], ["-F", "file=@-"]):
        assert curl("/echo", *options, send=b"x" * 2_000_000).returncode == 0
        assert backend.requests[-1].body_bytes >= 2_000_000


@pytest.mark.parametrize("version", ["--http1.1", "--http1.0", "--http2"])
@pytest.mark.parametrize("target", ["/down?n=300000", "/down?n=300000&chunked", "/until_close"])
def test_curl_downloads(curl, version, target):
    got = curl(target, version)

    assert got.returncode == 0, got.stderr
    assert len(got.stdout) == (9 if "until" in target else 300_000)


def test_curl_reads_answers_without_a_body(curl):
    assert b"content-length: 7" in curl("/status/200", "-I").stdout.lower()
    for status in ("204", "304", "404"):
        assert curl(f"/status/{status}", "-o", "/dev/null", "-w", "%{http_code}").stdout == (
            status.encode()
        )


def test_curl_keeps_its_connection(curl):
    got = curl("/echo/[1-20]", "-o", "/dev/null", "-w", "%{num_connects}")

    assert got.stdout == b"1" + b"0" * 19


@pytest.mark.parametrize("how", ["", "chunked", "reset", "chunked&reset"])
def test_curl_notices_what_breaks_off(curl, how):
    assert curl(f"/truncated?{how}").returncode in (18, 56)


def test_curl_streams_events(curl):
    started = time.monotonic()
    got = curl("/events?n=3&pause=0.1", "-N")

    assert got.stdout == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert time.monotonic() - started < 1


def test_node(running, secret):
    base = f"http://127.0.0.1:{running.port}/gateway/demo"
    command = ["node", "--input-type=module", "-", base, secret]
    got = subprocess.run(command, input=NODE.encode(), capture_output=True, timeout=60, check=False)

    assert got.stdout == b"all well\n", got.stderr.decode()
