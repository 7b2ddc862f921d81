"""`POST /gateway/.verify`: a seller's own server asks whether a call may go on, and charges it.

For backends that don't stand behind the gateway. Owns the request's and the reply's shape; what
is decided and what it costs are admission's and settlement's, as for a call that is forwarded.
A refused call is an answer (`valid` is false); a caller without a service token gets none.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any, NamedTuple, Protocol

import hiredis
import structlog
import uuid_utils

from gateway import limits
from gateway.admit import NO_OPERATION, UNAVAILABLE, UNKNOWN_API, Admission, Gate, Match, match
from gateway.forward import Client
from gateway.intake import MALFORMED_KEY, MAX_PATH_BYTES, UNSAFE_PATH, Call, Fields
from gateway.link import Link, Unavailable
from gateway.problems import PROBLEMS, Headers, Refusal
from gateway.routes import OTHER, UNKNOWN_OPERATION, Operation, Table
from gateway.settle import Outcome, Settler
from keys import records, tokens

log = structlog.get_logger(__name__)

TARGETS = frozenset((b"/gateway/.verify", b"/.verify"))
SCOPE = b"verify"
MAX_BODY_BYTES = 16 * 1024
BODY_SECONDS = 5.0
MAX_UNITS = 10**12
MAX_METERS = 8
MEMBERS = frozenset(("key", "api", "method", "path", "operation", "units", "address", "referrer"))

_TOKEN = re.compile(rb"kst_[0-9A-Za-z_]{20,200}")
_METER = re.compile(r"[a-z0-9_-]{1,40}")
_TEXT = re.compile(r"[\x20-\x7e]*")

NOT_THIS_METHOD = Refusal("method_not_allowed", headers=((b"allow", b"POST"),))
NO_TOKEN = Refusal("invalid_token")
TOO_LARGE = Refusal("body_too_large", f"The question is longer than {MAX_BODY_BYTES} bytes.")


class Invalid(ValueError):
    """A question that can't be read; says why, for people."""


class Question(NamedTuple):
    """What is asked. Empty text is what was left out; `units` None: as the operation says."""

    key: str
    api: str
    method: str
    path: str
    operation: str
    units: dict[str, int] | None
    address: str
    referrer: str


class Asking(Client, Protocol):
    """A client with the head of its request; names of fields in lower case."""

    method: str
    fields: Headers


async def answer(
    link: Link, gate: Gate, settler: Settler, client: Asking
) -> dict[str, Any] | Refusal:
    """The decision as JSON has it, or the problem with the question itself."""
    if client.method != "POST":
        return NOT_THIS_METHOD
    try:
        if not await _is_allowed(link, client.fields):
            return NO_TOKEN
        body = await _body(client)
        if body is None:
            return TOO_LARGE
        question = parse(body)
        return await _decide(link, gate, settler, question)
    except Invalid as invalid:
        return Refusal("bad_request", str(invalid))
    except Unavailable:
        return UNAVAILABLE
    except hiredis.ReplyError as error:
        log.error("verify.failed", reason=str(error))
        return UNAVAILABLE


async def _is_allowed(link: Link, headers: Headers) -> bool:
    """Whether the request carries a token of the seller's that is good and has the scope."""
    given = [value for name, value in headers if name == b"authorization"]
    scheme, _, text = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
    if scheme.lower() != b"bearer" or not _TOKEN.fullmatch(text.strip()):
        return False
    marker = records.ready_name(records.PARTITIONS[0])
    for digest in tokens.digests(text.strip().decode()):
        name = records.token_name(records.PARTITIONS[0], digest)
        (state, account, scopes, expires_ms), ready = await asyncio.gather(
            link.send(b"HMGET", name, b"state", b"account", b"scopes", b"expires_ms"),
            link.send(b"GET", marker),
        )
        if state is not None:
            break
    if state is None and ready is None:
        raise Unavailable  # a Redis that came back empty knows no token, good or bad
    return (
        state == b"active"
        and account == b""
        and SCOPE in (scope.strip() for scope in scopes.split(b","))
        and (not expires_ms or time.time() * 1000 + _ahead_ms(ready) < int(expires_ms))
    )


def _ahead_ms(ready: bytes | None) -> int:
    """How far the time is moved ahead (keys.clock), as the ready marker says."""
    return int(ready) * 1000 if ready and ready.isdigit() else 0


async def _body(client: Client) -> bytes | None:
    """The body; None if it is too long. Raises `Invalid` if it breaks off or takes too long."""
    body, more = b"", True
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while more:
                part = await client.part()
                if part is None:
                    raise Invalid("The request broke off.")
                data, more = part
                body += data
                if len(body) > MAX_BODY_BYTES:
                    return None
    except TimeoutError:
        raise Invalid("The body did not arrive in time.") from None
    return body


