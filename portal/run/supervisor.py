"""`make run`: everything that Keystile needs on one machine, started, kept running, stopped.

Owns the plan: which processes there are, in which order they start and end, what environment
they get, when one is started again, and what is printed for the person at the terminal. Uses no
Django: it must outlive whatever breaks in its children.
"""

import argparse
import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portal.run import loopback
from portal.run.data_folder import DataFolder, StartError, plain_errors
from portal.run.embedded import Server, Valkey
from portal.run.postgres import Postgres
from portal.run.processes import Child, Output, die_with_parent

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 90.0
STARTS_BEFORE_READY = 5  # that many ends before the first readiness end the start
FIRST_DELAY_SECONDS, LAST_DELAY_SECONDS = 0.2, 10.0
STEADY_SECONDS = 10.0  # who lived that long starts again without delay
# Beat first, so that no new work is queued; the stores last. Together under ten seconds.
STOPS: Sequence[tuple[Sequence[str], float]] = (
    (("beat", "migrate", "demo"), 0.5),
    (("worker",), 3.5),
    (("gateway", "portal"), 2.5),
    (("upstream",), 0.5),
    (("valkey", "postgres"), 2.5),
)

Check = Callable[[Child], Awaitable[bool]]


@dataclass(frozen=True)
class Options:
    """What the operator chose, from the environment."""

    port: int
    data_dir: Path
    upstream: str
    openapi: str
    gateway_processes: int

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Options":
        """Raises `StartError` where a value makes no sense."""
        upstream, openapi = environ.get("UPSTREAM", ""), environ.get("OPENAPI", "")
        if openapi and not upstream:
            raise StartError("OPENAPI describes the API at UPSTREAM; set UPSTREAM as well.")
        return cls(
            port=_number(environ, "PORT", 8000, 1, 65534),
            data_dir=Path(environ.get("DATA_DIR") or ROOT / "var").expanduser().absolute(),
            upstream=upstream,
            openapi=openapi if "://" in openapi or not openapi else str(Path(openapi).absolute()),
            gateway_processes=_number(environ, "GATEWAY_PROCESSES", 1, 1, 64),
        )


