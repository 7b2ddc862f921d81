"""Processes that are measured: started on chosen cores, ended with the session, read from /proc."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from portal.run.processes import bound_to_parent, last_line

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
START_SECONDS = 30.0


@contextmanager
def pinned(cores: Iterable[int]) -> Iterator[None]:
    """What the block starts runs on these cores; they are inherited."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def serving(
    command: Sequence[str | Path],
    *,
    port: int,
    log: Path,
    environment: Mapping[str, str] | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
) -> Iterator[int]:
    """A server process; the block begins when `port` takes connections. Yields its pid."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(map(str, command)),
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=bound_to_parent(signal.SIGTERM),
        )
    try:
        wait_until(
            lambda: _takes_connections(port),
            f"{command[0]} did not start",
            lambda: None if process.poll() is None else last_line(log.read_text()),
        )
        yield process.pid
    finally:
        process.send_signal(stop_signal)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(
    is_so: Callable[[], object],
    otherwise: str,
    failed: Callable[[], str | None] = lambda: None,
) -> None:
    """Returns once it is so. Raises RuntimeError after `START_SECONDS`, or when it has failed."""
    deadline = time.monotonic() + START_SECONDS
    while not is_so():
        reason = failed()
        if reason is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{otherwise}: {reason}" if reason else otherwise)
        time.sleep(0.02)


def _takes_connections(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def family(pids: Iterable[int]) -> list[int]:
    """The processes and all their children."""
    found = []
    for pid in pids:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        found += [pid, *family(map(int, children))]
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time that these processes have used so far."""
    ticks = 0
    for pid in pids:
        # The command's name, in parentheses, may hold blanks.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_SECOND


def resident_mb(pids: Iterable[int]) -> float:
    """Resident memory; what processes share is counted for each."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * PAGE_BYTES / 1e6
