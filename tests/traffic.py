"""What the gateway's tests drive it with: its real processes, a paying customer, a raw client."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import transaction
from django.test import TestCase

from gateway import routes
from gateway.models import Api, Operation, Routes
from keys import entitlements, issuance, records
from keys.entitlements import MeterTerms, Terms
from keys.models import ApiKey
from portal.models import Account
from portal.run import loopback

NOW = datetime.now(UTC)


# ------------------------------------------------------------------ the gateway's processes


@dataclass
class Gateway:
    port: int
    processes: list[subprocess.Popen[bytes]]

    def memory_kb(self) -> int:
        """Resident memory of the first process."""
        with open(f"/proc/{self.processes[0].pid}/statm") as file:
            return int(file.read().split()[1]) * 4


def gateway_command(
    listener: socket.socket,
    application: str = "gateway.asgi:application",
    server: str = "gateway.wire:Server",
) -> list[str]:
    """What `make run` starts as a gateway process, on an inherited socket."""
    command = [sys.executable, "-m", "uvicorn", application]
    command += [f"--fd={listener.fileno()}", f"--http={server}", "--loop=uvloop"]
    command += ["--ws=none", "--no-access-log", "--no-server-header", "--no-date-header"]
    command += ["--no-proxy-headers", "--log-level=warning", "--timeout-graceful-shutdown=2"]
    return command


@contextmanager
def gateway(
    processes: int = 1,
    application: str = "gateway.asgi:application",
    server: str = "gateway.wire:Server",
    **environment: str,
) -> Iterator[Gateway]:
    """Gateway processes on one inherited socket, as `make run` starts them."""
    listener = loopback.listen(0)
    port = listener.getsockname()[1]
    command = gateway_command(listener, application, server)
    started = [
        subprocess.Popen(command, env=os.environ | environment, pass_fds=[listener.fileno()])
        for _ in range(processes)
    ]
    try:
        _wait_until_serving(port, started)
        yield Gateway(port, started)
    finally:
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
        listener.close()


def _wait_until_serving(port: int, started: list[subprocess.Popen[bytes]]) -> None:
    served: set[int] = set()
    deadline = time.monotonic() + 60
    while len(served) < len(started):
        if time.monotonic() > deadline:
            raise RuntimeError("the gateway did not start")
        for process in started:
            # Its own listening socket says that the process accepts; ask whoever answers.
            if process.poll() is not None:
                raise RuntimeError("a gateway process ended")
            if "uvloop" in _maps(process.pid) and ask(port, "GET", "/").status == 401:
                served.add(process.pid)
        time.sleep(0.05)


def _maps(pid: int) -> str:
    with open(f"/proc/{pid}/maps") as file:
        return file.read()


# ------------------------------------------------------------------ a customer, published


@dataclass
class Customer:
    account: Account
    key: ApiKey
    secret: str

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}"}


def terms(
    *,
    rate: int = 100_000,
    burst: int = 100_000,
    limit: int | None = None,
    test_quota: int = 1000,
    **meters: MeterTerms,
) -> Terms:
    calls = MeterTerms(included=limit or 0, past="refuse" if limit else "bill", limit=limit)
    return Terms(
        rate_per_second=rate,
        burst=burst,
        meters={"calls": calls, **meters},
        test_quota_per_day=test_quota,
        key_limit=10,
    )


def committed() -> Any:
    """What the block queues on commit is done at its end; the test's rows are rolled back."""
    return TestCase.captureOnCommitCallbacks(execute=True)


def entitle(account: Account, granted: Terms, **changes: Any) -> None:
    given: dict[str, Any] = {
        "state": "active",
        "plan_name": "Pro",
        "terms_id": "version:1",
        "terms": granted,
        "periods": [NOW - timedelta(days=1), NOW + timedelta(days=29)],
        "ends_at": None,
        "now": NOW,
    }
    with committed():
        entitlements.apply(account.pk, **(given | changes))


def make_customer(granted: Terms | None = None, *, mode: str = "live") -> Customer:
    """An account with terms and a key, all published."""
    account = Account.objects.create(name="Northwind Labs", billing_email="a@example.com")
    entitle(account, granted or terms())
    return Customer(account, *make_key(account, mode))


def make_key(account: Account, mode: str = "live", **settings: Any) -> tuple[ApiKey, str]:
    with committed():
        return issuance.create(
            account, name="key", mode=mode, actor=None, address=None, now=NOW, settings=settings
        )


