"""The DRF door of the data plane: the same reading, admission and forwarding as `gateway.asgi`.

`GatewayView` answers `/gateway/<api>/…` under any WSGI server, in DRF's terms: authentication
finds the key, the throttle admits, errors are problem+json. The call itself runs on the
process's background loop (`gateway.door`).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
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

from gateway import intake, limits, verify
from gateway.admit import Admission
from gateway.door import door
from gateway.problems import Refusal, fields_of, lines_of

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
    return _said(exc.refusal)


class KeyAuthentication(authentication.BaseAuthentication):
    """The call and its key as `request.auth`; who holds it only Redis knows: the user is nobody."""

    def authenticate(self, request: Request) -> tuple[AnonymousUser, intake.Call]:
        call = read(request._request)
        if isinstance(call, Refusal):
            raise (BadKey if call.status == 401 else Refused)(call)
        if not call.said.digest:
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

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """DRF's, with what browsers are told (`gateway.cors`)."""
        if target_of(request) in verify.TARGETS:
            return _said(door.run(door.gateway.verify(_Client(request))))
        call = read(request)
        if isinstance(call, intake.Call) and call.method == "OPTIONS" and not call.said.digest:
            allowed = door.run(door.gateway.preflight(call))
            if allowed is not None:
                preflight = HttpResponse(status=204)
                _set_headers(preflight, lines_of(allowed))
                return preflight
        response = super().dispatch(request, *args, **kwargs)
        origins = door.gateway.origins(intake.slug_of(target_of(request)))
        if origins is not None:
            headers = [
                (name.lower().encode(), value.encode("latin-1"))
                for name, value in response.headers.items()
            ]
            for name in list(response.headers):
                del response.headers[name]
            origin = request.headers.get("Origin", "").encode("latin-1")
            _set_headers(response, lines_of(origins.replaced(headers, origin)))
        return response

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
            return _said(door.run(door.gateway.limits(call_of(request))))
        client = _Client(request._request)
        client.begin(call_of(request), self.admission)
        return client.response()

    get = post = put = patch = delete = head = forward
    options = forward  # type: ignore[assignment]  # DRF's own describes the view


def _said(told: dict[str, Any] | Refusal) -> HttpResponse:
    if not isinstance(told, Refusal):
        return JsonResponse(told, headers={"Cache-Control": "no-store"})
    response = HttpResponse(told.body(), status=told.status)
    _set_headers(response, told.head())
    return response


def call_of(request: Request) -> intake.Call:
    """The call that `KeyAuthentication` has read."""
    return cast(intake.Call, request.auth)


def read(request: HttpRequest) -> intake.Call | Refusal:
    """The call that a Django request makes."""
    if request.META.get("HTTP_TRANSFER_ENCODING"):
        return WITHOUT_LENGTH
    client = _Client(request)
    said = intake.read_fields(client.fields)
    return intake.read(
        client.method,
        target_of(request),
        said,
        scheme=(request.scheme or "http").encode(),
        peer=request.META.get("REMOTE_ADDR", "unknown").encode(),
    )


def target_of(request: HttpRequest) -> bytes:
    """Path and query as the server got them, where it says so."""
    meta = request.META
    target: str | None = meta.get("RAW_URI") or meta.get("REQUEST_URI")
    if target is None:
        query = meta.get("QUERY_STRING", "")
        target = quote(request.path, safe="/:@!$&'()*+,;=~") + (f"?{query}" if query else "")
    return target.encode("latin-1")


def _fields(meta: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in meta.items():
        if name.startswith("HTTP_"):
            yield name[5:], value
        elif name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value:
            yield name, value


class _Client:
    """A call's client (`gateway.forward.Client`) between a view's thread and the loop."""

    def __init__(self, request: HttpRequest):
        self.method = request.method or "GET"
        self.fields = [
            (name.lower().replace("_", "-").encode(), str(value).encode("latin-1"))
            for name, value in _fields(request.META)
        ]
        self._request = request
        length = request.META.get("CONTENT_LENGTH") or ""
        self._to_read = int(length) if length.isdigit() else 0
        self._head: tuple[int, bytes, int | None] | None = None
        self._parts: asyncio.Queue[tuple[bytes, bool] | None] = asyncio.Queue()
        self._taken = asyncio.Semaphore(QUEUED_PARTS)
        self._started = threading.Event()
        self._left: Callable[[], None] | None = None
        self._gone = False

    def begin(self, call: intake.Call, admission: Admission) -> None:
        started = time.perf_counter_ns()

        async def carry_out() -> None:
            try:
                await door.gateway.carry_out(call, admission, self, started)
            finally:
                self._parts.put_nowait(None)
                self._started.set()

        asyncio.run_coroutine_threadsafe(carry_out(), door.loop)

    def response(self) -> HttpResponseBase:
        """Waits for the answer's head; its body is read while Django sends it."""
        self._started.wait()
        if self._head is None:
            raise ConnectionError("the call ended without an answer")
        status, head, length = self._head
        response = StreamingHttpResponse(self._body(), status=status)
        _set_headers(response, head)
        if length is not None and status != 204:
            response.headers["Content-Length"] = str(length)
        return response

    def _body(self) -> Iterator[bytes]:
        try:
            more = True
            while more:
                part = door.run(self._next())
                if part is None:
                    raise ConnectionError("the backend broke off")  # the server cuts the answer
                data, more = part
                yield data
        finally:
            door.loop.call_soon_threadsafe(self._leave)

    async def _next(self) -> tuple[bytes, bool] | None:
        part = await self._parts.get()
        self._taken.release()
        return part

    def _leave(self) -> None:
        self._gone = True
        self._taken.release()  # whoever waits for it may go on
        if self._left is not None:
            self._left()

    # ---- gateway.forward.Client, on the loop

    async def part(self) -> tuple[bytes, bool] | None:
        if not self._to_read:
            return b"", False
        data = await asyncio.to_thread(self._request.read, min(self._to_read, READ_BYTES))
        self._to_read -= len(data)
        return (data, self._to_read > 0) if data else None

    def watch(self, left: Callable[[], None]) -> None:
        self._left = left

    def hint(self, status: int, head: bytes) -> None:
        pass  # WSGI knows one answer

    def start(
        self,
        status: int,
        head: bytes,
        length: int | None,
        reason: bytes | None = None,  # noqa: ARG002
    ) -> None:
        self._head = status, head, length
        self._started.set()

    async def write(self, data: bytes, *, more: bool) -> None:
        if not self._gone:
            await self._taken.acquire()
            self._parts.put_nowait((data, more))

    def answer(
        self,
        status: int,
        head: bytes,
        body: bytes,
        length: int | None,
        reason: bytes | None = None,  # noqa: ARG002
    ) -> None:
        self.start(status, head, length)
        self._parts.put_nowait((body, False))


def _set_headers(response: HttpResponseBase, head: bytes) -> None:
    response.headers.pop("Content-Type", None)
    together: dict[str, list[str]] = {}
    for name, value in fields_of(head):
        together.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    for field, values in together.items():
        response.headers[field] = ", ".join(values)
