"""The gateway's job as a DRF tutorial would do it: one synchronous view, no scripts.

Authentication asks Postgres for the key, the throttle and the quota ask Redis, `requests` asks the
backend, and a row is inserted for each call.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Any

import requests
import uuid_utils
from django.http import HttpResponse
from django.urls import path
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import APIException
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from gateway.models import Operation, UsageEvent
from gateway.problems import PROBLEMS, Refusal, fields_of
from keys import records, tokens
from keys.models import ApiKey

UPSTREAM = os.environ["BENCH_UPSTREAM"]
redis = records.connection()
backend = requests.Session()


class Refused(APIException):
    """One of the gateway's own refusals."""

    def __init__(self, code: str, wait_s: int = 0):
        super().__init__(code=code)
        self.refusal = Refusal(code, wait_s=wait_s)
        self.status_code = PROBLEMS[code][0]


class KeyAuthentication(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[Any, ApiKey]:
        text = request.headers.get("X-API-Key")
        if text is None:
            scheme, _, text = request.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "bearer":
                raise Refused("missing_key")
        if tokens.parse(text) is None:
            raise Refused("malformed_key")
        keys = ApiKey.objects.select_related("account__entitlement")
        key = keys.filter(digest=tokens.digest(text)).first()
        if key is None:
            raise Refused("unknown_key")
        if key.state != ApiKey.State.ACTIVE:
            raise Refused("revoked_key")
        if key.expires_at and key.expires_at <= timezone.now():
            raise Refused("expired_key")
        if key.account.entitlement.suspended:
            raise Refused("account_suspended")
        if key.account.entitlement.state != "active":
            raise Refused("payment_required")
        return key.account, key

    def authenticate_header(self, request: Request) -> str:  # noqa: ARG002
        return 'Bearer realm="keystile"'


class Gateway(APIView):
    authentication_classes = [KeyAuthentication]
    permission_classes: list[Any] = []

    def get(self, request: Request, api: str, rest: str) -> HttpResponse:
        started = time.perf_counter()
        now = timezone.now()
        key = request.auth
        entitlement = key.account.entitlement
        operation = _operation(api, "/" + rest)
        headers, quota_name = _count(key, entitlement, now)

        event_id = uuid_utils.uuid7()
        asked = time.perf_counter()
        answer = backend.get(
            f"{UPSTREAM}/{rest}",
            headers={
                "Keystile-Account": str(key.account_id),
                "Keystile-Key": str(key.pk),
                "Keystile-Plan": entitlement.plan_name,
                "Keystile-Event": str(event_id),
                "Keystile-Mode": key.mode,
            },
            timeout=30,
        )
        answered = time.perf_counter()
        billable = answer.status_code < 500 and answer.status_code not in (408, 429)
        if not billable:
            redis.decr(quota_name)
        UsageEvent.objects.create(
            id=str(event_id),
            admitted_at=now,
            recorded_at=timezone.now(),
            account_id=key.account_id,
            key_id=key.pk,
            api=api,
            operation=operation,
            mode=key.mode,
            outcome=UsageEvent.Outcome.COMPLETED,
            status=answer.status_code,
            billable=billable and key.mode == ApiKey.Mode.LIVE,
            units={"calls": 1},
            latency_us=int((answered - started) * 1e6),
            upstream_us=int((answered - asked) * 1e6),
            request_bytes=0,
            response_bytes=len(answer.content),
            period_start=datetime.fromtimestamp(entitlement.periods[0], UTC),
            terms_id=entitlement.terms_id,
        )
        headers |= {"Keystile-Event": str(event_id), "Keystile-Mode": key.mode}
        kind = answer.headers.get("Content-Type")
        return HttpResponse(
            answer.content, status=answer.status_code, content_type=kind, headers=headers
        )

    def handle_exception(self, exc: Exception) -> Response | HttpResponse:
        if not isinstance(exc, Refused):
            return super().handle_exception(exc)
        fields = fields_of(exc.refusal.head())
        headers = {name.decode(): value.decode() for name, value in fields}
        return HttpResponse(exc.refusal.body(), status=exc.status_code, headers=headers)


def _operation(api: str, call_path: str) -> str:
    """The label of the operation that the path belongs to."""
    for row in Operation.objects.filter(api__slug=api, method="GET"):
        parts, asked = row.path_template.split("/"), call_path.split("/")
        if len(parts) == len(asked) and all(
            part.startswith("{") or part == given for part, given in zip(parts, asked, strict=True)
        ):
            return f"GET {row.path_template}"
    raise Refused("unknown_operation")


def _count(key: ApiKey, entitlement: Any, now: datetime) -> tuple[dict[str, str], str]:
    """Counts the call against rate and quota; the limit headers, and the quota's counter."""
    rate = entitlement.terms["rate_per_second"]
    quota = entitlement.terms["meters"]["calls"]["limit"]
    start, end = entitlement.periods[0], entitlement.periods[1]
    second = int(now.timestamp())

    window = f"drf:rate:{key.account_id}:{second}"
    calls = redis.incr(window)
    redis.expire(window, 2)
    if calls > rate:
        raise Refused("rate_limited", wait_s=1)
    counter = f"drf:quota:{key.account_id}:{start}"
    used = redis.incr(counter)
    redis.expireat(counter, end)
    if used > quota:
        redis.decr(counter)
        raise Refused("quota_exceeded", wait_s=end - second)

    left, quota_left = rate - calls, quota - used
    return {
        "RateLimit-Policy": f'"burst";q={rate};w=1, "quota";q={quota};w={end - start}',
        "RateLimit": f'"burst";r={left};t=1, "quota";r={quota_left};t={end - second}',
        "X-RateLimit-Limit": str(min(rate, quota)),
        "X-RateLimit-Remaining": str(min(left, quota_left)),
        "X-RateLimit-Reset": str(1 if left <= quota_left else end - second),
        "Keystile-Quota-Remaining": str(quota_left),
    }, counter


urlpatterns = [path("<slug:api>/<path:rest>", Gateway.as_view())]
