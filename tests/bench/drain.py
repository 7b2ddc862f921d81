"""The drain, measured on what the gateway has just put into its stream.

Run as a process of its own it drains the stream and prints what that took.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from tests.bench import processes
from tests.bench.machine import Cores

LONGEST_SECONDS = 600


@dataclass(frozen=True)
class Drained:
    """What one drain took; cpu_seconds are its own, without Postgres' and Redis'."""

    calls: int
    seconds: float
    cpu_seconds: float

    @property
    def calls_per_second(self) -> float:
        return self.calls / self.seconds

    @property
    def cpu_ms_per_1000(self) -> float:
        return self.cpu_seconds / self.calls * 1e6


def run(cores: Cores) -> Drained:
    """Empties the stream, by one process on the core that the gateway had."""
    with processes.pinned({cores.first}):
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.drain"], stdout=subprocess.PIPE, check=True
        )
    return Drained(**json.loads(done.stdout))


def main() -> None:
    import django

    django.setup()
    from django.db import connection
    from django.utils import timezone

    from gateway import ledger
    from keys import records

    # As in a worker that has been at it for a while.
    ledger.drain_batch(0, timezone.now())
    waiting = int(records.connection().xlen(records.usage_stream(0)))
    started, cpu_started = time.perf_counter(), time.process_time()
    ledger.drain(0, timezone.now, LONGEST_SECONDS)
    drained = Drained(
        calls=waiting,
        seconds=time.perf_counter() - started,
        cpu_seconds=time.process_time() - cpu_started,
    )
    connection.close()
    sys.stdout.write(json.dumps(asdict(drained)))


if __name__ == "__main__":
    main()
