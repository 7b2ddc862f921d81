"""The usage endpoints: sums by day, and the ledger itself as a file."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, timedelta
from typing import Any

from django.http.response import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from gateway import export
from gateway.entries import EARLIEST, LATEST
from keys import clock
from portal import downloads
from portal.api.access import ControlView, Scope, account_of
from portal.api.keys import ACCOUNT, answers, example
from portal.api.problems import Problem

DEFAULT_SPAN = timedelta(days=30)
LONGEST_SUMMARY = timedelta(days=100)


class SpanOf(serializers.Serializer[Any]):
    """From when until when: days or moments in UTC, as 2026-11-01 or 2026-11-01T09:00:00Z."""

    to = serializers.DateTimeField(required=False, help_text="Its end, not included. Default: now.")

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        # `from` is no name that a class could have.
        start = serializers.DateTimeField(
            required=False, help_text="Its start. Default: 30 days before its end."
        )
        return {"from": start, **super().get_fields()}

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        end = attrs.get("to") or clock.now()
        start = attrs.get("from") or end - DEFAULT_SPAN
        for name, moment in (("to", end), ("from", start)):
            if not EARLIEST <= moment < LATEST:
                raise serializers.ValidationError({name: ["There is no usage of such a time."]})
        if start >= end:
            raise serializers.ValidationError({"to": ["This is not after from."]})
        return attrs | {"from": start.astimezone(UTC), "to": end.astimezone(UTC)}


class SummarySpan(SpanOf):
    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        span = super().validate(attrs)
        if span["to"] - span["from"] > LONGEST_SUMMARY:
            raise serializers.ValidationError(
                {"from": [f"At most {LONGEST_SUMMARY.days} days at once."]}
            )
        return span


class ExportOf(SpanOf):
    format = serializers.ChoiceField(choices=["jsonl", "csv"], default="jsonl")


class DayUsage(serializers.Serializer[Any]):
    day = serializers.DateField(help_text="UTC, by admission.")
    api = serializers.CharField()
    operation = serializers.CharField(help_text="Method and path template, or “other”.")
    meter = serializers.CharField()
    calls = serializers.IntegerField(help_text="Of the meter calls only; 0 on any other.")
    units = serializers.IntegerField()
    billable_units = serializers.IntegerField()


class UsageSums(serializers.Serializer[Any]):
    to = serializers.DateTimeField()
    data = DayUsage(many=True)  # type: ignore[assignment]

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        return {"from": serializers.DateTimeField(), **super().get_fields()}


class Usage(ControlView):
    scopes = {"GET": Scope.USAGE_READ}

    @extend_schema(
        operation_id="get_usage",
        summary="Sum up usage",
        description="Live usage by day, operation and meter; whole quarter hours, at most "
        "100 days at once. Scope: `usage:read`.",
        parameters=[ACCOUNT, SummarySpan],
        responses=answers(on_200=UsageSums),
        examples=[
            example(
                "One day",
                {
                    "from": "2026-11-24T00:00:00Z",
                    "to": "2026-11-25T00:00:00Z",
                    "data": [
                        {
                            "day": "2026-11-24",
                            "api": "holidays",
                            "operation": "GET /v1/countries",
                            "meter": "calls",
                            "calls": 120,
                            "units": 120,
                            "billable_units": 118,
                        }
                    ],
                },
                code=200,
            )
        ],
    )
    def get(self, request: Request) -> Response:
        span = SummarySpan(data=request.query_params)
        span.is_valid(raise_exception=True)
        start, end = span.validated_data["from"], span.validated_data["to"]
        days = export.by_day(account_of(request).pk, start, end)
        return Response(UsageSums({"from": start, "to": end, "data": days}).data)


class ByParameter(BaseContentNegotiation):
    """`format` says what the file is; only a problem is rendered, and that as JSON."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser:  # noqa: ARG002
        return next(iter(parsers))

    def select_renderer(
        self,
        request: Request,  # noqa: ARG002
        renderers: Iterable[BaseRenderer],
        format_suffix: str | None = None,  # noqa: ARG002
    ) -> tuple[BaseRenderer, str]:
        renderer = next(iter(renderers))
        return renderer, renderer.media_type


class UsageExport(ControlView):
    scopes = {"GET": Scope.USAGE_READ}
    content_negotiation_class = ByParameter

    @extend_schema(
        operation_id="export_usage",
        summary="Export usage",
        description="Every entry of the ledger that was recorded in these hours, in test mode too, "
        "in the order of recording: CloudEvents 1.0 as JSON lines, with the digest of each "
        "closed hour, or CSV. Any size; two exports at once. Scope: `usage:read`.",
        parameters=[ACCOUNT, ExportOf],
        responses={
            (200, "application/jsonl"): OpenApiTypes.STR,
            (200, "text/csv"): OpenApiTypes.STR,
            **answers(),
        },
    )
    def get(self, request: Request) -> HttpResponseBase:
        asked = ExportOf(data=request.query_params)
        asked.is_valid(raise_exception=True)
        span = asked.validated_data
        wanted = export.Export.of(account_of(request).pk, span["from"], span["to"])
        file = downloads.send(request._request, wanted, asked.validated_data["format"])
        if file is None:
            raise Problem("exports_running")
        return file
