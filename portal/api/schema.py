"""The OpenAPI document of the control plane, and its operations as the docs list them.

Both are made from the views; a process makes them once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from django.utils.safestring import SafeString
from drf_spectacular.generators import SchemaGenerator
from rest_framework.permissions import AllowAny
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from portal import prose


@dataclass(frozen=True)
class Operation:
    """One line of the docs' list."""

    method: str
    path: str
    summary: str
    markup: SafeString


@cache
def document() -> dict[str, Any]:
    """The document as plain data, OpenAPI 3.1."""
    made: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    return made


def operations() -> list[Operation]:
    """In the order of the addresses."""
    return [
        Operation(method.upper(), path, details["summary"], prose.inline(details["description"]))
        for path, item in document()["paths"].items()
        for method, details in item.items()
    ]


class OpenApiJson(JSONRenderer):
    media_type = "application/vnd.oai.openapi+json"


class Schema(APIView):
    """`/api/schema/`: the document as JSON, for everybody."""

    authentication_classes = ()
    permission_classes = (AllowAny,)
    renderer_classes: tuple[type[BaseRenderer], ...] = (JSONRenderer, OpenApiJson)
    schema = None

    def get(self, request: Request) -> Response:  # noqa: ARG002
        return Response(document())
