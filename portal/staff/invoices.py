"""Invoices as staff see them: read, never written over."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing import money
from billing.models import Invoice, InvoiceLine
from portal import papers, pdf
from portal.staff.desk import CappedPaginator, FactsInline, Printed, link, tag


class LineInline(FactsInline[InvoiceLine, Invoice]):
    model = InvoiceLine
    fields = ("text", "units", "included_units", "entries", "amount", "terms_id", "short_root")
    readonly_fields = fields
    verbose_name_plural = "lines"

    def get_queryset(self, request: HttpRequest) -> QuerySet[InvoiceLine]:
        return super().get_queryset(request).defer("hours")

    @admin.display(description="amount")
    def amount(self, line: InvoiceLine) -> str:
        return money.text(line.amount_minor, line.currency)

    @admin.display(description="root")
    def short_root(self, line: InvoiceLine) -> SafeString | str:
        if not line.root:
            return "–"
        return format_html('<code title="{0}">{1}…</code>', line.root, line.root[:12])


@admin.register(Invoice)
class InvoiceAdmin(Printed[Invoice]):
    """One for each period of an account; an open one is what it uses now."""

    list_display = ("__str__", "of_account", "standing", "paid", "period", "total", "closed_at")
    list_filter = ("state", "closed_at")
    list_select_related = ("account", "charge")
    search_fields = ("account__name", "account__billing_email", "number__exact", "id__exact")
    search_help_text = "Account, its billing email, or the number."
    date_hierarchy = "period_end"
    paginator = CappedPaginator
    inlines = (LineInline,)
    fields = ("of_account", "number", "standing", "paid", "period", "total", "cut", "closed_at")

    def print_out(self, invoice: Invoice) -> HttpResponse:
        return pdf.answer(papers.of_the_invoice(invoice))

    @admin.display(description="account", ordering="account__name")
    def of_account(self, invoice: Invoice) -> str:
        return link(invoice.account)

    @admin.display(description="state", ordering="state")
    def standing(self, invoice: Invoice) -> SafeString:
        is_closed = invoice.state == Invoice.State.CLOSED
        return tag(invoice.get_state_display(), "ok" if is_closed else "")

    @admin.display(description="payment of the usage")
    def paid(self, invoice: Invoice) -> SafeString | str:
        paid = papers.standing(invoice)
        if paid is None:
            return "–"
        return link(invoice.charge, paid.text)

    @admin.display(description="period, UTC", ordering="period_end")
    def period(self, invoice: Invoice) -> str:
        return f"{invoice.period_start:%Y-%m-%d %H:%M} to {invoice.period_end:%Y-%m-%d %H:%M}"

    @admin.display(description="total", ordering="total_minor")
    def total(self, invoice: Invoice) -> str:
        if invoice.state == Invoice.State.OPEN:
            return "–"
        return money.text(invoice.total_minor, invoice.currency)
