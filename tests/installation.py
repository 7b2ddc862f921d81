"""A whole Keystile for tests that break it: stores, gateways, worker and beat of its own.

Each part is a real process that may be stopped, killed, paused and started again; what it says
is kept. `Load` is the customers' side: it keeps calling and remembers what it saw.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import redis

from gateway import sweep
from gateway.renewal import Lease
from keys import records
from portal.run import loopback
from portal.run.embedded import Server, Valkey
from portal.run.postgres import Postgres
from portal.run.processes import bound_to_parent
from tests import traffic

ROOT = Path(__file__).resolve().parent.parent
REDIS_TIMEOUT_SECONDS = 0.5
START_SECONDS = 30
OPENS, STREAM = records.open_name(0), records.usage_stream(0)


def wait_for(is_so: Callable[[], object], seconds: float, what: str) -> float:
    """How long it took until it was so."""
    started = time.monotonic()
    while not is_so():
        assert time.monotonic() - started < seconds, f"in vain: {what}"
        time.sleep(0.02)
    return time.monotonic() - started


class Part:
    """One process of the installation. What it writes is appended to `log`."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        environ: dict[str, str],
        stop_signal: signal.Signals = signal.SIGTERM,
        death_signal: signal.Signals = signal.SIGKILL,
        descriptors: Sequence[int] = (),
    ):
        self.name = name
        self.log = log
        self._command = list(command)
        self._environ = environ
        self._stop_signal = stop_signal
        self._death_signal = death_signal
        self._descriptors = tuple(descriptors)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=self._descriptors,
                start_new_session=True,
                preexec_fn=bound_to_parent(self._death_signal),
            )

    def stop(self) -> None:
        """Asks it to end, and waits; what does not end is killed."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)
            os.kill(self.pid, self._stop_signal)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Ends it and its children with no chance to say anything."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def said(self) -> str:
        """What it wrote since the log was last emptied."""
        return self.log.read_text(errors="replace")


class Store(Part):
    """An embedded server, ready when `start` returns."""

    def __init__(self, server: Server, folder: Path):
        self.server = server
        self.data = folder / server.name
        server.prepare()
        super().__init__(
            server.name,
            server.command(),
            folder / f"{server.name}.log",
            environ=dict(os.environ),
            stop_signal=server.stop_signal,
            death_signal=server.death_signal,
        )

    def start(self) -> None:
        self.server.prepare()
        super().start()
        wait_for(lambda: self.server.is_ready(self.pid), START_SECONDS, f"{self.name} starts")

    def crash(self) -> None:
        """Ends it as its machine's end would: a plain SIGKILL leaves Postgres' children behind."""
        os.kill(self.pid, self._death_signal)
        assert self._process is not None
        self._process.wait()


class Installation:
    """Everything but the portal: no call needs that. Two gateway processes on one socket."""

    def __init__(self, folder: Path, backend_url: str):
        self._folder = folder
        self.valkey = Store(Valkey(folder, "secret", traffic.free_port(), durable=False), folder)
        # A commit that a crash may take back would not be in the stream any more.
        self.postgres = Store(Postgres(folder, "secret"), folder)
        self.redis = redis.Redis.from_url(self.valkey.server.url)
        self.environ = os.environ | {
            "DATABASE_URL": self.postgres.server.url,
            "REDIS_URL": self.valkey.server.url,
            "GATEWAY_REDIS_TIMEOUT_SECONDS": str(REDIS_TIMEOUT_SECONDS),
            "LOG_LEVEL": "INFO",
        }
        self._backend_url = backend_url
        self._listener = loopback.listen(0)
        self.port = int(self._listener.getsockname()[1])
        command = traffic.gateway_command(self._listener)
        self.gateways = [
            self._part(f"gateway-{number}", command, self._listener.fileno()) for number in (1, 2)
        ]
        celery = [sys.executable, "-m", "celery", "-A", "portal", "--quiet"]
        worker = [*celery, "worker", "--concurrency=1", "--loglevel=WARNING"]
        worker += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        beat = [*celery, "beat", "--loglevel=WARNING", f"--schedule={folder / 'schedule'}"]
        self.worker = self._part("worker", worker)
        self.beat = self._part("beat", beat)

    def _part(self, name: str, command: Sequence[str], *descriptors: int) -> Part:
        log = self._folder / f"{name}.log"
        return Part(name, command, log, environ=self.environ, descriptors=descriptors)

    @property
    def parts(self) -> list[Part]:
        return [self.valkey, self.postgres, self.worker, self.beat, *self.gateways]

    def start(self) -> None:
        """Starts all parts, with one customer's account and an API on sale."""
        self.valkey.start()
        self.postgres.start()
        self._manage("migrate", "--verbosity=0")
        code = "import json; from tests.installation import seed;"
        code += f" print(json.dumps(seed({self._backend_url!r})))"
        self.customer = json.loads(self._manage("shell", "--no-imports", "-c", code))
        self.mend()

    def mend(self) -> None:
        """Starts what is not running and waits until calls are answered and drained."""
        for part in self.parts:
            if not part.is_running:
                part.start()
        wait_for(lambda: self.call().status == 200, START_SECONDS, "calls are admitted")
        wait_for(lambda: self.redis.xlen(STREAM) == 0, START_SECONDS, "calls are drained")

    def stop(self) -> None:
        for part in reversed(self.parts):
            part.stop()
        self.redis.close()
        self._listener.close()

    def _manage(self, *arguments: str) -> str:
        command = [sys.executable, "manage.py", *arguments]
        ran = subprocess.run(
            command, cwd=ROOT, env=self.environ, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    # -------------------------------------------------------------- from outside

    def call(self, target: str = "/gateway/demo/echo") -> traffic.Answer:
        return traffic.ask(self.port, "GET", target, bearer(self.customer["secret"]))

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.postgres.server.url) as connection:
            return connection.execute(statement).fetchall()

    def close_books(self) -> None:
        """Returns once every call is settled and in the ledger. When none is running any more."""
        wait_for(lambda: not self.redis.hlen(OPENS), 5, "calls are settled")
        wait_for(lambda: not self.redis.xlen(STREAM), START_SECONDS, "calls are drained")

    def sweep(self) -> None:
        """Settles what dead gateways left, long before its time. When no call is running."""
        sweep.sweep(self.redis, 0, int(time.time() * 1000) + 10**7)

    def is_renewed(self, lease: Lease) -> bool:
        """Whether the one open call has the lease's deadline by now."""
        deadlines = [int(call.split(b"\t")[-2]) for call in self.redis.hvals(OPENS)]
        return [deadline < time.time() * 1000 + lease.lasts_ms for deadline in deadlines] == [True]

    @contextmanager
    def sweeping(self, lease: Lease) -> Iterator[list[int]]:
        """Sweeps all the time, as beat would for this lease; what it counts."""
        over, swept = threading.Event(), []

        def work() -> None:
            while not over.wait(0.05):
                with contextlib.suppress(redis.RedisError):
                    now_ms = int(time.time() * 1000)
                    if sweep.may_sweep(self.redis, 0, now_ms, lease):
                        swept.append(sweep.sweep(self.redis, 0, now_ms))

        worker = threading.Thread(target=work)
        worker.start()
        try:
            yield swept
        finally:
            over.set()
            worker.join()

    def start_a_page(self) -> None:
        """Empties the logs and remembers what is in the ledger already."""
        for part in self.parts:
            part.log.write_bytes(b"")
        self.before = self.ledger()

    def ledger(self) -> dict[str, tuple[bool, str]]:
        """Whether billed, and the outcome, of every call."""
        rows = self.query("SELECT id::text, billable, outcome FROM gateway_usageevent")
        assert len({row[0] for row in rows}) == len(rows), "an event is in the ledger twice"
        return {event_id: (billable, outcome) for event_id, billable, outcome in rows}

    def billed_units(self) -> int:
        """Of the customer, as the rollup has them, which is what bills are made of."""
        ((units,),) = self.query(
            "SELECT coalesce(sum(billable_units), 0) FROM gateway_usagerollup WHERE meter = 'calls'"
        )
        return int(units)

    def counted_units(self) -> int:
        """What the customer's quota has been charged."""
        names = self.redis.scan_iter(f"used:*:{self.customer['account']}:live:*:calls")
        return sum(int(self.redis.get(name) or 0) for name in names)


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def seed(backend_url: str) -> dict[str, str]:
    """Puts an API "demo" on sale and makes a customer, by this process's settings.

    Returns the customer's `account` and `secret`.
    """
    from django.utils import timezone

    from gateway import refill

    traffic.put_on_sale(f"http://127.0.0.1:{traffic.free_port()}", slug="down")
    traffic.put_on_sale(backend_url, slug="endless", total_timeout_seconds=0)
    traffic.put_on_sale(backend_url)
    customer = traffic.make_customer(traffic.terms(limit=10_000_000))
    records.connection().delete(records.ready_name(0))
    refill.refill(0, timezone.now())
    return {"account": str(customer.account.pk), "secret": customer.secret}


