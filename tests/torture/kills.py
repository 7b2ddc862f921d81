"""What is done to an installation: one blow at a time, at a process that runs now."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from typing import Any

import redis

from tests.product import Product

PAUSE_SECONDS = 3
counted: Counter[str] = Counter()
"""The blows so far, by name."""

BLOWS = {
    # More often those that hold what is not in the ledger yet.
    "gateway": 4,
    "valkey": 2,
    "valkey paused": 1,
    "connections dropped": 1,
    "worker": 2,
    "postgres": 1,
    "beat": 1,
    "portal": 1,
}
"""How often each, relative to the others."""


def strike(victim: Product, dice: random.Random) -> None:
    """One blow. What is not running just now is left alone."""
    blow = dice.choices(list(BLOWS), list(BLOWS.values()))[0]
    # A process may end, and Redis may be away, at any moment between a look and a blow.
    with contextlib.suppress(ProcessLookupError, redis.RedisError):
        if blow == "connections dropped":
            _drop_connections(victim)
        elif blow == "valkey paused":
            _pause(_pids(victim)["valkey"])
        else:
            _kill(_pids(victim).get(blow), dice, blow)
        counted[blow] += 1


def _pids(victim: Product) -> dict[str, Any]:
    return dict(json.loads((victim.data_dir / "run.json").read_text())["pids"])


def _kill(pid: Any, dice: random.Random, role: str) -> None:
    if isinstance(pid, list):
        pid = dice.choice(pid)
    if pid is None:
        raise ProcessLookupError(role)
    # Immediate shutdown is Postgres' crash: its own children would outlive a SIGKILL.
    os.kill(pid, signal.SIGQUIT if role == "postgres" else signal.SIGKILL)


def _pause(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(PAUSE_SECONDS)
    os.kill(pid, signal.SIGCONT)


def _drop_connections(victim: Product) -> None:
    with redis.Redis.from_url(victim.facts["redis_url"]) as connection:
        for client in connection.client_list():
            if client["name"] == "keystile-gateway":
                connection.client_kill_filter(addr=client["addr"])
