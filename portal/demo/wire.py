"""A very small ASGI toolkit, just what the Holidays API needs of one.

Owns requests, answers, problem details (RFC 9457) and the matching of routes, all strict: an
unknown or repeated query parameter is refused, not ignored. Knows nothing of holidays.
"""

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_BODY_BYTES = 16 * 1024
NOT_KEPT = "no-store"


class Refusal(Exception):
    """A request that is answered with problem details instead of data."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None):
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = headers or {}


class ClientLeft(Exception):
    """The client closed the connection before it was answered."""


@dataclass(frozen=True)
class Request:
    """One call: decoded parameters, and the ways to read on."""

    path: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    receive: Receive
    today: date


@dataclass(frozen=True)
class Response:
    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Awaitable[Response]]


def answer(data: Any, cache: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode(),
        headers={"content-type": "application/json", "cache-control": cache, **(headers or {})},
    )


def problem(status: int, sentence: str, headers: Mapping[str, str]) -> Response:
    """Problem details (RFC 9457): `about:blank`, so the title is the status's own phrase."""
    phrases = {known.value: known.phrase for known in HTTPStatus}
    title = phrases.get(status, f"Status {status}")
    body = {"type": "about:blank", "title": title, "status": status, "detail": sentence}
    return Response(
        json.dumps(body).encode(),
        status,
        {"content-type": "application/problem+json", "cache-control": NOT_KEPT, **headers},
    )


async def json_body(request: Request) -> Any:
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "Send the body as application/json.")
    body = b""
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise Refusal(413, f"The body may have {MAX_BODY_BYTES // 1024} KB at most.")
        if not message.get("more_body", False):
            break
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Refusal(400, "The body is not valid JSON.") from None


@dataclass(frozen=True)
class Route:
    """An operation: its method, its path as a pattern, and the query parameters that it takes."""

    method: str
    path: re.Pattern[str]
    query: frozenset[str]
    handler: Handler


def route(method: str, template: str, handler: Handler, *query: str) -> Route:
    pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", template))
    return Route(method, pattern, frozenset(query), handler)


def match(routes: Iterable[Route], method: str, path: str) -> tuple[Route, Mapping[str, str]]:
    """The route of a call and its path parameters; 404 or 405 when there is none."""
    allowed = []
    for candidate in routes:
        if found := candidate.path.fullmatch(path):
            if candidate.method == method:
                return candidate, found.groupdict()
            allowed.append(candidate.method)
    if not allowed:
        raise Refusal(404, "There is no such path; the API's document lists those there are.")
    methods = ", ".join(sorted(allowed))
    raise Refusal(405, f"This path takes {methods}, not {method}.", {"allow": methods})


def query_of(scope: Scope, taken: frozenset[str]) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            scope["query_string"].decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=20,
        )
    except ValueError:
        raise Refusal(400, "The query is not percent-encoded UTF-8.") from None
    query = dict(pairs)
    if len(query) < len(pairs):
        raise Refusal(400, "A query parameter is given twice.")
    if unknown := sorted(set(query) - taken):
        offered = f"it takes {', '.join(sorted(taken))}" if taken else "it takes none"
        raise Refusal(400, f"This operation has no parameter '{unknown[0][:40]}'; {offered}.")
    return query
