"""Money in the staff's admin: payments, what is charged, what is paid back, disputes.

Payments are the provider's word and only read. Staff pay back, have a charge tried again, say
that an invoice was paid by transfer, or give it up; billing does it.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing import charges, money, refunds
from billing.models import Charge, Payment, Refund
from billing.terms import NO_PROVIDER
from keys import clock
from portal import papers, pdf
from portal.staff.desk import CappedPaginator, Deed, Facts, FactsInline, Outcome, Printed, link, tag

TONES = {
    "paid": "ok",
    "done": "ok",
    "failed": "bad",
    "unknown": "warn",
    "due": "warn",
    "pending": "warn",
}


class MoneyColumns:
    """What payments, charges and refunds show alike."""

    @admin.display(description="state", ordering="state")
    def standing(self, row: Payment | Charge | Refund) -> SafeString:
        return tag(row.get_state_display(), TONES.get(row.state, ""))

    @admin.display(description="amount", ordering="amount_minor")
    def amount(self, row: Payment | Charge | Refund) -> str:
        return money.text(row.amount_minor, row.currency)

    @admin.display(description="invoice")
    def of_invoice(self, row: Charge | Refund) -> str:
        return link(row.invoice)


class RefundForm(forms.Form):
    """How much is paid back, why, and whether the account keeps what it bought."""

    amount = forms.DecimalField(min_value=Decimal("0.001"))
    reason = forms.CharField(max_length=300, help_text="The customer reads it on the credit note.")
    ends_subscription = forms.BooleanField(
        required=False,
        label="End the subscription now, too",
        help_text="Otherwise the account keeps what it has.",
    )

    def __init__(self, payment: Payment, left_minor: int, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._currency, self._left_minor = payment.currency, left_minor
        left = money.text(left_minor, payment.currency)
        self.fields["amount"].help_text = f"In {payment.currency}, at most {left}."
        self.fields["amount"].initial = money.to_major(left_minor, payment.currency)
        if payment.subscription is None:
            del self.fields["ends_subscription"]

    def clean_amount(self) -> int:
        """Minor units."""
        amount: Decimal = self.cleaned_data["amount"]
        amount_minor = money.to_minor(amount, self._currency)
        if money.to_major(amount_minor, self._currency) != amount:
            places = money.exponent(self._currency)
            raise forms.ValidationError(f"{self._currency} has {places} decimal places.")
        if not 0 < amount_minor <= self._left_minor:
            raise forms.ValidationError("There is less left of this payment than that.")
        return amount_minor


class RefundInline(MoneyColumns, FactsInline[Refund, Payment]):
    model = Refund
    fields = ("itself", "amount", "reason", "state", "error", "created_by", "created_at")
    readonly_fields = fields
    verbose_name_plural = "paid back"


class DisputeFilter(admin.SimpleListFilter):
    """Payments that somebody's bank has taken back, or tried to."""

    title = "dispute"
    parameter_name = "dispute"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("any", "any"),
            *(choice for choice in Payment.Dispute.choices if choice[0]),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Payment]) -> QuerySet[Payment]:
        if self.value() == "any":
            return queryset.exclude(dispute="")
        return queryset.filter(dispute=self.value()) if self.value() else queryset