def parse(body: bytes) -> Question:
    """Reads the question. Raises `Invalid`."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise Invalid("The body is not JSON.") from None
    if not isinstance(given, dict):
        raise Invalid("The body is not a JSON object.")
    if unknown := set(given) - MEMBERS:
        raise Invalid(f"There is no member {min(unknown)!a} in a question.")
    texts = {
        "key": _text(given, "key", 200),
        "api": _text(given, "api", 40),
        "method": _text(given, "method", 10).upper(),
        "path": _text(given, "path", MAX_PATH_BYTES).partition("?")[0],
        "operation": _text(given, "operation", 311),
        "address": _text(given, "address", 64),
        "referrer": _text(given, "referrer", 2000),
    }
    if not texts["key"]:
        raise Invalid("“key” is missing.")
    if bool(texts["method"]) != bool(texts["path"]):
        raise Invalid("“method” and “path” belong together.")
    if texts["path"] and texts["operation"]:
        raise Invalid("Send “method” and “path”, or “operation”.")
    path = texts["path"].encode()
    if path and (path[:1] != b"/" or UNSAFE_PATH.search(path)):
        raise Invalid("“path” is not a path that is forwarded.")
    return Question(units=_units(given.get("units")), **texts)


def _text(given: dict[str, Any], name: str, most: int) -> str:
    value = given.get(name, "")
    if not isinstance(value, str) or len(value) > most or not _TEXT.fullmatch(value):
        raise Invalid(f"“{name}” is not printable ASCII text of at most {most} characters.")
    return value


def _units(given: Any) -> dict[str, int] | None:
    if given is None:
        return None
    if not isinstance(given, dict) or not 0 < len(given) <= MAX_METERS:
        raise Invalid(f"“units” is not an object of 1 to {MAX_METERS} meters.")
    for meter, units in given.items():
        if not _METER.fullmatch(meter):
            raise Invalid("A meter's name is of lower-case letters, digits, - and _.")
        if type(units) is not int or not 0 <= units <= MAX_UNITS:
            raise Invalid(f"Units of {meter} are not a whole number from 0 to {MAX_UNITS}.")
    return given


async def _decide(
    link: Link, gate: Gate, settler: Settler, question: Question
) -> dict[str, Any] | Refusal:
    started = time.perf_counter_ns()
    event_id = str(uuid_utils.uuid7())
    call = _call(question)
    if isinstance(call, Refusal):
        return _decision(call, {})

    def chosen(table: Table, _: Call) -> Match:
        return _match(table, call, question)

    decided = await gate.admit(call, event_id, chosen)
    if decided == UNAVAILABLE:
        return UNAVAILABLE
    if isinstance(decided, Admission):
        outcome = Outcome()
        outcome.status = 200
        settler.settle(
            event_id,
            call.said.partition,
            decided.operation,
            outcome,
            client=call.client,
            is_live=decided.mode == b"live",
            is_charged=True,
            latency_us=(time.perf_counter_ns() - started) // 1000,
        )
    told = await limits.of_key(link, gate, call)
    return _decision(decided, {} if isinstance(told, Refusal) else told)


def _call(question: Question) -> Call | Refusal:
    """The call that the question describes, or what its key is refused for before any I/O."""
    token = tokens.parse(question.key)
    if token is None:
        return MALFORMED_KEY
    call = Call()
    call.api = question.api
    call.method = question.method or question.operation.partition(" ")[0]
    call.path, call.query = question.path.encode(), b""
    call.client, call.scheme = question.address.encode(), b"https"
    call.said = said = Fields()
    if question.referrer:
        said.passed.append((b"referer", question.referrer.encode()))
    said.read_key(token)
    return call


def _match(table: Table, call: Call, question: Question) -> Match:
    """What the question asks for, with the units that it names in place of the operation's.

    Where it names no API, there must be one only; `Invalid` else.
    """
    if not question.api and table.apis:
        if len(table.apis) > 1:
            raise Invalid("“api” is missing, and there is more than one.")
        (call.api,) = table.apis
    if question.path:
        api, operation, refusal = match(table, call)
    else:
        api = table.apis.get(call.api)
        if api is None:
            return None, NO_OPERATION, UNKNOWN_API
        label = question.operation
        found = api.by_label.get(label) if label else Operation(OTHER, {}, {})
        operation, refusal = (found, None) if found else (NO_OPERATION, UNKNOWN_OPERATION)
    if refusal is None and question.units is not None:
        operation = Operation(operation.label, question.units, {}, operation.scope)
    return api, operation, refusal


def _decision(decided: Admission | Refusal, told: dict[str, Any]) -> dict[str, Any]:
    whose = {name: told.get(name, "") for name in ("account", "key", "plan", "mode")}
    if isinstance(decided, Admission):
        whose = {
            "account": decided.account.decode(),
            "key": decided.key.decode(),
            "plan": decided.plan.decode(),
            "mode": decided.mode.decode(),
        }
    refusal = decided if isinstance(decided, Refusal) else None
    return {
        "valid": refusal is None,
        "code": refusal.code if refusal else "",
        "detail": (refusal.detail or PROBLEMS[refusal.code][2]) if refusal else "",
        **whose,
        "event": decided.event_id if isinstance(decided, Admission) else "",
        "limits": told,
        "retry_after_seconds": refusal.wait_s or None if refusal else None,
    }