# ------------------------------------------------------------------ customers


@dataclass
class Seen:
    """What customers saw.

    events:  of calls that were answered with 200, to the end
    broken:  calls whose answer never came, or not to its end
    strange: answers that no page of ours promises
    """

    statuses: Counter[int] = field(default_factory=Counter)
    events: list[str] = field(default_factory=list)
    broken: int = 0
    strange: list[str] = field(default_factory=list)
    slowest_seconds: float = 0


class Load:
    """So many connections that keep calling while the block runs."""

    def __init__(
        self, port: int, secret: str, target: str = "/gateway/demo/echo", connections: int = 16
    ):
        self.connections = connections
        self.seen = Seen()
        self._port = port
        self._request = traffic.request_bytes("GET", target, bearer(secret))
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._workers = [threading.Thread(target=self._work) for _ in range(connections)]

    def __enter__(self) -> Load:
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for worker in self._workers:
            worker.join()

    def wait_for(self, status: int, more: int = 50, seconds: float = 20) -> float:
        """Until so many more calls had that status; how long it took."""
        already = self.seen.statuses[status]
        return wait_for(
            lambda: self.seen.statuses[status] >= already + more, seconds, f"{more} x {status}"
        )

    def _work(self) -> None:
        connection: socket.socket | None = None
        while not self._over.wait(0.01):
            try:
                connection = connection or traffic.connect(self._port)
            except OSError:  # nobody listens: not a call
                continue
            started = time.monotonic()
            try:
                connection.sendall(self._request)
                answer = traffic.read_answer(connection)
                self._note(answer, time.monotonic() - started)
                keep = answer.complete
            except (OSError, ValueError, IndexError):
                with self._lock:
                    self.seen.broken += 1
                keep = False
            if not keep:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()

    def _note(self, answer: traffic.Answer, seconds: float) -> None:
        seen = self.seen
        promised = answer.status == 200 or (
            (answer.status, answer["retry-after"]) == (503, "1")
            and answer.code == "limits_unavailable"
        )
        with self._lock:
            seen.slowest_seconds = max(seen.slowest_seconds, seconds)
            if not answer.complete:
                seen.broken += 1
                return
            seen.statuses[answer.status] += 1
            if answer.status == 200:
                seen.events.append(answer["keystile-event"])
            elif not promised:
                seen.strange.append(f"{answer.status} {answer.body[:100]!r}")


@contextmanager
def load(installation: Installation, target: str = "/gateway/demo/echo") -> Iterator[Load]:
    """Customers that call while the block runs; it begins when they are being served."""
    with Load(installation.port, installation.customer["secret"], target) as calling:
        calling.wait_for(200)
        yield calling
