"""The data folder of `make run`: who may use it, its secrets, ports and `run.json`.

Refuses a folder that holds somebody else's files, that another supervisor uses, or that can't be
written; every refusal is one sentence for the operator. What Postgres and Valkey keep inside is
`portal.run.embedded`'s business.
"""

import base64
import contextlib
import errno
import fcntl
import json
import os
import random
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

MARKER = "keystile.lock"
FREE_MB = 20
PREDECESSOR_SECONDS = 15.0
# Below the range from which Linux takes outgoing ports, so that no client socket sits on a
# port that we expect to find free again.
PORTS = range(20000, 32000)


class StartError(Exception):
    """The start can't go on. The text is the one sentence that the operator reads."""


@contextlib.contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """Turns an `OSError` on files under `path` into a `StartError`."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        if error.errno == errno.ENOSPC:
            raise StartError(f"The disk that holds {where} is full.") from error
        raise StartError(f"{where} can't be used: {error.strerror}.") from error


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def _webhook_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


SECRETS: dict[str, Callable[[], str]] = {
    "SECRET_KEY": lambda: secrets.token_urlsafe(48),
    "KEY_PEPPER": lambda: secrets.token_hex(32),
    "FIELD_KEY": _fernet_key,
    "SANDBOX_WEBHOOK_SECRET": _webhook_secret,
    "DEMO_UPSTREAM_SECRET": lambda: secrets.token_urlsafe(24),
    "STAFF_PASSWORD": lambda: secrets.token_urlsafe(12),
    "POSTGRES_PASSWORD": lambda: secrets.token_hex(24),
    "VALKEY_PASSWORD": lambda: secrets.token_hex(24),
}


class DataFolder:
    """A claimed data folder; nobody else claims it until this process ends or releases it."""

    def __init__(self, path: Path) -> None:
        """Claims `path` (created when missing). Raises `StartError`.

        Two locks: the first belongs to this process alone and tells a second supervisor off at
        once; the second, `tenancy`, is inherited by every child. After a `kill -9` of the
        supervisor it stays taken until the last child is gone, so that two servers never write
        the same files and the ports are free again.
        """
        self.path = path
        with plain_errors(path):
            self._refuse_foreign_files()
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            free_mb = shutil.disk_usage(path).free >> 20
            if free_mb < FREE_MB:
                raise StartError(f"The disk that holds {path} is full ({free_mb} MB free).")
            self._lock = _open_lock(path / MARKER)
            self.tenancy = _open_lock(path / "children.lock")
            self._claim()

    def _refuse_foreign_files(self) -> None:
        if not self.path.exists() or (self.path / MARKER).is_file():
            return
        if not self.path.is_dir():
            raise StartError(f"{self.path} is not a folder; choose another DATA_DIR.")
        foreign = sorted({entry.name for entry in self.path.iterdir()} - {"lost+found"})
        if foreign:
            raise StartError(
                f"{self.path} holds files that are not Keystile's ({', '.join(foreign[:3])}"
                f"{', …' if len(foreign) > 3 else ''}); choose an empty folder as DATA_DIR."
            )

    def _claim(self) -> None:
        if not _lock(self._lock):
            owner = (self.path / MARKER).read_text().strip() or "unknown"
            raise StartError(
                f"{self.path} is in use by another Keystile (process {owner}); "
                "stop that one or choose another DATA_DIR."
            )
        deadline = time.monotonic() + PREDECESSOR_SECONDS
        while not _lock(self.tenancy):
            if time.monotonic() > deadline:
                raise StartError(
                    f"Processes of an earlier Keystile still use {self.path}; end them."
                )
            time.sleep(0.05)
        os.truncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Gives the folder back; children that still run keep their half of the lock."""
        os.close(self._lock)
        os.close(self.tenancy)

    def read(self, name: str) -> dict[str, Any]:
        """The JSON object in the file `name`, empty where there is none. Raises `StartError`."""
        path = self.path / name
        with plain_errors(path):
            if not path.exists():
                return {}
            try:
                content = json.loads(path.read_bytes())
            except ValueError:
                content = None
        if not isinstance(content, dict):
            raise StartError(f"{path} is damaged; restore it from a copy.")
        return content

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Replaces the file `name` in one step; only the owner can read it (mode 0600)."""
        path = self.path / name
        fresh = path.with_name(f"{name}.new")
        with plain_errors(path):
            fresh.unlink(missing_ok=True)
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                json.dump(content, file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def secrets(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Every name of `SECRETS` with its value: the environment's, else the one kept here.

        What is missing is drawn and written to `secrets.json`. Raises `StartError` where that file
        has gone and a database that needs it has not.
        """
        kept: dict[str, str] = self.read("secrets.json")
        if not kept and (self.path / "postgres").exists():
            raise StartError(
                f"{self.path / 'secrets.json'} is missing, and without it the database next to it "
                "can't be opened; restore it from a copy or choose another DATA_DIR."
            )
        drawn = {
            name: draw()
            for name, draw in SECRETS.items()
            if name not in kept and not environ.get(name)
        }
        if drawn:
            kept = {**kept, **drawn}
            self.write("secrets.json", kept)
        return {name: environ.get(name) or kept[name] for name in SECRETS}

    def port(self, name: str) -> int:
        """A loopback port for `name`, the same at every start unless somebody else took it."""
        ports: dict[str, int] = self.read("ports.json")
        if name not in ports or not _is_free(ports[name]):
            ports[name] = next(
                port
                for port in random.sample(PORTS, len(PORTS))
                if port not in ports.values() and _is_free(port)
            )
            self.write("ports.json", ports)
        return ports[name]


def make_private(folder: Path) -> None:
    """Makes `folder` with mode 0700; refuses one that belongs to somebody else."""
    with plain_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise StartError(f"{folder} is not a private folder of this user; move it away.")


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