def put_on_sale(
    upstream_url: str, operations: dict[str, dict[str, Any]] | None = None, **fields: Any
) -> Api:
    """An API "demo" with operations like {"GET /echo": {"weights": {…}}}, published.

    Versions start at the clock, because a gateway process outlives the rows of one test.
    """
    Routes.objects.get_or_create(pk=1, defaults={"version": time.time_ns() // 1000})
    given: dict[str, Any] = {
        "slug": "demo",
        "name": "Demo",
        "upstream_url": upstream_url,
        "allow_private_upstream": True,
        "unlisted": Api.Unlisted.REFUSE if operations else Api.Unlisted.FORWARD,
    }
    api = Api.objects.create(**(given | fields))
    for label, costs in (operations or {}).items():
        method, template = label.split(" ", 1)
        Operation.objects.create(api=api, method=method, path_template=template, **costs)
    publish_routes()
    records.connection().set(records.ready_name(0), 0)
    return api


def on_stage(blocker: Any, upstream_url: str, **fields: Any) -> Customer:
    """An API and its customer for many tests at once. They ask nothing of Postgres: its rows are
    rolled back here, as the gateway knows both from Redis.

    blocker: pytest-django's `django_db_blocker`
    """
    records.connection().flushdb()
    with blocker.unblock(), transaction.atomic():
        put_on_sale(upstream_url, **fields)
        customer = make_customer()
        transaction.set_rollback(True)
    return customer


def publish_routes() -> None:
    with committed():
        routes.bump()


# ------------------------------------------------------------------ what was recorded


def entries() -> list[dict[str, Any]]:
    """The settled calls in the stream, once no call is open any more."""
    connection = records.connection()
    deadline = time.monotonic() + 5
    while connection.hlen(records.open_name(0)) and time.monotonic() < deadline:
        time.sleep(0.01)
    found = []
    for _, fields in connection.xrange(records.usage_stream(0)):
        opened = fields[b"open"].decode().split("\t")
        found.append(
            json.loads(fields[b"end"])
            | {"id": fields[b"id"].decode(), "api": opened[6], "operation": opened[7]}
            | {"key": opened[1], "mode": opened[2]}
        )
    return found


def eventually(is_so: Callable[[], object]) -> None:
    """Waits until it is so, for seconds at most; asks once more than it has to wait."""
    deadline = time.monotonic() + 5
    while not is_so():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.02)


def used(customer: Customer, meter: str = "calls", mode: str = "live") -> int:
    """Units counted against the quota of the current period."""
    connection = records.connection()
    pattern = f"used:{records.tag(0)}:{customer.account.pk}:{mode}:*:{meter}"
    return sum(int(connection.get(name) or 0) for name in connection.scan_iter(pattern))


# ------------------------------------------------------------------ a raw client


@dataclass
class Answer:
    """A response, read to its end. `complete` is False if it broke off."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes
    complete: bool

    def __getitem__(self, name: str) -> str:
        return ", ".join(value for key, value in self.fields if key == name)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["code"])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def request_bytes(
    method: str, target: str, fields: dict[str, str] | None = None, body: bytes = b""
) -> bytes:
    given = {"Host": "gateway.test"} | (fields or {})
    if body:
        given["Content-Length"] = str(len(body))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def ask(
    port: int, method: str, target: str, fields: dict[str, str] | None = None, body: bytes = b""
) -> Answer:
    with connect(port) as connection:
        connection.sendall(request_bytes(method, target, fields, body))
        return read_answer(connection, method)


def ask_raw(port: int, data: bytes) -> Answer | None:
    """Sends bytes as they are; None if the server only closes the connection."""
    with connect(port) as connection:
        connection.sendall(data)
        try:
            return read_answer(connection)
        except ConnectionError:
            return None


def read_answer(connection: socket.socket, method: str = "GET") -> Answer:
    with connection.makefile("rb") as stream:
        first = stream.readline()
        if not first:
            raise ConnectionError("closed without an answer")
        status = int(first.split()[1])
        fields = []
        while (line := stream.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            fields.append((name.lower(), value.strip()))
        if status == 100:
            return read_answer(connection, method)
        length = next((int(value) for name, value in fields if name == "content-length"), None)
        if method == "HEAD" or status in (204, 304):
            return Answer(status, fields, b"", True)
        if length is not None:
            body = stream.read(length)
            return Answer(status, fields, body, len(body) == length)
        parts, complete = [], False
        while line := stream.readline():
            size = int(line, 16)
            parts.append(stream.read(size))
            stream.readline()
            if size == 0:
                complete = True
                break
        return Answer(status, fields, b"".join(parts), complete)
