"""Admission: one script call that says whether this call may go on, and charges it.

Owns what is sent to `scripts/admit.lua`, the reading of its reply, and the response headers
that tell a client its limits. A refused call is a value; Redis being away is one too
(`limits_unavailable`), because a client can be told what to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import hiredis
import structlog
from django.conf import settings

from gateway.intake import Call
from gateway.link import (
    EVENT_CHARACTERS,
    Argument,
    Down,
    Link,
    Lost,
    Script,
    Template,
    hole,
    is_unknown_script,
)
from gateway.problems import Refusal
from gateway.restrictions import Remembered, Restrictions, Unreadable
from gateway.routes import ApiRoutes, Operation, Table
from gateway.settle import Settler
from keys import records

log = structlog.get_logger(__name__)

SCRIPT = Script("admit.lua")
DEADLINE_SLACK_MS = 60_000
"""How long after all timeouts of its API a call is taken for abandoned."""
ATTEMPTS = 6
"""An admission may find newer routes, newer restrictions, an older pepper, and some once more."""

DIGEST_CHARACTERS = 64

UNAVAILABLE = Refusal("limits_unavailable", wait_s=1)
UNKNOWN_KEY = Refusal("unknown_key")
UNKNOWN_API = Refusal("unknown_api")
BODY_TOO_LARGE = Refusal("body_too_large")
NO_OPERATION = Operation("", {"calls": 0}, {})


class Admission(NamedTuple):
    """A call that may go on. `head` tells the client what is left, as lines of its answer."""

    event_id: str
    api: ApiRoutes
    operation: Operation
    key: bytes
    account: bytes
    mode: bytes
    plan: bytes
    head: bytes


Match = tuple[ApiRoutes | None, Operation, Refusal | None]


def match(table: Table, call: Call) -> Match:
    """The operation of a call, or the refusal that it gets if its key is good."""
    api = table.apis.get(call.api)
    if api is None:
        return None, NO_OPERATION, UNKNOWN_API
    found = api.find(call.method, call.path)
    if isinstance(found, Refusal):
        return api, NO_OPERATION, found
    length = call.said.content_length
    if length is not None and length > api.max_body:
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
        said = call.said
        partition, digest = said.partition, said.digest
        if partition not in records.PARTITIONS:
            return UNKNOWN_KEY
        restrictions = self._restrictions.get(digest)
        for _ in range(ATTEMPTS):
            table = self.table
            api, operation, refusal = choose(table, call)
            judgement = None
            if restrictions is not None:
                judged = None if refusal or not api else f"{api.slug} {operation.label}"
                judgement = restrictions.judge(call, judged)
            revision = restrictions.revision if restrictions else b""
            code = judgement.code if judgement else ""
            if api is None or refusal or revision:
                packed = SCRIPT.by_sha(
                    *_arguments(
                        partition, digest, event_id, table.version, api, operation, refusal,
                        revision, code,
                    )
                )  # fmt: skip
            else:
                template = operation.admits.get(partition)
                if template is None:
                    template = operation.admits[partition] = _template(
                        partition, table.version, api, operation
                    )
                packed = template.filled(digest.encode(), event_id.encode())
            try:
                reply = await self._link.ask(packed)
                if reply[0] == b"routes":
                    await self._reload(partition)
                    continue
                if reply[0] == b"unknown_key" and said.try_older():
                    digest = said.digest
                    restrictions = self._restrictions.get(digest)
                    continue
                if reply[0] == b"judge":
                    restrictions = Restrictions(*reply[1:])
                    self._restrictions.put(digest, restrictions)
                    continue
            except Down:
                return UNAVAILABLE
            except Lost:
                # Perhaps charged. Never asked again: closed unbilled once Redis is back.
                if refusal is None and judgement is None:
                    self._settler.void(event_id, partition, operation)
                return UNAVAILABLE
            except hiredis.ReplyError as error:
                if is_unknown_script(error):
                    self._link.load_scripts()
                    continue
                log.error("admit.failed", reason=str(error))
                return UNAVAILABLE
            except Unreadable as error:
                log.error("restrictions.unreadable", key_digest=digest, reason=str(error))
                return UNAVAILABLE
            return _verdict(reply, event_id, api, operation, (judgement, refusal))
        return UNAVAILABLE

    async def sells(self, slug: str, version: str, partition: int) -> bool:
        """Whether the routes of that version have this API. Raises `link.Unavailable`."""
        if version != self.table.version:
            await self._reload(partition)
        return slug in self.table.apis

    async def freshen(self, partition: int) -> None:
        """Loads routes that are newer than the table. Raises `link.Unavailable`."""
        version = await self._link.send(b"HGET", records.routes_name(partition), b"version")
        if version is not None and version.decode() != self.table.version:
            await self._reload(partition)

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


def _arguments(
    partition: int,
    digest: str,
    event_id: str,
    version: str,
    api: ApiRoutes | None,
    operation: Operation,
    refusal: Refusal | None,
    revision: bytes,
    judgement: str,
) -> tuple[Argument, ...]:
    """What admit.lua is given: the number of keys, its key, its arguments."""
    return (
        1,
        records.key_name(partition, digest),
        records.tag(partition),
        event_id,
        version,
        revision,
        api.slug if api else "",
        operation.label,
        (api.longest_ms if api else 0) + DEADLINE_SLACK_MS,
        settings.GATEWAY_MAX_STREAM_ENTRIES,
        refusal.code if refusal else "",
        refusal.status if refusal else 0,
        operation.units_json,
        judgement,
        operation.scope,
        *operation.arguments,
    )


def _template(partition: int, version: str, api: ApiRoutes, operation: Operation) -> Template:
    """The command for unrestricted keys, which differs from call to call in key and event."""
    digest, event_id = hole(DIGEST_CHARACTERS), hole(EVENT_CHARACTERS)
    return Template(
        SCRIPT.by_sha(
            *_arguments(partition, digest, event_id, version, api, operation, None, b"", "")
        )
    )


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
    _, wait_s, key, account, mode, plan, *limits = reply
    head = _limit_lines(*limits) if limits else b""
    head += b"keystile-mode: %b\r\n" % mode
    if code:
        for refusal in decided:
            if refusal is not None and refusal.code == code.decode():
                return refusal._replace(lines=head)
        detail = _needs(operation.scope) if code == b"operation_not_allowed" else ""
        return Refusal(code.decode(), detail, wait_s=wait_s, lines=head)
    assert api is not None  # noqa: S101  without an API there was a refusal
    head += b"keystile-event: %b\r\n" % event_id.encode()
    return Admission(event_id, api, operation, key, account, mode, plan, head)


def _needs(scope: str) -> str:
    return (
        f"This operation needs “{scope}”, which the account does not have. Add-ons that open it "
        f"are on {settings.SITE_URL}/pricing#add-ons."
    )


def _limit_lines(
    burst: int,
    window_s: int,
    left: int,
    reset_s: int,
    quota: int | None,
    quota_left: int | None,
    quota_window_s: int,
    quota_reset_s: int,
    quota_is_first: int,
) -> bytes:
    """RateLimit fields (draft-ietf-httpapi-ratelimit-headers) and their older cousins, as lines.

    `X-RateLimit-*` speak of the limit that the client meets first. Resets are in seconds.
    """
    calls, call_reset = b"%d" % left, b"%d" % reset_s
    policy, limit, quota_limit = _policy(burst, window_s, quota, quota_window_s)
    if quota is None or quota_left is None:
        parts = [
            policy, b'\r\nratelimit: "burst";r=', calls, b";t=", call_reset,
            b"\r\nx-ratelimit-limit: ", limit, b"\r\nx-ratelimit-remaining: ", calls,
            b"\r\nx-ratelimit-reset: ", call_reset,
        ]  # fmt: skip
    else:
        units, quota_reset = b"%d" % quota_left, b"%d" % quota_reset_s
        parts = [
            policy, b'\r\nratelimit: "burst";r=', calls, b";t=", call_reset,
            b', "quota";r=', units, b";t=", quota_reset,
            b"\r\nx-ratelimit-limit: ", quota_limit if quota_is_first else limit,
            b"\r\nx-ratelimit-remaining: ", units if quota_is_first else calls,
            b"\r\nx-ratelimit-reset: ", quota_reset if quota_is_first else call_reset,
        ]  # fmt: skip
    if quota_left is not None:
        parts += (b"\r\nkeystile-quota-remaining: ", b"%d" % quota_left)
    parts.append(b"\r\n")
    return b"".join(parts)


@lru_cache(maxsize=4096)
def _policy(
    burst: int, window_s: int, quota: int | None, quota_window_s: int
) -> tuple[bytes, bytes, bytes]:
    """The policy's line, the burst and the quota: what is the same from call to call."""
    policy = f'ratelimit-policy: "burst";q={burst};w={window_s}'
    if quota is not None:
        policy += f', "quota";q={quota};w={quota_window_s}'
    return policy.encode(), str(burst).encode(), str(quota).encode()
