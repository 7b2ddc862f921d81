"""Invoices, taken apart: the list, one invoice, a line's hours, an hour's calls.

Each level shows that it adds up to the one above it. Rates nothing; `billing.invoices` closed
what is shown, `billing.explanations` finds what it rests on.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.core.paginator import Paginator
from django.http import Http404, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_GET

from billing import charges, explanations, payments
from billing.models import Invoice, InvoiceLine, Refund
from portal import papers, pdf
from portal.access import AccountRequest, member
from portal.api.invoices import invoice_json
from portal.models import Account
from portal.roles import Capability

INVOICES_SHOWN = 24
ENTRIES_SHOWN = 100
HOUR_FORMAT = "%Y-%m-%dT%H"


@require_GET
@member(Capability.BILLING)
def invoice_list(request: AccountRequest) -> HttpResponse:
    found = closed(request.account).select_related("charge")
    page = Paginator(found, INVOICES_SHOWN).get_page(request.GET.get("page"))
    rows = [(invoice, papers.standing(invoice)) for invoice in page]
    return render(
        request,
        "invoices/list.html",
        {
            "nav": "billing",
            "page": page,
            "rows": rows,
            "failed": charges.failed(request.account.pk).exists(),
        },
    )


@require_GET
@member(Capability.BILLING)
def invoice_page(request: AccountRequest, invoice_id: UUID) -> HttpResponse:
    invoice = get_object_or_404(closed(request.account).select_related("charge"), pk=invoice_id)
    lines = list(invoice.lines.all())
    paid = payments.of_invoice(invoice)
    what_for = papers.what_they_are_for(paid)
    return render(
        request,
        "invoices/page.html",
        {
            "nav": "billing",
            "invoice": invoice,
            "lines": lines,
            "standing": papers.standing(invoice),
            "paper": papers.of_the_invoice(invoice),
            "payments": [(payment, what_for[payment.pk]) for payment in paid],
            "refunds": invoice.refunds.filter(state=Refund.State.DONE),
            "elsewhere": [line for line in lines if line.currency != invoice.currency],
        },
    )


@require_GET
@member(Capability.BILLING)
def invoice_pdf(request: AccountRequest, invoice_id: UUID) -> HttpResponse:
    """The invoice as it is printed."""
    invoice = get_object_or_404(closed(request.account).select_related("charge"), pk=invoice_id)
    return pdf.answer(papers.of_the_invoice(invoice))


@require_GET
@member(Capability.BILLING)
def invoice_file(request: AccountRequest, invoice_id: UUID) -> HttpResponse:
    """The invoice as the API gives it, to be kept and checked."""
    invoice = get_object_or_404(closed(request.account), pk=invoice_id)
    name = re.sub(r"\W+", "-", str(invoice)).lower()
    answer = JsonResponse(invoice_json(invoice), json_dumps_params={"indent": 2})
    answer["Content-Disposition"] = f'attachment; filename="{name}.json"'
    return answer


@require_GET
@member(Capability.BILLING)
def line_page(request: AccountRequest, invoice_id: UUID, position: int) -> HttpResponse:
    """Which hours of the ledger a line's units come from."""
    line = _line(request.account, invoice_id, position)
    hours = explanations.hours(line)
    return render(
        request,
        "invoices/line.html",
        {
            **_context(line),
            "hours": hours,
            "events": sum(hour.events for hour in hours),
            "units": sum(hour.units for hour in hours),
        },
    )


@require_GET
@member(Capability.BILLING)
def hour_page(request: AccountRequest, invoice_id: UUID, position: int, hour: str) -> HttpResponse:
    """The calls of one hour that a line's units come from."""
    line = _line(request.account, invoice_id, position)
    wanted = next((one for one in explanations.hours(line) if one.hour == _moment(hour)), None)
    if wanted is None:
        raise Http404
    found = explanations.found(line, wanted)
    page = None
    if found is not None and found.events:
        page = Paginator(found.entries, ENTRIES_SHOWN).get_page(request.GET.get("page"))
    keys = dict(request.account.keys.values_list("pk", "name"))
    entries = [_entry(entry, line.meter, keys) for entry in page or ()]
    return render(
        request,
        "invoices/hour.html",
        {**_context(line), "hour": wanted, "found": found, "page": page, "entries": entries},
    )


def closed(account: Account) -> Any:
    """The account's closed invoices, the latest first."""
    return account.invoices.filter(state=Invoice.State.CLOSED)


def _line(account: Account, invoice_id: UUID, position: int) -> InvoiceLine:
    """A line of usage; the base price has nothing to be taken apart."""
    lines = InvoiceLine.objects.filter(invoice__in=closed(account)).exclude(meter="")
    return get_object_or_404(
        lines.select_related("invoice"), invoice_id=invoice_id, position=position
    )


def _context(line: InvoiceLine) -> dict[str, Any]:
    return {"nav": "billing", "invoice": line.invoice, "line": line}


def _entry(entry: Any, meter: str, keys: dict[UUID, str]) -> dict[str, Any]:
    return {
        "call": entry,
        "key": keys.get(entry.key_id, ""),
        "units": entry.units.get(meter, 0) if entry.billable else 0,
    }


def _moment(hour: str) -> datetime:
    try:
        return datetime.strptime(hour, HOUR_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        raise Http404 from None