@admin.register(Payment)
class PaymentAdmin(MoneyColumns, Printed[Payment]):
    """Payments as their providers have them."""

    list_display = ("__str__", "of_account", "kind", "standing", "amount", "disputed", "at")
    list_filter = ("state", DisputeFilter, "kind", "provider", "at")
    list_select_related = ("account",)
    search_fields = (
        "account__name",
        "account__billing_email",
        "provider_payment_id__exact",
        "number__exact",
        "reference__exact",
        "id__exact",
    )
    search_help_text = "Account, its billing email, the provider’s id or its invoice’s number."
    date_hierarchy = "at"
    paginator = CappedPaginator
    inlines = (RefundInline,)
    fields = (
        "of_account",
        "subscription",
        "kind",
        "reference",
        "standing",
        "failure",
        "amount",
        "tax",
        "paid_back",
        "disputed",
        "number",
        "at_provider",
        "provider",
        "provider_payment_id",
        "at",
    )

    def print_out(self, payment: Payment) -> HttpResponse:
        return pdf.answer(papers.of_the_payment(payment))

    def get_urls(self) -> list[URLPattern]:
        refund = self.admin_site.admin_view(self.refund)
        address = path("<uuid:payment_id>/refund/", refund, name="billing_payment_refund")
        return [address, *super().get_urls()]

    def page_context(self, request: HttpRequest, row: Payment) -> dict[str, Any]:
        address = ""
        if may_refund(request) and is_refundable(row):
            address = reverse("admin:billing_payment_refund", args=[row.pk])
        return {**super().page_context(request, row), "refund_address": address}

    def refund(self, request: HttpRequest, payment_id: UUID) -> HttpResponse:
        """Asks how much and why (GET), then has it paid back (POST)."""
        if not may_refund(request):
            raise PermissionDenied
        payment = get_object_or_404(Payment.objects.select_related("account"), pk=payment_id)
        back = reverse("admin:billing_payment_change", args=[payment.pk])
        left_minor = refunds.left_minor(payment)
        if not is_refundable(payment):
            messages.warning(request, "There is nothing of it to pay back.")
            return HttpResponseRedirect(back)
        form = RefundForm(payment, left_minor, request.POST if request.method == "POST" else None)
        if form.is_valid():
            amount_minor = form.cleaned_data["amount"]
            text = money.text(amount_minor, payment.currency)
            try:
                refunds.ask(
                    payment.pk,
                    amount_minor,
                    form.cleaned_data["reason"],
                    clock.now(),
                    by=request.user,
                    ends_subscription=form.cleaned_data.get("ends_subscription", False),
                )
            except refunds.TooMuch:
                messages.error(request, "Less was left of it by then: nothing was paid back.")
            else:
                self.log_change(request, payment, f"Pay back {text}")
                messages.success(request, f"{text} is being paid back; it shows below.")
            return HttpResponseRedirect(back)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Pay back",
            "payment": payment,
            "form": form,
            "back": back,
        }
        return TemplateResponse(request, "admin/refund.html", context)

    @admin.display(description="account", ordering="account__name")
    def of_account(self, payment: Payment) -> str:
        return link(payment.account)

    @admin.display(description="of that, tax")
    def tax(self, payment: Payment) -> str:
        return money.text(payment.tax_minor, payment.currency)

    @admin.display(description="paid back")
    def paid_back(self, payment: Payment) -> str:
        return money.text(payment.refunded_minor, payment.currency)

    @admin.display(description="dispute", ordering="dispute")
    def disputed(self, payment: Payment) -> SafeString | str:
        if not payment.dispute:
            return "–"
        return tag(payment.get_dispute_display(), "ok" if payment.dispute == "won" else "bad")

    @admin.display(description="at the provider")
    def at_provider(self, payment: Payment) -> SafeString | str:
        if not payment.page_url:
            return "–"
        return format_html('<a href="{}" rel="noreferrer">Open</a>', payment.page_url)


def may_refund(request: HttpRequest) -> bool:
    return request.user.has_perm("billing.add_refund")


def is_refundable(payment: Payment) -> bool:
    return payment.state == Payment.State.PAID and refunds.left_minor(payment) > 0


def try_again(request: HttpRequest, charge: Charge, now: datetime) -> Outcome:
    asked = charges.ask_again(charge.account_id, now)
    if not asked:
        return Outcome(False, f"{charge.account} has no failed charge any more.")
    what = "One charge is" if asked == 1 else f"{asked} charges are"
    return Outcome(True, f"{what} asked for again within a minute.")


