"""Settlement: closes an admitted call and appends its entry to the stream of usage.

Owns the rules of what is billed, the settling script's arguments, and the promise that every
call that was charged is settled: what Redis has not confirmed is sent again, which is safe.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Collection
from functools import cache, partial
from typing import Any

import structlog

from gateway.link import (
    EVENT_CHARACTERS,
    Argument,
    Link,
    Script,
    Template,
    Unavailable,
    hole,
    is_unknown_script,
    packed_text,
)
from gateway.routes import Operation
from keys import records

log = structlog.get_logger(__name__)

SCRIPT = Script("settle.lua")
RETRY_SECONDS = 1.0
VOID_AGAIN_SECONDS = 2.0
"""A Redis that was paused may read the void before the admission it is for, but not by so much."""
MAX_REPORTED = 8
MAX_UNITS = 10**12
CLIENT_CLOSED = 499
"""Status of a call whose client left before the answer's head; nobody has seen it."""
UNBILLED = frozenset((408, 429, CLIENT_CLOSED))
"""Below 500, where nothing is billed: the answer says that there was no time for a real one."""

_UNITS = re.compile(rb"\s*([a-z0-9_-]{1,40})\s*=\s*([0-9]{1,13})\s*")
_ADDRESS = re.compile(rb"[0-9A-Fa-f:.]{2,45}")
_METADATA = re.compile(rb"\s*([A-Za-z0-9_.-]{1,40})\s*=\s*([\x20-\x2b\x2d-\x7e]{0,100}?)\s*")


Arguments = tuple[Argument, ...]


class Outcome:
    """How a call ended, written down while it is forwarded; as made: it never got anywhere.

    status:   as the client saw it; 499 when it left before the answer's head
    code:     the gateway's own error, or "truncated"
    reported: units by meter, as the backend says in Keystile-Units
    """

    __slots__ = (
        "code",
        "metadata",
        "reported",
        "request_bytes",
        "response_bytes",
        "status",
        "upstream_us",
    )

    def __init__(self) -> None:
        self.status = CLIENT_CLOSED
        self.code = ""
        self.reported: dict[str, int] = {}
        self.metadata: dict[str, str] = {}
        self.upstream_us = 0
        self.request_bytes = 0
        self.response_bytes = 0

    def is_charged(self, unbilled: Collection[int]) -> bool:
        """Decided at the answer's head: the backend answered, and not that it could not.

        unbilled: further statuses that cost nothing, as the API says
        """
        if self.code not in ("", "truncated"):
            return False  # the gateway's own answer
        return self.status < 500 and self.status not in UNBILLED and self.status not in unbilled


class Settler:
    """Settles the calls of one process; keeps each until Redis has confirmed it."""

    def __init__(self, link: Link):
        self._link = link
        self._unconfirmed: dict[str, bytes] = {}
        self._doubtful: set[str] = set()
        self._retry: asyncio.TimerHandle | None = None
        link.on_connect = self._send_all

    def settle(
        self,
        event_id: str,
        partition: int,
        operation: Operation,
        outcome: Outcome,
        *,
        client: bytes,
        is_live: bool,
        is_charged: bool,
        latency_us: int,
    ) -> None:
        """Settles a call; returns before Redis has answered.

        client:     the address that called, for the key's “last used”; the ledger does not keep it
        is_charged: whether the call keeps what it was charged; a live one is then billed
        """
        address = client.decode() if _ADDRESS.fullmatch(client) else ""
        kept, metadata = units_of(operation, outcome)
        end = (
            f'{{"outcome":"completed","status":{outcome.status},"code":"{outcome.code}",'
            f'"billable":{"true" if is_live and is_charged else "false"},'
            f'"units":{operation.units_json if kept is operation.units else json.dumps(kept)},'
            f'"meta":{json.dumps(metadata) if metadata else "{}"},'
            f'"latency_us":{latency_us},"upstream_us":{outcome.upstream_us},'
            f'"in":{outcome.request_bytes},"out":{outcome.response_bytes},"client":"{address}"}}'
        )
        if is_charged and kept is operation.units:
            packed = _as_charged(partition).filled(event_id.encode()) + packed_text(end)
        else:
            corrected = corrections(operation.units, kept if is_charged else {})
            packed = SCRIPT.by_sha(*arguments(event_id, partition, end, corrected))
        self._submit(event_id, packed)

    def void(self, event_id: str, partition: int, operation: Operation) -> None:
        """Closes, unbilled, a call that may have been admitted without our hearing of it.

        Asks once more if there is nothing to close: the admission may still be on its way.
        """
        corrected = corrections(operation.units, {})
        self._doubtful.add(event_id)
        given = arguments(event_id, partition, abandoned(503), corrected)
        self._submit(event_id, SCRIPT.by_sha(*given))

    async def finish(self, timeout_seconds: float) -> None:
        """Waits until all is confirmed, for so long; what is left the sweep will abandon."""
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        while self._unconfirmed and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        if self._unconfirmed:
            log.warning("settle.unconfirmed", count=len(self._unconfirmed))
        if self._retry is not None:
            self._retry.cancel()

    def _submit(self, event_id: str, packed: bytes) -> None:
        self._unconfirmed[event_id] = packed
        # What is not written, or not answered, is sent again by on_connect.
        self._link.tell(packed, partial(self._heard, event_id))

    def _heard(self, event_id: str, reply: Any) -> None:
        if not isinstance(reply, Exception):
            packed = self._unconfirmed.pop(event_id, None)
            if self._doubtful and event_id in self._doubtful and packed is not None:
                self._doubtful.remove(event_id)
                if reply == 0:
                    loop = asyncio.get_running_loop()
                    loop.call_later(VOID_AGAIN_SECONDS, self._submit, event_id, packed)
        elif is_unknown_script(reply):
            self._link.load_scripts()
            if event_id in self._unconfirmed:  # sent twice, it may be confirmed already
                self._submit(event_id, self._unconfirmed[event_id])
        elif not isinstance(reply, Unavailable):
            log.error("settle.failed", event_id=event_id, reason=str(reply))
            if self._retry is None:
                loop = asyncio.get_running_loop()
                self._retry = loop.call_later(RETRY_SECONDS, self._send_all)

    def _send_all(self) -> None:
        self._retry = None
        for event_id, packed in tuple(self._unconfirmed.items()):
            self._submit(event_id, packed)


