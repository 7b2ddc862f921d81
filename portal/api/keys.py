"""The keys' endpoints: list, look, create, change, rotate, revoke."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast
from uuid import UUID

from django.shortcuts import get_object_or_404
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from keys import clock, issuance
from keys.models import ApiKey
from portal.api.access import ControlView, Scope, account_of
from portal.api.idempotency import HEADER, once
from portal.api.key_fields import Key, KeyPage, NewKey, PageOf, Rotation, Settings, ShownKey
from portal.api.problems import CONTENT_TYPE, Problem, ProblemDetails
from portal.models import Account

ACCOUNT = OpenApiParameter(
    "account", UUID, description="With a seller's token: the account that is meant."
)
IDEMPOTENCY_KEY = OpenApiParameter(
    HEADER,
    str,
    OpenApiParameter.HEADER,
    description="Any text of your own, new for each key. Sent again with the same body it is "
    "answered with 409 `already_made` and makes no other key: a secret is shown once. It is "
    "remembered for at least 24 hours.",
)
KEY: dict[str, Any] = {
    "id": "0192f0c1-5a3e-7cc1-9d0b-1f6f3a6f2b10",
    "account": "0192f0c0-11aa-7bb2-8c3d-2a4b6c8d0e1f",
    "name": "Production",
    "mode": "live",
    "state": "active",
    "hint": "ks_live_…a1b2",
    "allowed_networks": ["203.0.113.0/24"],
    "allowed_referrers": [],
    "allowed_operations": [],
    "read_only": True,
    "rate_per_second": 2.5,
    "burst": 5,
    "monthly_quota": 10000,
    "expires_at": None,
    "created_at": "2026-11-24T19:20:00Z",
    "claimed_at": "2026-11-24T19:20:00Z",
    "revoked_at": None,
    "last_used_at": "2026-11-24T19:31:07Z",
    "last_used_address": "203.0.113.7",
    "last_used_operation": "holidays GET /v1/countries",
    "leaked_at": None,
    "replaces": None,
    "confirmed": True,
}
FRESH = (
    KEY | {f"last_used_{what}": None for what in ("at", "address")} | {"last_used_operation": ""}
)
SHOWN = FRESH | {"secret": "ks_live_00…"}


def answers(*codes: int, **described: Any) -> dict[Any, Any]:
    """The document's responses: what is described, and problem details for the codes."""
    good = {int(code.removeprefix("on_")): answer for code, answer in described.items()}
    failures = sorted({400, 401, 403, 404, 429, *codes})
    return good | {(code, CONTENT_TYPE): ProblemDetails for code in failures}


def example(name: str, value: Any, *, code: int | None = None) -> OpenApiExample:
    """Of a response with this status code, or of a request."""
    if code is None:
        return OpenApiExample(name, value, request_only=True)
    return OpenApiExample(name, value, response_only=True, status_codes=[str(code)])


class Keys(ControlView):
    scopes = {"GET": Scope.KEYS_READ, "POST": Scope.KEYS_WRITE}

    @extend_schema(
        operation_id="list_keys",
        summary="List keys",
        description="The account's keys, the newest first, dead ones too. Scope: `keys:read`.",
        parameters=[ACCOUNT, PageOf],
        responses=answers(on_200=KeyPage),
        examples=[example("A page", {"data": [KEY], "next_cursor": None}, code=200)],
    )
    def get(self, request: Request) -> Response:
        asked = PageOf(data=request.query_params)
        asked.is_valid(raise_exception=True)
        limit = asked.validated_data["limit"]
        found = issuance.keys_of(account_of(request)).order_by("-id")
        if cursor := asked.validated_data.get("cursor"):
            found = found.filter(pk__lt=cursor)
        page = list(found[: limit + 1])
        last = page[limit - 1].pk if len(page) > limit else None
        return Response({"data": Key(page[:limit], many=True).data, "next_cursor": last})

    @extend_schema(
        operation_id="create_key",
        summary="Create a key",
        description="Makes an active key; the answer has its secret, once. Scope: `keys:write`.",
        parameters=[ACCOUNT, IDEMPOTENCY_KEY],
        request=NewKey,
        responses=answers(409, 422, on_201=ShownKey),
        examples=[
            example("A key for one network", {"name": "Production", "read_only": True}),
            example("The key and its secret", SHOWN, code=201),
        ],
    )
    def post(self, request: Request) -> Response:
        account = account_of(request, cast(dict[str, Any], request.data).get("account"))
        body = NewKey(data=request.data, context={"account": account})
        body.is_valid(raise_exception=True)
        settings = dict(body.validated_data)
        settings.pop("account", None)
        mode, now = settings.pop("mode"), clock.now()
        with once(request, account, now) as making:
            try:
                making.key, secret = issuance.create(
                    account,
                    name=settings["name"],
                    mode=mode,
                    settings=settings,
                    now=now,
                    **by(request),
                )
            except issuance.KeyLimitReached:
                raise Problem("key_limit_reached") from None
            except issuance.NotEntitled:
                raise Problem("no_plan") from None
        return shown(making.key, secret)


