"""The whole product as `make run` starts it, for tests that use it from outside."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OWN_VARIABLES = (
    "DATABASE_URL", "REDIS_URL", "SITE_URL", "GATEWAY_URL", "DATA_DIR", "LOG_LEVEL",
    "SECRET_KEY", "KEY_PEPPER", "FIELD_KEY", "SANDBOX_WEBHOOK_SECRET", "DEMO_UPSTREAM_SECRET",
    "STAFF_PASSWORD", "KEYSTILE_DEMO", "PAYMENT_PROVIDER", "DJANGO_SETTINGS_MODULE",
)  # fmt: skip


@dataclass
class Product:
    """A running Keystile: its addresses and logins (`run.json`), its log and its data."""

    data_dir: Path
    log: Path
    facts: dict[str, Any]

    @property
    def site(self) -> str:
        return str(self.facts["site"])

    @property
    def gateway(self) -> str:
        return f"{self.facts['gateway']}/gateway/{self.facts['api']}"


def free_port() -> int:
    """The first of two neighbouring ports that nobody listens on."""
    for port in range(18000, 19000, 2):
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise RuntimeError("no free pair of ports between 18000 and 19000")


@contextmanager
def running(data_dir: Path, **variables: str) -> Iterator[Product]:
    """Starts the supervisor on a free port and an own data folder; stops it at the end."""
    environment = {k: v for k, v in os.environ.items() if k not in OWN_VARIABLES}
    environment |= {"PORT": str(free_port()), "DATA_DIR": str(data_dir), **variables}
    log = data_dir.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "portal.run.supervisor", "--die-with-parent"],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Product(data_dir, log, _facts(process, data_dir, log))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def _facts(process: subprocess.Popen[bytes], data_dir: Path, log: Path) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (data_dir / "run.json").exists():
            return dict(json.loads((data_dir / "run.json").read_text()))
        time.sleep(0.2)
    raise RuntimeError(f"make run did not get ready:\n{log.read_text()[-4000:]}")
