"""The sandbox's control page: the clock, the customers' cards and banks, the faults of the day.

Of a demo only: 404 where another provider sells.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.admin import site
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.template.response import TemplateResponse
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe
from django_htmx.http import HttpResponseClientRefresh

from billing import money, rehearsal, tasks
from billing.models import Checkout
from billing.sandbox import controls
from billing.sandbox.models import SandboxFaults, SandboxOrder
from keys import clock
from portal.models import Account

log = structlog.get_logger(__name__)

DAY = timedelta(days=1)
STRIDES = {
    "hour": ("An hour", timedelta(hours=1)),
    "day": ("A day", DAY),
    "week": ("A week", 7 * DAY),
    "month": ("30 days", 30 * DAY),
    "year": ("A year", 365 * DAY),
}
CUSTOMERS_SHOWN = 50


class FaultsForm(forms.ModelForm[SandboxFaults]):
    """How often what goes wrong."""

    drop = forms.IntegerField(label="Webhooks never sent, %", min_value=0, max_value=100)
    repeat = forms.IntegerField(label="Each sent again, times", min_value=0, max_value=10)
    delay_seconds = forms.IntegerField(
        label="Each held up, seconds", min_value=0, max_value=30 * 86400
    )
    reorder = forms.BooleanField(label="Webhooks in any order", required=False)
    refused = forms.IntegerField(
        label="Requests answered with an error, %", min_value=0, max_value=100
    )
    unanswered = forms.IntegerField(
        label="Requests done and not answered, %", min_value=0, max_value=100
    )

    class Meta:
        model = SandboxFaults
        fields = ("drop", "repeat", "delay_seconds", "reorder", "refused", "unanswered")


@dataclass(frozen=True)
class Row:
    """A customer of the sandbox; `account` is None for one that is nobody's here."""

    order: SandboxOrder
    account: Account | None
    amount: str
    deeds: list[controls.Deed]


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def page(request: HttpRequest) -> HttpResponse:
    """Shows the sandbox's world and does what its buttons say."""
    _admit(request)
    faults = SandboxFaults.objects.filter(pk=1).first() or SandboxFaults(pk=1)
    form = FaultsForm(instance=faults)
    if request.method == "POST":
        if "faults" in request.POST:
            form = FaultsForm(request.POST, instance=faults)
            if not form.is_valid():
                return _shown(request, form)
            form.save()
            _note(request, "What goes wrong is set.")
        else:
            _act(request)
        return HttpResponseRedirect(request.path)
    return _shown(request, form)


@never_cache
@require_safe
def journey(request: HttpRequest) -> HttpResponse:
    """How far the clock has come, for the page to ask every second; at the end the whole page."""
    _admit(request)
    shown = _time()
    if shown["journey"] is None and not shown["waiting"]:
        return HttpResponseClientRefresh()
    return render(request, "admin/_journey.html", shown)


def _admit(request: HttpRequest) -> None:
    if settings.PAYMENT_PROVIDER != "sandbox":
        raise Http404
    if not request.user.has_perm("billing.change_subscription"):
        raise PermissionDenied


def _act(request: HttpRequest) -> None:
    given = request.POST
    if "move" in given:
        stride = STRIDES.get(given["move"])
        if stride:
            _set_out(request, stride[1])
        return
    order_id = given.get("order", "")
    if "to_end" in given:
        order = controls.customers().filter(pk=order_id).first()
        if order is None or order.period_end is None:
            messages.warning(request, "This subscription has no period that ends.")
        else:
            under_way = rehearsal.under_way()
            begins = under_way.until if under_way else clock.now()
            # A moment after it, when all agree that it is over.
            by = order.period_end + timedelta(seconds=2) - begins
            if by > timedelta():
                _set_out(request, by)
            else:
                messages.warning(request, "The clock is on the way past it already.")
        return
    deed = controls.act(order_id, given.get("deed", ""), clock.now())
    if deed is None:
        messages.warning(request, "There is nothing to do any more.")
        return
    tasks.sandbox_tick.delay()
    _note(request, f"{deed.label}: done. The site hears of it by webhook.", order=order_id)


def _set_out(request: HttpRequest, by: timedelta) -> None:
    try:
        until = rehearsal.set_out(by)
    except clock.CannotMove:
        messages.error(request, "The clock can’t be moved here: CLOCK_CAN_MOVE is off.")
    except ValueError:
        messages.error(request, "A year at a time is the most.")
    else:
        tasks.sandbox_travel.delay()
        _note(request, f"On the way to {until:%-d %B %Y, %H:%M} UTC.")


def _note(request: HttpRequest, sentence: str, **which: str) -> None:
    log.info("sandbox.control", staff=str(request.user), did=sentence, **which)
    messages.success(request, sentence)


def _shown(request: HttpRequest, form: FaultsForm) -> HttpResponse:
    orders = list(controls.customers()[: CUSTOMERS_SHOWN + 1])
    accounts = _accounts(orders)
    context = {
        **site.each_context(request),
        **_time(),
        "title": "Sandbox",
        "strides": [(name, label) for name, (label, _) in STRIDES.items()],
        "can_move": settings.CLOCK_CAN_MOVE,
        "rows": [_row(order, accounts) for order in orders[:CUSTOMERS_SHOWN]],
        "has_more": len(orders) > CUSTOMERS_SHOWN,
        "form": form,
    }
    return TemplateResponse(request, "admin/sandbox.html", context)


def _time() -> dict[str, Any]:
    under_way = rehearsal.under_way()
    return {
        "at": clock.now(),
        "journey": under_way,
        "percent": round(100 * under_way.share) if under_way else 100,
        "waiting": rehearsal.waiting(),
        "journey_url": reverse("admin:sandbox_journey"),
    }


def _accounts(orders: list[SandboxOrder]) -> dict[str, Account]:
    """By the order's reference, which is our checkout's id."""
    references = [order.reference for order in orders if _is_uuid(order.reference)]
    checkouts = Checkout.objects.filter(pk__in=references).select_related("account")
    return {str(row.pk): row.account for row in checkouts}


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _row(order: SandboxOrder, accounts: dict[str, Account]) -> Row:
    return Row(
        order,
        accounts.get(order.reference),
        money.text(order.amount_minor, order.currency),
        [deed for deed in controls.DEEDS if deed.offered(order)],
    )
