"""Who asks the control plane, for which account, how often, and in what form.

A view is a `ControlView`; it starts every queryset from `account_of(request)`, so that what
belongs to another account is not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import IO, Any, ClassVar, cast
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.http import Http404
from django.shortcuts import get_object_or_404
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed, ParseError, ValidationError
from rest_framework.parsers import BaseParser
from rest_framework.permissions import BasePermission
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle, SimpleRateThrottle
from rest_framework.views import APIView

from keys import clock, service_tokens
from keys.models import ServiceToken
from portal.api import problems
from portal.models import Account

Scope = ServiceToken.Scope


class ServiceTokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer kst_…`. The token is `request.auth`; the user is nobody."""

    def authenticate(self, request: Request) -> tuple[AnonymousUser, ServiceToken] | None:
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        if not scheme:
            return None
        token = None
        if scheme.lower() == "bearer":
            token = service_tokens.find(text.strip(), clock.now())
        if token is None:
            raise AuthenticationFailed
        return AnonymousUser(), token

    def authenticate_header(self, request: Request) -> str:  # noqa: ARG002
        return 'Bearer realm="keystile"'


class ServiceTokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How the OpenAPI document names the above."""

    target_class = ServiceTokenAuthentication
    name = "serviceToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:  # noqa: ARG002
        return {"type": "http", "scheme": "bearer", "bearerFormat": "kst_…"}


class HasScope(BasePermission):
    """The token has the scope that the view's `scopes` name for the method."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        token = request.auth
        if not isinstance(token, ServiceToken):
            return False
        needed = cast(ControlView, view).scopes.get(request.method or "")
        if needed is not None and needed not in token.scopes:
            raise problems.Problem("scope_missing", f"This token lacks the scope {needed.value}.")
        return True


class PerToken(SimpleRateThrottle):
    """So many requests of one token; with Redis away nothing is counted, as for forms."""

    rate = "300/min"
    scope = "control plane"

    def get_cache_key(self, request: Request, view: APIView) -> str:  # noqa: ARG002
        return f"api throttle:{cast(ServiceToken, request.auth).pk}"


class StrictJson(BaseParser):
    """One JSON object in UTF-8, within bounds: no key twice, no NaN, no bottomless nesting."""

    media_type = "application/json"
    most_bytes = 64 * 1024
    shape: type = dict

    def parse(
        self,
        stream: IO[bytes],
        media_type: str | None = None,  # noqa: ARG002
        parser_context: Mapping[str, Any] | None = None,  # noqa: ARG002
    ) -> Any:
        body = stream.read(self.most_bytes + 1)
        if len(body) > self.most_bytes:
            sentence = f"The body is larger than {self.most_bytes // 1024} KB."
            raise problems.Problem("body_too_large", sentence)
        try:
            read = json.loads(
                body.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant
            )
        except (ValueError, RecursionError):
            raise ParseError("The body is not JSON in UTF-8.") from None
        if not isinstance(read, self.shape):
            name = "object" if self.shape is dict else "array"
            raise ParseError(f"The body is not a JSON {name}.")
        return read


class ControlView(APIView):
    """An endpoint of the control plane. `scopes`: what a token needs, by method."""

    scopes: ClassVar[Mapping[str, Scope]] = {}
    authentication_classes: Sequence[type[BaseAuthentication]] = (ServiceTokenAuthentication,)
    permission_classes: Sequence[type[BasePermission]] = (HasScope,)
    throttle_classes: Sequence[type[BaseThrottle]] = (PerToken,)
    parser_classes: Sequence[type[BaseParser]] = (StrictJson,)
    renderer_classes = (JSONRenderer,)

    def get_exception_handler(self) -> Any:
        return problems.answer

    def finalize_response(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        response = super().finalize_response(request, *args, **kwargs)
        response["Cache-Control"] = "no-store"
        return response


class NothingHere(ControlView):
    """Any other address under `/api/`."""

    authentication_classes = ()
    permission_classes = ()
    throttle_classes = ()
    schema = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        raise Http404


def account_of(request: Request, named: object = None) -> Account:
    """The account that the token acts for; for the seller's, the one that is named.

    named: from the body; else `?account=<id>`. Raises `Http404` for one that isn't the token's.
    """
    token = cast(ServiceToken, request.auth)
    asked = request.query_params.get("account") if named is None else named
    account_id = None if asked is None else _id(asked)
    if token.account is None:
        if account_id is None:
            raise ValidationError({"account": ["The seller's token must name an account."]})
        return get_object_or_404(Account.objects.select_related("entitlement"), pk=account_id)
    if account_id not in (None, token.account.pk):
        raise Http404
    return token.account


def _id(text: object) -> UUID:
    try:
        return UUID(str(text))
    except ValueError:
        raise ValidationError({"account": ["This is not an id."]}) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key is given twice")
    return members


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