class OneKey(ControlView):
    scopes = {"GET": Scope.KEYS_READ, "PATCH": Scope.KEYS_WRITE}

    @extend_schema(
        operation_id="get_key",
        summary="Look at a key",
        description="Scope: `keys:read`.",
        parameters=[ACCOUNT],
        responses=answers(on_200=Key),
        examples=[example("A key", KEY, code=200)],
    )
    def get(self, request: Request, key_id: UUID) -> Response:
        return Response(Key(find(account_of(request), key_id)).data)

    @extend_schema(
        operation_id="change_key",
        summary="Change a key",
        description="Changes the fields that are given and no other. 202: stored, and the gateway "
        "has not confirmed it yet. Scope: `keys:write`.",
        parameters=[ACCOUNT],
        request=Settings(partial=True),
        responses=answers(409, on_200=Key, on_202=Key),
        examples=[
            example("From one network only", {"allowed_networks": ["203.0.113.0/24"]}),
            example("The key", KEY, code=200),
        ],
    )
    def patch(self, request: Request, key_id: UUID) -> Response:
        account = account_of(request)
        held = find(account, key_id)
        body = Settings(data=request.data, partial=True, context={"account": account, "held": held})
        body.is_valid(raise_exception=True)
        try:
            changed = issuance.change(
                key_id, account, body.validated_data, now=clock.now(), **by(request)
            )
        except issuance.KeyNotActive:
            raise Problem("key_not_active") from None
        return confirmed(changed.key, changed.confirmed)


class RotateKey(ControlView):
    scopes = {"POST": Scope.KEYS_WRITE}

    @extend_schema(
        operation_id="rotate_key",
        summary="Rotate a key",
        description="Makes a successor with the same restrictions; the answer has its secret, "
        "once. The old key goes on for the overlap. Scope: `keys:write`.",
        parameters=[ACCOUNT, IDEMPOTENCY_KEY],
        request=Rotation,
        responses=answers(409, 422, on_201=ShownKey),
        examples=[
            example("One hour of overlap", {"overlap_seconds": 3600}),
            example("The successor and its secret", SHOWN | {"replaces": KEY["id"]}, code=201),
        ],
    )
    def post(self, request: Request, key_id: UUID) -> Response:
        account = account_of(request)
        find(account, key_id)
        body = Rotation(data=request.data)
        body.is_valid(raise_exception=True)
        now = clock.now()
        with once(request, account, now) as making:
            try:
                making.key, secret = issuance.rotate(
                    key_id,
                    account,
                    overlap=timedelta(seconds=body.validated_data["overlap_seconds"]),
                    now=now,
                    **by(request),
                )
            except issuance.KeyNotActive:
                raise Problem("key_not_active") from None
        return shown(making.key, secret)


class RevokeKey(ControlView):
    scopes = {"POST": Scope.KEYS_WRITE}

    @extend_schema(
        operation_id="revoke_key",
        summary="Revoke a key",
        description="Ends the key for good, from the next call on. 202: the gateway has not "
        "confirmed it yet; asked again, it tries again. Scope: `keys:write`.",
        parameters=[ACCOUNT],
        request=None,
        responses=answers(on_200=Key, on_202=Key),
        examples=[
            example(
                "Revoked", KEY | {"state": "revoked", "revoked_at": KEY["created_at"]}, code=200
            )
        ],
    )
    def post(self, request: Request, key_id: UUID) -> Response:
        account = account_of(request)
        find(account, key_id)
        revoked = issuance.revoke(key_id, account, now=clock.now(), **by(request))
        return confirmed(revoked.key, revoked.confirmed)


def find(account: Account, key_id: UUID) -> ApiKey:
    return get_object_or_404(issuance.keys_of(account), pk=key_id)


def by(request: Request) -> dict[str, Any]:
    """Who acts, as the trail keeps it."""
    return {"actor": None, "token": request.auth, "address": request.META["REMOTE_ADDR"]}


def shown(key: ApiKey, secret: str) -> Response:
    """The one answer with a secret."""
    key.refresh_from_db()
    return Response({**Key(key).data, "secret": secret}, status.HTTP_201_CREATED)


def confirmed(key: ApiKey, is_confirmed: bool) -> Response:
    """200 once the gateway has it, 202 while it is on its way."""
    key.refresh_from_db()
    code = status.HTTP_200_OK if is_confirmed else status.HTTP_202_ACCEPTED
    return Response(Key(key).data, code)
