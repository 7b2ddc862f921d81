"""Keeps the opens of calls without an end: an API without a total timeout streams for hours.

An open has a deadline, after which the sweep takes its gateway for dead. Owns the putting off of
that deadline for as long as the call goes on; a gateway that dies stops doing so, and what it left
open is settled as abandoned a lease later, one minute unless told otherwise.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from itertools import islice
from typing import Any, NamedTuple

import structlog

from gateway.link import Link, Script, Unavailable, is_unknown_script
from keys import records

log = structlog.get_logger(__name__)

SCRIPT = Script("renew.lua")
BATCH = 500
RETRY_SECONDS = 1.0


class Lease(NamedTuple):
    """How long an open lasts without being renewed, and how often it is."""

    lasts_ms: int = 60_000
    renewed_every_s: float = 20.0


LEASE = Lease()


class Renewer:
    """Renews what it holds, all calls of the process at once, on the event loop's clock."""

    def __init__(self, link: Link, lease: Lease):
        self._link = link
        self._lease = lease
        self._held: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def hold(self, event_id: str, partition: int) -> None:
        """Renews the event's open from now on."""
        self._held[event_id] = partition
        if self._timer is None:
            self._renew_in(self._lease.renewed_every_s)

    def drop(self, event_id: str) -> None:
        """Does so no longer; an event that was never held is none."""
        self._held.pop(event_id, None)

    def stop(self) -> None:
        """Renews nothing any more."""
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _renew_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._renew)

    def _renew(self) -> None:
        self._timer = None
        if not self._held:
            return
        self._renew_in(self._lease.renewed_every_s)
        by_partition: defaultdict[int, list[str]] = defaultdict(list)
        for event_id, partition in self._held.items():
            by_partition[partition].append(event_id)
        for partition, event_ids in by_partition.items():
            left = iter(event_ids)
            while batch := tuple(islice(left, BATCH)):
                tag, opens = records.tag(partition), records.open_name(partition)
                packed = SCRIPT.by_sha(1, opens, tag, self._lease.lasts_ms, *batch)
                self._link.tell(packed, self._heard)

    def _heard(self, reply: Any) -> None:
        """Asks again soon if it was not done: a lease outlasts many tries."""
        if not isinstance(reply, Exception) or not self._held:
            return
        if is_unknown_script(reply):
            self._link.load_scripts()
        elif not isinstance(reply, Unavailable):
            log.error("renewal.failed", reason=str(reply))
        self._renew_in(min(RETRY_SECONDS, self._lease.renewed_every_s))
