"""Admission: one script call that says whether this call may go on, and charges it.

Owns what is sent to `scripts/admit.lua`, the reading of its reply, and the response headers
that tell a client its limits. A refused call is a value; Redis being away is one too
(`limits_unavailable`), because a client can be told what to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, NamedTuple

import hiredis
import structlog

from gateway.intake import Call
from gateway.link import Down, Link, Lost, Script
from gateway.problems import Headers, Refusal
from gateway.restrictions import Remembered, Restrictions
from gateway.routes import ApiRoutes, Operation, Table
from gateway.settle import Settler
from keys import records

log = structlog.get_logger(__name__)

SCRIPT = Script("admit.lua")
MAX_STREAM_ENTRIES = 1_000_000
"""Calls that wait for the ledger; at this many (Postgres is away) nothing more is admitted."""
DEADLINE_SLACK_MS = 60_000
"""How long after all timeouts of its API a call is taken for abandoned."""
ATTEMPTS = 4
"""An admission may find newer routes and newer restrictions, and both once more."""

UNAVAILABLE = Refusal("limits_unavailable", wait_s=1)
UNKNOWN_KEY = Refusal("unknown_key")
UNKNOWN_API = Refusal("unknown_api")
BODY_TOO_LARGE = Refusal("body_too_large")
NO_OPERATION = Operation("", {"calls": 0}, {})


class Admission(NamedTuple):
    """A call that may go on. `headers` tell the client what is left."""

    event_id: str
    api: ApiRoutes
    operation: Operation
    key: bytes
    account: bytes
    mode: bytes
    plan: bytes
    headers: Headers


Match = tuple[ApiRoutes | None, Operation, Refusal | None]


def match(table: Table, call: Call) -> Match:
    """The operation of a call, or the refusal that it gets if its key is good."""
    api = table.apis.get(call.api)
    if api is None:
        return None, NO_OPERATION, UNKNOWN_API
    found = api.find(call.method, call.path)
    if isinstance(found, Refusal):
        return api, NO_OPERATION, found
    if call.content_length is not None and call.content_length > api.max_body:
        return api, found, BODY_TOO_LARGE
    return api, found, None


class Gate:
    """Admits calls of one process. Holds its table of routes, and restrictions it met."""

    def __init__(self, link: Link, settler: Settler):
        self._link = link
        self._settler = settler
        self._reloading: asyncio.Task[None] | None = None
        self._restrictions = Remembered()
        self.table = Table("", b"[]")

    async def admit(
        self, call: Call, event_id: str, choose: Callable[[Table, Call], Match] = match
    ) -> Admission | Refusal:
        """Admits the call as `event_id`, or says why not.

        Admitted means charged: the caller must settle the event, whatever happens.

        choose: says which operation the call is of, by the routes that hold
        """
        if call.partition not in records.PARTITIONS:
            return UNKNOWN_KEY
        prefix, tag = _names(call.partition)
        restrictions = self._restrictions.get(call.digest)
        for _ in range(ATTEMPTS):
            table = self.table
            api, operation, refusal = choose(table, call)
            judgement = None
            if restrictions is not None:
                judged = None if refusal or not api else f"{api.slug} {operation.label}"
                judgement = restrictions.judge(call, judged)
            try:
                reply = await self._link.run(
                    SCRIPT,
                    1,
                    prefix + call.digest,
                    tag,
                    event_id,
                    table.version,
                    restrictions.revision if restrictions else "",
                    api.slug if api else "",
                    operation.label,
                    (api.longest_ms if api else 0) + DEADLINE_SLACK_MS,
                    MAX_STREAM_ENTRIES,
                    refusal.code if refusal else "",
                    refusal.status if refusal else 0,
                    operation.units_json,
                    judgement.code if judgement else "",
                    *operation.arguments,
                )
                if reply[0] == b"routes":
                    await self._reload(call.partition)
                    continue
                if reply[0] == b"judge":
                    restrictions = Restrictions(*reply[1:])
                    self._restrictions.put(call.digest, restrictions)
                    continue
            except Down:
                return UNAVAILABLE
            except Lost:
                # Perhaps charged. Never asked again: closed unbilled once Redis is back.
                if refusal is None and judgement is None:
                    self._settler.void(event_id, call.partition, operation)
                return UNAVAILABLE
            except hiredis.ReplyError as error:
                log.error("admit.failed", reason=str(error))
                return UNAVAILABLE
            return _verdict(reply, event_id, api, operation, (judgement, refusal))
        return UNAVAILABLE

    async def sells(self, slug: str, version: str, partition: int) -> bool:
        """Whether the routes of that version have this API. Raises `link.Unavailable`."""
        if version != self.table.version:
            await self._reload(partition)
        return slug in self.table.apis

    async def _reload(self, partition: int) -> None:
        """Loads the published routes, once for all calls that wait for them."""
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self.load(partition))
        await asyncio.shield(self._reloading)

    async def load(self, partition: int) -> None:
        """Makes the published routes this process's table. Raises `link.Unavailable`."""
        name = records.routes_name(partition)
        version, blob = await self._link.send(b"HMGET", name, b"version", b"blob")
        if version is not None:
            self.table = Table(version.decode(), blob)
            log.info("routes.loaded", version=self.table.version)


