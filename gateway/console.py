"""“Try it”: a signed-in member calls an API from a form, with the portal's own key.

Owns the way from form fields to a call, and what a person gets to see of the answer. Always in
test mode, so never billed; limits hold as for any test key. The call goes the same way as
everybody's (`gateway.plane`).
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from rest_framework import authentication, permissions
from rest_framework.parsers import FormParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.views import APIView

from gateway import intake
from gateway.door import door
from gateway.problems import Refusal, fields_of
from keys import clock, issuance
from keys.models import Entitlement

PATH_CHARACTERS = "/:@!$&'()*+,;=~%-._"
SHOWN_BYTES = 64 * 1024
TRY_SECONDS = 35
HEADER_NAME = re.compile(r"[A-Za-z0-9-]{1,60}")
HEADER_VALUE = re.compile(r"[\x20-\x7e\xa0-\xff]{1,1000}")
HEADERS_OF_INTEREST = (
    "content-type",
    "location",
    "allow",
    "retry-after",
    "ratelimit-policy",
    "ratelimit",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "keystile-event",
    "keystile-mode",
    "keystile-quota-remaining",
)
NO_PLAN = Refusal("subscription_ended", "The account has no plan yet. Choose one, then try again.")


class TryItView(APIView):
    """Calls an API for a signed-in member and shows the answer.

    Form fields: method, path_template, `param.path.<name>`, `param.query.<name>`,
    `param.header.<name>`, content_type, body. Always in test mode, so never billed; limits hold
    as for any test key. Answers with the fragment `docs/_try_result.html` for htmx, else a page.
    """

    authentication_classes = (authentication.SessionAuthentication,)
    permission_classes = (permissions.IsAuthenticated,)
    parser_classes = (FormParser, MultiPartParser)
    schema = None

    def account_of(self, request: Request) -> issuance.Account:
        """The account that the member acts for. Raises Django's PermissionDenied."""
        raise NotImplementedError

    def post(self, request: Request, api: str) -> HttpResponse:
        started = time.monotonic()
        account = self.account_of(request)
        call = try_call(request._request, api)
        shown = _Shown()
        if isinstance(call, Refusal):
            shown.show(call)
        elif not Entitlement.objects.filter(account_id=account.pk).exists():
            shown.show(NO_PLAN)
        else:
            key = issuance.console_key(account, clock.now())
            call.said.partition, call.said.digest = key.partition, key.digest or ""
            body = request.POST.get("body", "").encode()
            door.run(_try(call, body, shown))
        elapsed_ms = round((time.monotonic() - started) * 1000)
        fragment = request.headers.get("HX-Request") == "true"
        template = "docs/_try_result.html" if fragment else "docs/try_result.html"
        context = shown.context() | {"elapsed_ms": elapsed_ms, "api": api}
        return render(request._request, template, context)


def try_call(request: HttpRequest, api: str) -> intake.Call | Refusal:
    """The call that a form describes."""
    form = request.POST
    path = form.get("path_template", "")
    query, headers = [], [(b"host", request.get_host().encode())]
    for field in form:
        kind, _, name = field.removeprefix("param.").partition(".")
        value = form[field]
        if not field.startswith("param.") or not value:
            continue
        if kind == "path":
            path = path.replace("{" + name + "}", quote(value, safe=""))
        elif kind == "query":
            query.append((name, value))
        elif kind == "header":
            if not (HEADER_NAME.fullmatch(name) and HEADER_VALUE.fullmatch(value)):
                return Refusal("bad_request", f"The header “{name}” can't be sent like this.")
            headers.append((name.lower().encode(), value.encode("latin-1")))
    if missing := re.search(r"\{([^{}]*)\}", path):
        return Refusal("bad_request", f"Fill in “{missing[1]}”: it is a part of the path.")
    if form.get("body"):
        length = len(form["body"].encode())
        headers.append((b"content-length", str(length).encode()))
        headers.append((b"content-type", form.get("content_type", "application/json").encode()))
    target = f"/gateway/{api}{quote(path, safe=PATH_CHARACTERS)}"
    if query:
        target += "?" + urlencode(query)
    return intake.read(
        form.get("method", "GET").upper(),
        target.encode(),
        intake.read_fields(headers),
        scheme=(request.scheme or "http").encode(),
        peer=request.META.get("REMOTE_ADDR", "unknown").encode(),
    )


async def _try(call: intake.Call, body: bytes, shown: _Shown) -> None:
    started = time.perf_counter_ns()
    admission = await door.gateway.admit(call)
    if isinstance(admission, Refusal):
        shown.show(admission)
        return
    shown.form = body
    try:
        async with asyncio.timeout(TRY_SECONDS):
            await door.gateway.carry_out(call, admission, shown, started)
    except TimeoutError:
        shown.is_cut = True


class _Shown:
    """What a person gets to see of an answer: the form is the call's client."""

    def __init__(self) -> None:
        self.form = b""  # the request's body
        self.is_cut = False
        self._status = 0
        self._headers: dict[str, str] = {}
        self._body = b""

    async def part(self) -> tuple[bytes, bool]:
        return self.form, False

    def watch(self, left: Callable[[], None]) -> None:
        pass  # a form does not leave

    def hint(self, status: int, head: bytes) -> None:
        pass  # a person waits for the final one

    def start(
        self,
        status: int,
        head: bytes,
        length: int | None,  # noqa: ARG002
        reason: bytes | None = None,  # noqa: ARG002
    ) -> None:
        given = {name.decode(): value.decode("latin-1") for name, value in fields_of(head)}
        self._status = status
        self._headers = {name: given[name] for name in HEADERS_OF_INTEREST if name in given}

    async def write(self, data: bytes, *, more: bool) -> None:  # noqa: ARG002
        self._take(data)

    def answer(
        self,
        status: int,
        head: bytes,
        body: bytes,
        length: int | None,
        reason: bytes | None = None,  # noqa: ARG002
    ) -> None:
        self.start(status, head, length)
        self._take(body)

    def _take(self, data: bytes) -> None:
        """Of the body no more than is shown."""
        room = SHOWN_BYTES - len(self._body)
        self._body += data[:room]
        self.is_cut = self.is_cut or len(data) > room

    def show(self, refusal: Refusal) -> None:
        self.answer(refusal.status, refusal.head(), refusal.body(), 0)

    def context(self) -> dict[str, Any]:
        """status (0: none came in time), phrase, tone, headers, body as text, is_cut."""
        phrases = {known.value: known.phrase for known in HTTPStatus}
        tones = {2: "ok", 3: "plain", 4: "warn"}
        return {
            "status": self._status,
            "phrase": phrases.get(self._status, ""),
            "tone": tones.get(self._status // 100, "bad"),
            "headers": self._headers,
            "body": self._text(),
            "is_cut": self.is_cut,
        }

    def _text(self) -> str:
        if "json" in self._headers.get("content-type", "") and not self.is_cut:
            try:
                return json.dumps(json.loads(self._body), indent=2, ensure_ascii=False)
            except ValueError:
                pass  # shown as it came
        text = self._body.decode("utf-8", errors="replace")
        return f"({len(self._body)} bytes that are not text)" if "\0" in text else text