def arguments(
    event_id: str, partition: int, end: str, corrected: tuple[str | int, ...]
) -> Arguments:
    """What settle.lua is given: the number of keys, its keys, its arguments."""
    return *_names(partition), event_id, end, *corrected


@cache
def _as_charged(partition: int) -> Template:
    """The command that settles a call as it was charged, up to how it ended."""
    event_id, end = hole(EVENT_CHARACTERS), ""
    packed = SCRIPT.by_sha(*arguments(event_id, partition, end, ()))
    return Template(packed.removesuffix(packed_text(end)))


@cache
def _names(partition: int) -> tuple[str | int, ...]:
    return (
        2,
        records.open_name(partition),
        records.usage_stream(partition),
        records.tag(partition),
    )


def abandoned(status: int) -> str:
    """The end, as JSON, of a call that nobody saw end. Not billed."""
    return json.dumps(
        {
            "outcome": "abandoned",
            "status": status,
            "code": "",
            "billable": False,
            "units": {},
            "meta": {},
            "latency_us": 0,
            "upstream_us": 0,
            "in": 0,
            "out": 0,
        }
    )


def corrections(charged: dict[str, int], kept: dict[str, int]) -> tuple[str | int, ...]:
    """Meter, units, meter, units …: what changes what was charged into what is kept."""
    if charged is kept:
        return ()
    pairs = ((meter, kept.get(meter, 0) - units) for meter, units in charged.items())
    return tuple(part for meter, change in pairs if change for part in (meter, change))


def units_of(operation: Operation, outcome: Outcome) -> tuple[dict[str, int], dict[str, str]]:
    """The units of a call and its metadata.

    Of meters that the backend reports: what it said, up to the operation's maximum. What is
    over it, and what was not declared at all, is not billed; metadata keeps it as `over_<meter>`.
    """
    if not operation.reported and not outcome.reported:
        return operation.units, outcome.metadata
    units, metadata = dict(operation.units), dict(outcome.metadata)
    for meter, most in operation.reported.items():
        units[meter] = min(outcome.reported.get(meter, 0), most)
    for meter, said in outcome.reported.items():
        over = said - operation.reported.get(meter, 0)
        if over > 0:
            metadata[f"over_{meter}"] = str(over)
    return units, metadata


def parse_units(value: bytes) -> dict[str, int]:
    """`tokens=512, rows=3` of a Keystile-Units header; parts that are not that are left out."""
    parts = [_UNITS.fullmatch(part) for part in value.split(b",")[:MAX_REPORTED]]
    return {part[1].decode(): int(part[2]) for part in parts if part and int(part[2]) <= MAX_UNITS}


def parse_metadata(value: bytes) -> dict[str, str]:
    """`model=large, region=eu` of a Keystile-Metadata header, likewise."""
    parts = [_METADATA.fullmatch(part) for part in value.split(b",")[:MAX_REPORTED]]
    return {part[1].decode(): part[2].decode() for part in parts if part}