def _number(environ: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = environ.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise StartError(f"{name} must be a number from {least} to {most}, not {text!r}.")
    return int(text)


class Supervisor:
    """The processes of one data folder. Everything runs on one thread, the main one."""

    def __init__(self, options: Options, environ: Mapping[str, str]) -> None:
        """Claims the data folder and both ports. Raises `StartError`."""
        self._options = options
        self._output = Output(sys.stdout, self._request_stop)
        self._folder = DataFolder(options.data_dir)
        self._folder.remove("run.json")
        self._site_socket = loopback.listen(options.port)
        self._gateway_socket = loopback.listen(options.port + 1)
        self._upstream_socket: socket.socket | None = None
        self._secrets = self._folder.secrets(environ)
        self._given = environ
        self._environ: dict[str, str] = {}
        self._stop_requested = asyncio.Event()
        self._children: list[Child] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._demo: dict[str, Any] = {}
        self._is_ready = False

    # ---------------------------------------------------------------- from start to stop

    async def run(self) -> None:
        """Starts everything and returns when it has been asked to stop and has stopped."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._request_stop)
        starting = asyncio.create_task(self._start())
        stop = asyncio.create_task(self._stop_requested.wait())
        try:
            await asyncio.wait([starting, stop], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await stop
        finally:
            starting.cancel()
            await self._stop()

    def _request_stop(self) -> None:
        """Asked once: everything ends in order. Asked again: everything ends now."""
        if self._stop_requested.is_set():
            for child in self._children:
                child.kill()
        self._stop_requested.set()

    async def _start(self) -> None:
        started = time.monotonic()
        self._event(f"starting in {self._options.data_dir}")
        stores, ready = self._stores()
        self._environ = self._environment(stores)
        upstream = self._options.upstream
        if not upstream:
            listening = self._upstream_socket = loopback.listen(self._folder.port("upstream"))
            upstream = f"http://{loopback.HOST}:{listening.getsockname()[1]}"
            holidays = self._web("upstream", "portal.demo.holidays_api:app", listening)
            is_ready = _responds(listening, upstream, "/healthz", 200)
            ready.append(self._keep(holidays, is_ready))
        await asyncio.gather(*ready)
        await self._run_once("migrate", "migrate", "--noinput", "--verbosity=0")
        offered = ["--upstream" if self._options.upstream else "--holidays", upstream]
        if self._options.openapi:
            offered += ["--openapi", self._options.openapi]
        await self._run_once("demo", "demo", *offered)
        self._demo = self._folder.read("demo.json")
        self._environ.setdefault("SITE_NAME", self._demo["site_name"])
        await asyncio.gather(*self._application())
        self._is_ready = True
        self._write_run_json()
        self._event(f"ready in {time.monotonic() - started:.1f} s")
        self._say_where_to_click()

    def _stores(self) -> tuple[dict[str, str], list[Awaitable[None]]]:
        """The addresses of both stores, and what to await until the embedded ones are up."""
        stores = {name: self._given.get(name, "") for name in ("DATABASE_URL", "REDIS_URL")}
        path, ready = self._folder.path, list[Awaitable[None]]()
        if not stores["DATABASE_URL"]:
            postgres = Postgres(path, self._secrets["POSTGRES_PASSWORD"])
            stores["DATABASE_URL"] = postgres.url
            ready.append(self._serve(postgres))
        if not stores["REDIS_URL"]:
            port = self._folder.port("valkey")
            valkey = Valkey(path, self._secrets["VALKEY_PASSWORD"], port)
            stores["REDIS_URL"] = valkey.url
            ready.append(self._serve(valkey))
        return stores, ready

    def _environment(self, stores: Mapping[str, str]) -> dict[str, str]:
        """What the children see: the operator's own variables win over the demo's."""
        own = ("POSTGRES_PASSWORD", "VALKEY_PASSWORD")  # they are in the addresses
        return {
            "DEBUG": "0",
            "KEYSTILE_DEMO": "1",
            "PAYMENT_PROVIDER": "sandbox",
            "SITE_URL": f"http://{loopback.HOST}:{self._options.port}",
            "GATEWAY_URL": f"http://{loopback.HOST}:{self._options.port + 1}",
            **self._given,
            **{name: value for name, value in self._secrets.items() if name not in own},
            **stores,
            "DATA_DIR": str(self._folder.path),
            "PYTHONUNBUFFERED": "1",
        }

    def _application(self) -> list[Awaitable[None]]:
        site, gateway = self._environ["SITE_URL"], self._environ["GATEWAY_URL"]
        # As root the worker says at length that it shouldn't be; on loopback that is all right.
        calm = ["-W", "ignore:You're running the worker with superuser"]
        celery = [sys.executable, *calm, "-m", "celery", "-A", "portal", "--quiet"]
        worker = [*celery, "worker", "--concurrency=2", "--loglevel=WARNING"]
        worker += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        schedule = self._folder.path / "beat-schedule"
        beat = [*celery, "beat", "--loglevel=WARNING", f"--schedule={schedule}"]
        gateways = [
            self._web("gateway", "gateway.asgi:application", self._gateway_socket)
            for _ in range(self._options.gateway_processes)
        ]
        portal = self._web("portal", "portal.asgi:application", self._site_socket)
        site_ready = _responds(self._site_socket, site, "/healthz", 200)
        gateway_ready = _responds(self._gateway_socket, gateway, "/", 499)  # a refusal will do
        return [
            self._keep(portal, site_ready),
            *(self._keep(child, gateway_ready) for child in gateways),
            self._keep(self._child("worker", worker), _is_alive),
            self._keep(self._child("beat", beat), _is_alive),
        ]

    async def _stop(self) -> None:
        self._is_ready = False
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self._folder.remove("run.json")
        self._event("stopping")
        for roles, seconds in STOPS:
            leaving = [child for child in self._children if child.role in roles]
            await asyncio.gather(*(child.stop(seconds) for child in leaving))
        self._event("stopped")

    # ---------------------------------------------------------------- children

    def _child(self, role: str, command: Sequence[str], *sockets: socket.socket) -> Child:
        child = Child(
            role,
            command,
            environ=self._environ,
            folder=ROOT,
            descriptors=[self._folder.tenancy, *(each.fileno() for each in sockets)],
        )
        self._children.append(child)
        return child

    def _web(self, role: str, application: str, listening: socket.socket) -> Child:
        """A uvicorn process on an inherited socket: a new one answers what the old one left."""
        command = [sys.executable, "-m", "uvicorn", application, f"--fd={listening.fileno()}"]
        command += ["--http=gateway.wire:Server", "--loop=uvloop", "--ws=none"]
        command += [f"--backlog={loopback.BACKLOG}"]
        command += ["--no-access-log", "--no-server-header", "--no-date-header"]
        # The peer is the client: nothing in front of us may speak for it.
        command += ["--no-proxy-headers", "--log-level=warning", "--timeout-graceful-shutdown=2"]
        return self._child(role, command, listening)

    def _serve(self, server: Server) -> Awaitable[None]:
        with plain_errors(self._folder.path):
            server.prepare()
            logs = self._folder.path / "logs"
            logs.mkdir(mode=0o700, exist_ok=True)
        child = Child(
            server.name,
            server.command(),
            environ=self._given,
            folder=self._folder.path,
            descriptors=[self._folder.tenancy],
            stop_signal=server.stop_signal,
            death_signal=server.death_signal,
            chatter=logs / f"{server.name}.log",
            loud=server.loud,
        )
        self._children.append(child)

        async def is_ready(child: Child) -> bool:
            return child.pid is not None and server.is_ready(child.pid)

        return self._keep(child, is_ready)

    async def _run_once(self, role: str, *arguments: str) -> None:
        child = self._child(role, [sys.executable, "manage.py", *arguments])
        await child.start(self._output)
        how = await child.ended()
        if not child.succeeded:
            raise StartError(f"manage.py {role} {how}: {child.last_line}")

    async def _keep(self, child: Child, is_ready: Check) -> None:
        """Returns when `child` is ready for the first time; it is kept running until the stop."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keepers.append(asyncio.create_task(self._keep_alive(child, is_ready, ready)))
        try:
            await asyncio.wait_for(ready, READY_SECONDS)
        except TimeoutError:
            sentence = f"{child.role} was not ready within {READY_SECONDS:.0f} seconds."
            raise StartError(sentence) from None

    async def _keep_alive(self, child: Child, is_ready: Check, ready: asyncio.Future[None]) -> None:
        delay, starts = FIRST_DELAY_SECONDS, 0
        while True:
            starts += 1
            started = time.monotonic()
            await child.start(self._output)
            self._write_run_json()
            watching = asyncio.create_task(self._watch(child, is_ready, ready))
            how = await child.ended()
            watching.cancel()
            child.is_ready = False
            if starts == STARTS_BEFORE_READY and not ready.done():
                ready.set_exception(StartError(f"{child.role} {how}: {child.last_line}"))
                return
            if time.monotonic() - started > STEADY_SECONDS:
                delay = FIRST_DELAY_SECONDS
            self._output.event(child.role, f"{how}, starts again in {delay:g} s")
            await asyncio.sleep(delay)
            delay = min(delay * 2, LAST_DELAY_SECONDS)

    async def _watch(self, child: Child, is_ready: Check, ready: asyncio.Future[None]) -> None:
        while not await is_ready(child):
            await asyncio.sleep(0.05)
        child.is_ready = True
        self._output.event(child.role, "ready")
        if not ready.done():
            ready.set_result(None)

    # ---------------------------------------------------------------- for people and programs

    def _write_run_json(self) -> None:
        """Says where everything is, once it is ready and after every new start of a child."""
        if not self._is_ready:
            return
        pids: dict[str, Any] = {"supervisor": os.getpid()}
        for child in self._children:
            if child.role == "gateway":
                pids.setdefault("gateway", []).append(child.pid)
            elif child.pid is not None:
                pids[child.role] = child.pid
        addresses = {
            "site": self._environ["SITE_URL"],
            "gateway": self._environ["GATEWAY_URL"],
            "database_url": self._environ["DATABASE_URL"],
            "redis_url": self._environ["REDIS_URL"],
            "data_dir": str(self._folder.path),
        }
        try:
            self._folder.write("run.json", {**addresses, **self._demo, "pids": pids})
        except StartError as error:  # a disk that filled up later is no reason to end
            self._event(str(error))

    def _say_where_to_click(self) -> None:
        site, demo = self._environ["SITE_URL"], self._demo
        self._output.plain(
            "",
            f"  Site     {site}/pricing",
            f"  Admin    {site}/admin/   {demo['staff_email']}  {demo['staff_password']}",
            f"  Mailbox  {site}/demo/mail/",
            f"  A call   {demo['demo_call'] or 'with the key of a plan bought on the site'}",
            "",
            "  Ctrl-C stops everything.",
            "",
        )

    def _event(self, text: str) -> None:
        self._output.event("keystile", text)


def _responds(listening: socket.socket, url: str, path: str, most: int) -> Check:
    """A check that `path` answers with a status up to `most`."""

    async def check(_: Child) -> bool:
        status = await loopback.status(listening, url, path)
        return status is not None and status <= most

    return check


async def _is_alive(child: Child) -> bool:
    return child.pid is not None


def main() -> int:
    parser = argparse.ArgumentParser(prog="portal.run.supervisor", description=__doc__)
    parser.add_argument(
        "--die-with-parent", action="store_true", help="stop when the calling process is killed"
    )
    arguments = parser.parse_args()
    os.umask(0o077)
    try:
        if sys.platform != "linux":
            raise StartError("make run needs Linux, whose parent-death signal it relies on.")
        if arguments.die_with_parent:
            die_with_parent(signal.SIGTERM)
        asyncio.run(Supervisor(Options.from_environ(os.environ), os.environ).run())
    except StartError as error:
        sys.stderr.write(f"keystile: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
