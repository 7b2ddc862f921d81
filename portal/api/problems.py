"""How errors of the control plane look: RFC 9457 problem details, each with a code.

Owns the list of codes, which the docs show, and the exception handler that writes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from django.conf import settings
from rest_framework import exceptions, serializers
from rest_framework.response import Response
from rest_framework.views import exception_handler

CONTENT_TYPE = "application/problem+json"
SECONDS_TO_WAIT = 10

PROBLEMS: dict[str, tuple[int, str]] = {
    "bad_json": (400, "The body is not JSON in UTF-8 of the form that is asked for."),
    "invalid_request": (400, "Some fields can't be taken; the errors name each and say why."),
    "missing_token": (401, "Send a service token as “Authorization: Bearer kst_…”."),
    "bad_token": (401, "No living service token is spelled like this."),
    "scope_missing": (403, "The token may not do this. Make one with the scope that is named."),
    "not_found": (404, "There is no such thing, or it is another account's."),
    "method_not_allowed": (405, "This address exists, but not with this method."),
    "not_acceptable": (406, "Answers are application/json."),
    "already_made": (409, "This Idempotency-Key has made its key; a secret is shown once."),
    "key_limit_reached": (409, "The plan allows no more keys. Revoke one that is not used."),
    "key_not_active": (409, "The key has expired, leaked or was revoked, or was never claimed."),
    "no_plan": (409, "The account has no active plan under which keys could be made."),
    "body_too_large": (413, "The body is larger than 64 KB, or 2 MB where usage is reported."),
    "too_many_events": (413, "A request reports up to 1000 uses. Send the others in another one."),
    "unsupported_media_type": (415, "Send application/json."),
    "idempotency_key_reused": (422, "This Idempotency-Key was used for another request."),
    "exports_running": (429, "Other exports are still running. Wait until one has ended."),
    "rate_limited": (429, "Too many requests. Wait for Retry-After seconds."),
}
CODES = {  # of DRF's exceptions, where ours differ
    "parse_error": "bad_json",
    "invalid": "invalid_request",
    "not_authenticated": "missing_token",
    "authentication_failed": "bad_token",
    "throttled": "rate_limited",
}


class Problem(exceptions.APIException):
    """An outcome that the caller is told by its code. `members` join the problem's own."""

    def __init__(self, code: str, detail: str = "", **members: Any):
        self.status_code, sentence = PROBLEMS[code]
        super().__init__(detail or sentence, code)
        self.members = members
        if self.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            self.wait = SECONDS_TO_WAIT  # DRF's handler writes Retry-After from it


class FieldProblem(serializers.Serializer[Any]):
    field = serializers.CharField(help_text="Its name; empty where it is about the whole.")
    detail = serializers.CharField()


class ProblemDetails(serializers.Serializer[Any]):
    """RFC 9457 problem details."""

    type = serializers.URLField(help_text="Where the docs say more.")
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    code = serializers.ChoiceField(choices=sorted(PROBLEMS))
    errors = FieldProblem(  # type: ignore[assignment]
        many=True, required=False, help_text="With invalid_request."
    )
    key = serializers.UUIDField(required=False, help_text="With already_made: the key made then.")


def answer(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's exception handler: the error as problem details; None for what is no answer."""
    response = exception_handler(error, context)
    if response is None:
        return None
    body = response.data
    fields: list[dict[str, str]] = []
    if isinstance(error, exceptions.ValidationError):
        code, fields = "invalid_request", list(_flat(body))
        detail = PROBLEMS[code][1]
    else:
        said = body["detail"]  # also for Django's own Http404 and PermissionDenied
        code = CODES.get(said.code, said.code)
        own_words = isinstance(error, Problem | exceptions.ParseError | exceptions.PermissionDenied)
        detail = str(said) if own_words or code not in PROBLEMS else PROBLEMS[code][1]
    response.data = {
        "type": f"{settings.SITE_URL}/docs/management#{code}",
        "title": HTTPStatus(response.status_code).phrase,
        "status": response.status_code,
        "detail": detail,
        "code": code,
        **({"errors": fields} if fields else {}),
        **(error.members if isinstance(error, Problem) else {}),
    }
    response.content_type = CONTENT_TYPE
    return response


def _flat(errors: Any, field: str = "") -> Iterator[dict[str, str]]:
    """DRF's nested errors, one by one: {"field": "allowed_networks.3", "detail": "…"}."""
    if isinstance(errors, dict):
        for name, said in errors.items():
            inner = "" if name == "non_field_errors" else str(name)
            yield from _flat(said, ".".join(part for part in (field, inner) if part))
    elif isinstance(errors, list):
        for said in errors:
            yield from _flat(said, field)
    else:
        yield {"field": field, "detail": str(errors)}
