"""Payments, receipts, credit notes, and who is billed: the pages beside the invoices.

Money is taken and paid back by `billing`; this module shows it, and lets a member have a charge
that failed tried once more.
"""

from __future__ import annotations

from functools import partial
from uuid import UUID

from django import forms
from django.contrib import messages
from django.core.paginator import Paginator
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from billing import charges, tasks
from billing.models import BuyerDetails, Payment, Refund
from keys import clock
from portal import papers, pdf
from portal.access import AccountRequest, member
from portal.ratelimits import by_user, limited
from portal.roles import Capability

PAYMENTS_SHOWN = 24
TONES = {"paid": "ok", "failed": "bad"}


class DetailsForm(forms.ModelForm[BuyerDetails]):
    """Who is billed. Invoices that are closed already keep what they say."""

    class Meta:
        model = BuyerDetails
        fields = ("name", "address", "country", "tax_id")
        widgets = {
            "name": forms.TextInput(attrs={"autocomplete": "organization"}),
            "address": forms.Textarea(attrs={"rows": 3, "autocomplete": "street-address"}),
            "country": forms.TextInput(attrs={"autocomplete": "country", "size": 4}),
        }

    def clean_country(self) -> str:
        country: str = self.cleaned_data["country"].upper()
        if country and not (len(country) == 2 and country.isascii() and country.isalpha()):
            raise forms.ValidationError("Two letters, such as DE or US.")
        return country


@require_GET
@member(Capability.BILLING)
def payment_list(request: AccountRequest) -> HttpResponse:
    """What was paid, tried to be paid, paid back and disputed."""
    found = request.account.payments.prefetch_related("refunds")
    page = Paginator(found, PAYMENTS_SHOWN).get_page(request.GET.get("page"))
    what_for = papers.what_they_are_for(page)
    rows = [
        {
            "payment": payment,
            "what_for": what_for[payment.pk],
            "tone": TONES.get(payment.state, ""),
            "refunds": [one for one in payment.refunds.all() if one.state == Refund.State.DONE],
        }
        for payment in page
    ]
    return render(request, "invoices/payments.html", {"nav": "billing", "page": page, "rows": rows})


@require_GET
@member(Capability.BILLING)
def payment_page(request: AccountRequest, payment_id: UUID) -> HttpResponse:
    """The receipt of a payment."""
    payment = get_object_or_404(_paid(request), pk=payment_id)
    return render(
        request,
        "invoices/paper.html",
        {"nav": "billing", "paper": papers.of_the_payment(payment), "payment": payment},
    )


@require_GET
@member(Capability.BILLING)
def payment_pdf(request: AccountRequest, payment_id: UUID) -> HttpResponse:
    return pdf.answer(papers.of_the_payment(get_object_or_404(_paid(request), pk=payment_id)))


@require_GET
@member(Capability.BILLING)
def refund_page(request: AccountRequest, refund_id: UUID) -> HttpResponse:
    """The credit note of what was paid back."""
    refund = get_object_or_404(_refunds(request), pk=refund_id)
    return render(
        request,
        "invoices/paper.html",
        {"nav": "billing", "paper": papers.of_the_refund(refund), "refund": refund},
    )


@require_GET
@member(Capability.BILLING)
def refund_pdf(request: AccountRequest, refund_id: UUID) -> HttpResponse:
    return pdf.answer(papers.of_the_refund(get_object_or_404(_refunds(request), pk=refund_id)))


def _paid(request: AccountRequest) -> QuerySet[Payment]:
    found: QuerySet[Payment] = request.account.payments.filter(state=Payment.State.PAID)
    return found


def _refunds(request: AccountRequest) -> QuerySet[Refund]:
    done = Refund.objects.filter(
        payment__in=request.account.payments.all(), state=Refund.State.DONE
    )
    return done.select_related("payment__account", "invoice")


@require_http_methods(["GET", "POST"])
@member(Capability.BILLING)
def details(request: AccountRequest) -> HttpResponse:
    """Who is billed: company, address, tax number."""
    held = BuyerDetails.objects.filter(account=request.account).first()
    form = DetailsForm(
        request.POST if request.method == "POST" else None,
        instance=held or BuyerDetails(account=request.account),
    )
    if form.is_valid():
        form.save()
        messages.success(request, "Saved. The next invoice is made out to this.")
        return redirect("billing")
    return render(
        request,
        "invoices/details.html",
        {"nav": "billing", "form": form},
        status=422 if form.errors else 200,
    )


@require_POST
@limited("charge", (by_user, "10/h"))
@member(Capability.BILLING)
def charge_again(request: AccountRequest) -> HttpResponse:
    """Has charges that failed tried once more."""
    waiting = list(charges.failed(request.account.pk).values_list("pk", flat=True))
    if charges.ask_again(request.account.pk, clock.now()):
        for charge_id in waiting:
            # Robust: where the broker is away, beat finds it in half a minute.
            transaction.on_commit(partial(tasks.send_charge.delay, str(charge_id)), robust=True)
        messages.success(request, "The payment is being tried again; this takes a moment.")
    else:
        messages.info(request, "There is no failed payment any more.")
    return redirect("invoices")