def paid_by_transfer(request: HttpRequest, charge: Charge, now: datetime) -> Outcome:
    if not charges.paid_by_transfer(charge.pk, now):
        return Outcome(False, f"{charge} is settled or on its way.")
    return Outcome(True, f"{charge} is paid.")


def give_up(request: HttpRequest, charge: Charge, now: datetime) -> Outcome:
    if not charges.drop(charge.pk, now):
        return Outcome(False, f"{charge} is settled or on its way.")
    return Outcome(True, f"{charge} is given up; nobody owes it any more.")


def _open(charge: Charge) -> bool:
    return charge.state in (Charge.State.DUE, Charge.State.FAILED)


@admin.register(Charge)
class ChargeAdmin(MoneyColumns, Facts[Charge]):
    """Money that we ask providers to take, and invoices to be paid by transfer."""

    list_display = ("__str__", "of_account", "standing", "amount", "provider", "created_at")
    list_filter = ("state", "provider", "created_at")
    list_select_related = ("account",)
    search_fields = ("account__name", "account__billing_email", "id__exact", "reason")
    date_hierarchy = "created_at"
    paginator = CappedPaginator
    fields = (
        "of_account",
        "of_invoice",
        "description",
        "lines",
        "amount",
        "standing",
        "reason",
        "attempts",
        "failed_since",
        "next_attempt_at",
        "provider",
        "subscription",
        "created_at",
        "settled_at",
    )
    deeds = (
        Deed(
            "again",
            "Try again",
            "The provider is asked once more for all invoices of the account that could not be "
            "charged, by the same references: nothing can be taken twice.",
            try_again,
            offered=lambda charge: charge.state == Charge.State.FAILED and bool(charge.invoice_id),
        ),
        Deed(
            "paid",
            "Paid by transfer",
            "The money is on the seller's bank account. No provider is asked for it.",
            paid_by_transfer,
            offered=lambda charge: _open(charge) and charge.provider == NO_PROVIDER,
        ),
        Deed(
            "drop",
            "Give up",
            "Nobody is asked for the money any more, and the account no longer owes it. The "
            "invoice stays as it is.",
            give_up,
            offered=_open,
            grave=True,
            reason="Why?",
        ),
    )

    @admin.display(description="account", ordering="account__name")
    def of_account(self, charge: Charge) -> str:
        return link(charge.account)


def refund_again(request: HttpRequest, refund: Refund, now: datetime) -> Outcome:
    if not refunds.ask_again(refund.pk, now):
        return Outcome(False, f"{refund} can’t be tried again: less is left of its payment.")
    return Outcome(True, f"{refund} is tried again within a minute.")


@admin.register(Refund)
class RefundAdmin(MoneyColumns, Printed[Refund]):
    """What was paid back, with its credit notes."""

    list_display = ("__str__", "of_account", "standing", "amount", "reason", "created_at")
    list_filter = ("state", "created_at")
    list_select_related = ("payment__account",)
    search_fields = ("payment__account__name", "number__exact", "reason", "id__exact")
    date_hierarchy = "created_at"
    paginator = CappedPaginator
    fields = (
        "of_account",
        "of_payment",
        "of_invoice",
        "number",
        "amount",
        "reason",
        "ends_subscription",
        "standing",
        "error",
        "attempts",
        "next_attempt_at",
        "created_by",
        "created_at",
        "settled_at",
    )
    deeds = (
        Deed(
            "again",
            "Try again",
            "The provider is asked once more, by the same reference: it can't be paid twice.",
            refund_again,
            offered=lambda refund: refund.state == Refund.State.FAILED,
        ),
    )

    def print_out(self, refund: Refund) -> HttpResponse:
        return pdf.answer(papers.of_the_refund(refund))

    @admin.display(description="account")
    def of_account(self, refund: Refund) -> str:
        return link(refund.payment.account)

    @admin.display(description="payment")
    def of_payment(self, refund: Refund) -> str:
        return link(refund.payment)
