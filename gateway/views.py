"""The DRF door of the data plane: the same reading, admission and forwarding as `gateway.asgi`.

`GatewayView` answers `/gateway/<api>/…` under any WSGI server, in DRF's terms: authentication
finds the key, the throttle admits, errors are problem+json. The call itself runs on the
process's background loop (`gateway.door`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any, cast
from urllib.parse import quote

from django.contrib.auth.models import AnonymousUser
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    JsonResponse,
    StreamingHttpResponse,
)
from rest_framework import authentication, exceptions, throttling
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.views import APIView, exception_handler

from gateway import intake, limits
from gateway.admit import Admission
from gateway.door import door
from gateway.forward import Message
from gateway.problems import Refusal

Sent = Mapping[str, Any]

READ_BYTES = 64 * 1024
QUEUED_PARTS = 4
WITHOUT_LENGTH = Refusal("bad_request", "Through this server, send a body with Content-Length.")


class Refused(exceptions.APIException):
    """A refusal of the gateway as DRF knows them."""

    def __init__(self, refusal: Refusal):
        super().__init__(code=refusal.code)
        self.status_code = refusal.status
        self.refusal = refusal


class BadKey(Refused, exceptions.AuthenticationFailed):
    """The key is missing or is none."""


def problem_details(exc: Exception, context: dict[str, Any]) -> HttpResponseBase | None:
    """DRF's exception handler: the gateway's refusals as problem+json, the rest as DRF does."""
    if not isinstance(exc, Refused):
        return exception_handler(exc, context)
    body = exc.refusal.body()
    response = HttpResponse(body, status=exc.status_code)
    _set_headers(response, exc.refusal.response_headers(body))
    return response


class KeyAuthentication(authentication.BaseAuthentication):
    """The call and its key as `request.auth`; who holds it only Redis knows: the user is nobody."""

    def authenticate(self, request: Request) -> tuple[AnonymousUser, intake.Call]:
        call = read(request._request)
        if isinstance(call, Refusal):
            raise (BadKey if call.status == 401 else Refused)(call)
        if not call.digest:
            raise BadKey(intake.MISSING_KEY)
        return AnonymousUser(), call

    def authenticate_header(self, request: Request) -> str:  # noqa: ARG002
        return 'Bearer realm="keystile"'


class Admit(throttling.BaseThrottle):
    """Admission as a throttle: rate, quota and everything else that the script decides."""

    def allow_request(self, request: Request, view: APIView) -> bool:
        if call_of(request).path == limits.PATH:
            return True
        admission = door.run(door.gateway.admit(call_of(request)))
        if isinstance(admission, Refusal):
            raise Refused(admission)
        view.admission = admission  # type: ignore[attr-defined]
        return True


class AsItComes(BaseRenderer):
    """Whatever the client accepts is the backend's business."""

    media_type = "*/*"
    format = ""


class GatewayView(APIView):
    """One call through the gateway."""

    authentication_classes = (KeyAuthentication,)
    permission_classes = ()
    throttle_classes = (Admit,)
    renderer_classes = (AsItComes,)
    schema = None
    admission: Admission

    @property
    def default_response_headers(self) -> dict[str, str]:
        return {}  # Allow and Vary are the backend's to say

    def get_exception_handler(self) -> Any:
        return problem_details

    def perform_content_negotiation(
        self,
        request: Request,  # noqa: ARG002
        force: bool = False,  # noqa: ARG002
    ) -> tuple[BaseRenderer, str]:
        return AsItComes(), AsItComes.media_type

    def forward(self, request: Request, **_: str) -> HttpResponseBase:
        if call_of(request).path == limits.PATH:
            told = door.run(door.gateway.limits(call_of(request)))
            if isinstance(told, Refusal):
                raise Refused(told)
            return JsonResponse(told, headers={"Cache-Control": "no-store"})
        answer = _Answer(request._request, call_of(request))
        answer.begin(self.admission)
        return answer.response()

    get = post = put = patch = delete = head = forward
    options = forward  # type: ignore[assignment]  # DRF's own describes the view


def call_of(request: Request) -> intake.Call:
    """The call that `KeyAuthentication` has read."""
    return cast(intake.Call, request.auth)


def read(request: HttpRequest) -> intake.Call | Refusal:
    """The call that a Django request makes; its path as the server got it, where that is known."""
    meta = request.META
    target = meta.get("RAW_URI") or meta.get("REQUEST_URI")
    if target is None:
        query = meta.get("QUERY_STRING", "")
        target = quote(request.path, safe="/:@!$&'()*+,;=~") + (f"?{query}" if query else "")
    headers = [
        (name.lower().replace("_", "-").encode(), str(value).encode("latin-1"))
        for name, value in _fields(meta)
    ]
    if meta.get("HTTP_TRANSFER_ENCODING"):
        return WITHOUT_LENGTH
    return intake.read(
        {
            "method": request.method or "GET",
            "keystile.target": target.encode("latin-1"),
            "headers": headers,
            "scheme": request.scheme,
            "client": (meta.get("REMOTE_ADDR", "unknown"), 0),
        }
    )


def _fields(meta: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in meta.items():
        if name.startswith("HTTP_"):
            yield name[5:], value
        elif name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value:
            yield name, value


class _Answer:
    """Carries one call between a view's thread and the loop: the body there, the answer back."""

    def __init__(self, request: HttpRequest, call: intake.Call):
        self._request = request
        self._call = call
        self._to_read = call.content_length or 0
        self._messages: asyncio.Queue[Sent | None] = asyncio.Queue(QUEUED_PARTS)
        self._left = asyncio.Event()

    def begin(self, admission: Admission) -> None:
        started = time.perf_counter_ns()

        async def carry_out() -> None:
            try:
                await door.gateway.carry_out(
                    self._call, admission, self._receive, self._send, started
                )
            finally:
                await self._messages.put(None)

        asyncio.run_coroutine_threadsafe(carry_out(), door.loop)

    def response(self) -> HttpResponseBase:
        """Waits for the answer's head; its body is read while Django sends it."""
        head = self._next()
        if head is None:
            raise ConnectionError("the call ended without an answer")
        response = StreamingHttpResponse(self._body(), status=head["status"])
        _set_headers(response, head["headers"])
        return response

    def _body(self) -> Iterator[bytes]:
        try:
            more = True
            while more:
                message = self._next()
                if message is None:
                    raise ConnectionError("the backend broke off")  # the server cuts the answer
                more = message.get("more_body", False)
                yield message.get("body", b"")
        finally:
            door.loop.call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        self._left.set()
        while not self._messages.empty():  # whoever waits to put one may go on
            self._messages.get_nowait()

    def _next(self) -> Sent | None:
        return door.run(self._messages.get())

    async def _send(self, message: Sent) -> None:
        if not self._left.is_set():
            await self._messages.put(message)

    async def _receive(self) -> Message:
        if self._to_read:
            size = min(self._to_read, READ_BYTES)
            part = await asyncio.to_thread(self._request.read, size)
            self._to_read -= len(part)
            if not part:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": part, "more_body": self._to_read > 0}
        await self._left.wait()
        return {"type": "http.disconnect"}


def _set_headers(response: HttpResponseBase, headers: list[tuple[bytes, bytes]]) -> None:
    del response.headers["Content-Type"]
    together: dict[str, list[str]] = {}
    for name, value in headers:
        if name != b"connection":  # the WSGI server's own
            together.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    for field, values in together.items():
        response.headers[field] = ", ".join(values)
