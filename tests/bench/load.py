"""One run of load against one contestant, and the figures it gives."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.bench import processes, seller
from tests.bench.checks import DoesLess
from tests.bench.contestants import Contestant, Running

WRK_SCRIPT = Path(__file__).parent / "wrk.lua"
WARM_UP_SECONDS = 1
CLIENT_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class Scenario:
    """What is asked for: a path, over so many connections."""

    title: str
    path: str
    connections: int


@dataclass(frozen=True)
class Measure:
    """What one run gave.

    cpu_ms_per_1000: CPU time of the contestant's own processes for 1000 calls
    busy: the part of one core that this was
    unanswered: usage entries less the requests that the client saw end: calls that were under way
        when it stopped. None for who records nothing.
    """

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms_per_1000: float
    busy: float
    memory_mb: float
    completed: int
    errors: int
    unanswered: int | None


def run(
    contestant: Contestant, running: Running, scenario: Scenario, keys: list[str], seconds: int
) -> Measure:
    """Warms up, then measures for so many seconds. Raises `DoesLess` if nothing is answered."""
    ask(running.port, scenario, keys, WARM_UP_SECONDS)
    before = 0
    if contestant.entries is not None:
        contestant.entries()
        seller.forget_stream()
        before = contestant.entries()
    pids = processes.family(running.pids)
    cpu_before = processes.cpu_seconds(pids)
    seen = ask(running.port, scenario, keys, seconds)
    recorded = contestant.entries() - before if contestant.entries else None
    # Read after the last settlement: it is part of the job.
    cpu_ms = (processes.cpu_seconds(pids) - cpu_before) * 1000
    completed = seen["completed"]
    if not completed:
        raise DoesLess(f"{contestant.name}: no answer in {seconds} seconds, {scenario.title}")
    rate = completed / seen["duration_us"] * 1e6
    cpu_ms_per_1000 = cpu_ms / (completed if recorded is None else recorded) * 1000
    return Measure(
        requests_per_second=rate,
        p50_ms=seen["p50_us"] / 1000,
        p99_ms=seen["p99_us"] / 1000,
        cpu_ms_per_1000=cpu_ms_per_1000,
        busy=rate * cpu_ms_per_1000 / 1e6,
        memory_mb=processes.resident_mb(pids),
        completed=completed,
        errors=seen["errors"],
        unanswered=None if recorded is None else recorded - completed,
    )


def ask(port: int, scenario: Scenario, keys: list[str], seconds: int) -> dict[str, int]:
    """Asks for so many seconds; what the client saw, as wrk.lua prints it."""
    command = ["wrk", "--threads=1", f"--connections={scenario.connections}"]
    command += [f"--duration={seconds}s", f"--timeout={CLIENT_TIMEOUT_SECONDS}s"]
    command += [f"--script={WRK_SCRIPT}", f"http://127.0.0.1:{port}{scenario.path}", "--", *keys]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, int] = json.loads(done.stdout.rsplit("\n", 2)[-2])
    return figures
