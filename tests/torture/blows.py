"""What is done to an installation: an order of blows drawn from a seed, and their execution.

Every kill is a SIGKILL, at a process that runs then: a blow waits for its victim to be there. Of
the worker and of Postgres either the parent is hit, whose children must notice, or one of its
children, which the parent must notice.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from tests.product import Product

VICTIM_SECONDS = 30
ROLES = ("gateway", "worker", "beat", "valkey", "postgres", "portal")
KILL, KILL_CHILD, PAUSE, DROP = "kill -9", "kill -9 a child of", "SIGSTOP", "drop connections of"
KILLS = {
    # More often those that hold what is not in the ledger yet.
    (KILL, "gateway"): 4,
    (KILL, "worker"): 2,
    (KILL_CHILD, "worker"): 1,
    (KILL, "beat"): 1,
    (KILL, "valkey"): 2,
    (KILL, "postgres"): 1,
    (KILL_CHILD, "postgres"): 2,
    (KILL, "portal"): 1,
}
"""Who is killed, and how often relative to the others."""
DROPPED = ("the gateways", "everybody")
"""Whose connections to Redis are dropped."""
MOST_SECONDS_BETWEEN = 2.5
MOST_PAUSE_SECONDS = 4.0  # twice as long as a gateway waits for Redis


@dataclass(frozen=True)
class Blow:
    """One blow of a plan.

    after:   seconds since the one before
    what:    `KILL`, `KILL_CHILD`, `PAUSE` or `DROP`
    victim:  of `ROLES` or `DROPPED`
    choice:  from 0 to 1, which of several
    seconds: how long a pause lasts
    """

    after: float
    what: str
    victim: str
    choice: float
    seconds: float = 0

    def __str__(self) -> str:
        lasting = f", {self.seconds:.1f} s" if self.what == PAUSE else ""
        return f"{self.what} {self.victim}{lasting}"


@dataclass(frozen=True)
class Struck:
    """A blow that was struck: from when to when, epoch seconds."""

    blow: Blow
    began: float
    ended: float


def plan(dice: random.Random, kills: int) -> list[Blow]:
    """So many kills, a third as many pauses, a fifth as many dropped connections, in disorder.

    Each role is killed at least once, where there are as many kills.
    """
    deck = [(KILL, role) for role in ROLES][:kills]
    deck += dice.choices([*KILLS], [*KILLS.values()], k=kills - len(deck))
    deck += [(PAUSE, dice.choice(ROLES)) for _ in range(max(kills // 3, 1))]
    deck += [(DROP, dice.choice(DROPPED)) for _ in range(max(kills // 5, 1))]
    dice.shuffle(deck)
    return [
        Blow(
            after=dice.uniform(0.2, MOST_SECONDS_BETWEEN),
            what=what,
            victim=victim,
            choice=dice.random(),
            seconds=dice.uniform(0.5, MOST_PAUSE_SECONDS) if what == PAUSE else 0,
        )
        for what, victim in deck
    ]


def strike(product: Product, blow: Blow) -> Struck:
    """Strikes when the victim is there. Raises `TimeoutError` if it never is."""
    deadline = time.monotonic() + VICTIM_SECONDS
    while True:
        began = time.time()
        # A process may end, and Redis may be away, at any moment between a look and a blow.
        with contextlib.suppress(ProcessLookupError, redis.RedisError):
            _strike(product, blow)
            return Struck(blow, began, time.time())
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing to hit: {blow}")
        time.sleep(0.02)


def _strike(product: Product, blow: Blow) -> None:
    if blow.what == DROP:
        _drop_connections(product, blow.victim)
        return
    pid = _running(product, blow.victim, blow.choice)
    if blow.what == PAUSE:
        with _stopped([pid, *_children(pid)]):
            time.sleep(blow.seconds)
        return
    if blow.what == KILL_CHILD:
        serving = sorted(child for child in _children(pid) if _serves(child))
        if not serving:
            raise ProcessLookupError(blow.victim)
        pid = serving[int(blow.choice * len(serving))]
    os.kill(pid, signal.SIGKILL)


def _running(product: Product, role: str, choice: float) -> int:
    """The supervisor's child of that role, alive. Raises `ProcessLookupError`."""
    pids: dict[str, Any] = json.loads((product.data_dir / "run.json").read_text())["pids"]
    found = pids.get(role) or []
    of_role = found if isinstance(found, list) else [found]
    alive = _children(pids["supervisor"])
    if not of_role or (pid := of_role[int(choice * len(of_role))]) not in alive:
        raise ProcessLookupError(role)
    return int(pid)


def _children(parent: int) -> set[int]:
    """Processes of that parent, but for those that have ended and wait to be noticed."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pid, _, rest = status.read_text().partition(" (")
            state, ppid, *_ = rest.rpartition(") ")[2].split()
            if int(ppid) == parent and state != "Z":
                found.add(int(pid))
    return found


def _serves(child: int) -> bool:
    """Whether a parent's child is one that does its work: of Postgres', one with a client.

    Its others are left alone: where the process that recovers from the crash of another is killed,
    Postgres 18 may wait for it for ever (docs/reliability.md).
    """
    try:
        title = Path(f"/proc/{child}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return not title.startswith(b"postgres:") or title.startswith(b"postgres: keystile ")


@contextlib.contextmanager
def _stopped(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _drop_connections(product: Product, whose: str) -> None:
    with redis.Redis.from_url(product.facts["redis_url"]) as connection:
        for client in connection.client_list():
            if whose == "everybody" or client["name"] == "keystile-gateway":
                connection.client_kill_filter(addr=client["addr"], skipme=True)