@cache
def _names(partition: int) -> tuple[str, str]:
    """What the names of key records begin with, and the partition's hash tag."""
    return records.key_name(partition, ""), records.tag(partition)


def _verdict(
    reply: list[Any],
    event_id: str,
    api: ApiRoutes | None,
    operation: Operation,
    decided: tuple[Refusal | None, ...],
) -> Admission | Refusal:
    code = reply[0]
    if code == b"unavailable":
        return UNAVAILABLE
    if code == b"unknown_key":
        return UNKNOWN_KEY
    key, account, mode, plan, *limits = reply[2:]
    headers = _limit_headers(*limits) if limits else []
    headers.append((b"keystile-mode", mode))
    if code:
        for refusal in decided:
            if refusal is not None and refusal.code == code.decode():
                return refusal._replace(headers=(*refusal.headers, *headers))
        return Refusal(code.decode(), wait_s=reply[1], headers=tuple(headers))
    assert api is not None  # noqa: S101  without an API there was a refusal
    headers.append((b"keystile-event", event_id.encode()))
    return Admission(event_id, api, operation, key, account, mode, plan, headers)


def _limit_headers(
    burst: int,
    window_s: int,
    left: int,
    reset_s: int,
    quota: int | None,
    quota_left: int | None,
    quota_window_s: int,
    quota_reset_s: int,
    quota_is_first: int,
) -> Headers:
    """RateLimit fields (draft-ietf-httpapi-ratelimit-headers) and their older cousins.

    `X-RateLimit-*` speak of the limit that the client meets first. Resets are in seconds.
    """
    limit = burst
    if quota is None or quota_left is None:
        state = b'"burst";r=%d;t=%d' % (left, reset_s)
    else:
        numbers = (left, reset_s, quota_left, quota_reset_s)
        state = b'"burst";r=%d;t=%d, "quota";r=%d;t=%d' % numbers
        if quota_is_first:
            limit, left, reset_s = quota, quota_left, quota_reset_s
    headers = [
        (b"ratelimit-policy", _policy(burst, window_s, quota, quota_window_s)),
        (b"ratelimit", state),
        (b"x-ratelimit-limit", b"%d" % limit),
        (b"x-ratelimit-remaining", b"%d" % left),
        (b"x-ratelimit-reset", b"%d" % reset_s),
    ]
    if quota_left is not None:
        headers.append((b"keystile-quota-remaining", b"%d" % quota_left))
    return headers


@lru_cache(maxsize=4096)
def _policy(burst: int, window_s: int, quota: int | None, quota_window_s: int) -> bytes:
    policy = f'"burst";q={burst};w={window_s}'
    if quota is not None:
        policy += f', "quota";q={quota};w={quota_window_s}'
    return policy.encode()
