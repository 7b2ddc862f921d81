"""The invoices' endpoints: the closed ones, and one with all that it rests on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import Invoice, InvoiceLine
from portal.api.access import ControlView, Scope, account_of
from portal.api.key_fields import PageOf
from portal.api.keys import ACCOUNT, answers, example

HOUR = {
    "hour": "2026-10-02T09:00:00Z",
    "digest": "9f2b6c7a1d…",
    "events": 12_300,
    "units": 12_300,
}
HEAD = {
    "id": "0192f0c1-5a3e-7cc1-9d0b-1f6f3a6f2b10",
    "number": 17,
    "period_start": "2026-10-01T00:00:00Z",
    "period_end": "2026-11-01T00:00:00Z",
    "currency": "USD",
    "total_minor": 6380,
    "cut": "2026-11-01T01:00:00Z",
    "closed_at": "2026-11-01T01:03:12Z",
}
USAGE = {
    "position": 2,
    "text": "2,300 calls past 10,000",
    "meter": "calls",
    "period": "2026-10-01T00:00:00Z",
    "terms": ["version:3"],
    "api": "",
    "operation": "",
    "dimensions": {},
    "except": [],
    "units": 12_300,
    "included_units": 10_000,
    "amount_minor": 1380,
    "currency": "USD",
    "events": 12_300,
    "root": "41d0c2…",
    "hours": [HOUR],
}


class Hour(serializers.Serializer[Any]):
    """What one closed hour of the ledger has of a line."""

    hour = serializers.DateTimeField(help_text="Its start, of the moment of recording.")
    digest = serializers.CharField(help_text="Of the hour in the ledger, SHA-256.")
    events = serializers.IntegerField(help_text="Entries of the ledger, unbilled ones too.")
    units = serializers.IntegerField(help_text="Billable units of the line's meter.")


class Line(serializers.Serializer[Any]):
    """What is charged, for which units. Those match the filter and nothing in `except`."""

    position = serializers.IntegerField()
    text = serializers.CharField()
    meter = serializers.CharField(help_text="Empty: a base price.")
    period = serializers.DateTimeField(
        help_text="Start of the period of use; earlier than the invoice’s: recorded late."
    )
    terms = serializers.ListField(
        child=serializers.CharField(), help_text="The terms that it was used under."
    )
    api = serializers.CharField(help_text="Of this API only; empty: of all.")
    operation = serializers.CharField(help_text="Of this operation only; empty: of all.")
    dimensions = serializers.DictField(
        child=serializers.CharField(), help_text="Of what has this metadata only."
    )
    units = serializers.IntegerField()
    included_units = serializers.IntegerField(help_text="Units up to these cost nothing.")
    amount_minor = serializers.IntegerField(help_text="In minor units of the currency.")
    currency = serializers.CharField()
    events = serializers.IntegerField(help_text="Entries of the ledger.")
    hours = Hour(many=True)

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        # Names that a class of this kind can't have.
        others = serializers.ListField(
            child=serializers.DictField(), help_text="Filters of prices that come first."
        )
        root = serializers.CharField(
            help_text="SHA-256 over a line `<hour> <digest>` for each of the hours; empty: none."
        )
        return {**super().get_fields(), "except": others, "root": root}


class InvoiceHead(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    number = serializers.IntegerField(
        allow_null=True, help_text="null: a statement, by which nothing is charged by us."
    )
    period_start = serializers.DateTimeField()
    period_end = serializers.DateTimeField()
    currency = serializers.CharField()
    total_minor = serializers.IntegerField(help_text="In minor units of the currency.")
    cut = serializers.DateTimeField(help_text="It has what was recorded before then.")
    closed_at = serializers.DateTimeField()


class WholeInvoice(InvoiceHead):
    lines = Line(many=True)


class InvoicePage(serializers.Serializer[Any]):
    data = InvoiceHead(many=True)  # type: ignore[assignment]
    next_cursor = serializers.UUIDField(allow_null=True)


class Invoices(ControlView):
    scopes = {"GET": Scope.INVOICES_READ}

    @extend_schema(
        operation_id="list_invoices",
        summary="List invoices",
        description="The account's closed invoices, the latest first. Scope: `invoices:read`.",
        parameters=[ACCOUNT, PageOf],
        responses=answers(on_200=InvoicePage),
        examples=[example("A page", {"data": [HEAD], "next_cursor": None}, code=200)],
    )
    def get(self, request: Request) -> Response:
        asked = PageOf(data=request.query_params)
        asked.is_valid(raise_exception=True)
        limit = asked.validated_data["limit"]
        found = account_of(request).invoices.filter(state=Invoice.State.CLOSED)
        if cursor := asked.validated_data.get("cursor"):
            after = get_object_or_404(found, pk=cursor)
            found = found.filter(period_start__lt=after.period_start)
        page = list(found[: limit + 1])
        last = str(page[limit - 1].pk) if len(page) > limit else None
        return Response({"data": [head_json(one) for one in page[:limit]], "next_cursor": last})


class OneInvoice(ControlView):
    scopes = {"GET": Scope.INVOICES_READ}

    @extend_schema(
        operation_id="get_invoice",
        summary="Take an invoice apart",
        description="A closed invoice with its lines, and the hours of the ledger that each of "
        "them rests on. Scope: `invoices:read`.",
        parameters=[ACCOUNT],
        responses=answers(on_200=WholeInvoice),
        examples=[example("An invoice", HEAD | {"lines": [USAGE]}, code=200)],
    )
    def get(self, request: Request, invoice_id: UUID) -> Response:
        found = account_of(request).invoices.filter(state=Invoice.State.CLOSED)
        return Response(invoice_json(get_object_or_404(found, pk=invoice_id)))


def invoice_json(invoice: Invoice) -> dict[str, Any]:
    """As `WholeInvoice`; what `verify_ledger.py` reads."""
    return head_json(invoice) | {"lines": [_line_json(line) for line in invoice.lines.all()]}


def head_json(invoice: Invoice) -> dict[str, Any]:
    return {
        "id": str(invoice.pk),
        "number": invoice.number,
        "period_start": _moment(invoice.period_start),
        "period_end": _moment(invoice.period_end),
        "currency": invoice.currency,
        "total_minor": invoice.total_minor,
        "cut": invoice.cut and _moment(invoice.cut),
        "closed_at": invoice.closed_at and _moment(invoice.closed_at),
    }


def _line_json(line: InvoiceLine) -> dict[str, Any]:
    units = line.selects.get("filter", {})
    return {
        "position": line.position,
        "text": line.text,
        "meter": line.meter,
        "period": _moment(line.period_start),
        "terms": line.selects.get("terms", list(filter(None, [line.terms_id]))),
        "api": units.get("api", ""),
        "operation": units.get("operation", ""),
        "dimensions": units.get("dimensions", {}),
        "except": line.selects.get("except", []),
        "units": line.units,
        "included_units": line.included_units,
        "amount_minor": line.amount_minor,
        "currency": line.currency,
        "events": line.entries,
        "root": line.root,
        "hours": line.hours,
    }


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
