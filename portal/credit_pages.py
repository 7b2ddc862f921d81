"""The credits page: what is left of each grant, what became of the others, what can be bought.

Prices, purchases and grants are billing's; this module shows and asks first. As with plans, the
return from the provider proves nothing: its page waits for the top-up's own state.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any
from uuid import UUID

from django import forms
from django.core.paginator import Paginator
from django.http import HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods

from billing import allowances, credit_history, terms, topups
from billing.models import CreditPack, TopUp
from billing.models.allowances import MAX_CREDITS
from billing.providers import ProviderUnavailable
from gateway import usage
from keys import clock
from portal import notices
from portal.access import AccountRequest, entitlement_of, member
from portal.ratelimits import by_user, limited
from portal.roles import Capability, may

TURNS_SHOWN = 50
# Of the days on which credits were drawn, so many are read: two years of every day.
DAYS_READ = 731
CHANGED = "The price list has changed meanwhile. Nothing was bought; please look again."
NOT_NOW = (
    "The payment provider does not answer at the moment. Nothing was charged; please try again "
    "in a minute."
)


class Stage(StrEnum):
    """How far a top-up is, as its page tells it."""

    WAITING = "waiting"
    RETRY = "retry"
    PENDING = "pending"
    FAILED = "failed"
    EXPIRED = "expired"
    PAID = "paid"


STAGES = {
    TopUp.State.FAILED: Stage.FAILED,
    TopUp.State.EXPIRED: Stage.EXPIRED,
    TopUp.State.COMPLETED: Stage.PAID,
}


class AmountForm(forms.Form):
    """How many credits of a pack."""

    def __init__(self, pack: CreditPack, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        most = MAX_CREDITS if pack.any_amount else pack.credits
        self.fields["credits"] = forms.IntegerField(
            label="How many", min_value=pack.credits, max_value=most, initial=pack.credits
        )


@require_GET
@member()
def credits_page(request: AccountRequest) -> HttpResponse:
    now = clock.now()
    account = request.account
    has = terms.standing(account.pk, now)
    holdings = allowances.holdings(account.pk, now)
    drawn = usage.credits_by_day(account.pk, DAYS_READ)
    takes_credits = topups.takes_credits(has)
    left = sum(held.left for held in holdings)
    page = Paginator(credit_history.turns(holdings, drawn, now), TURNS_SHOWN)
    return render(
        request,
        "credits/page.html",
        {
            "nav": "billing",
            "has_plan": bool(has.contract or has.subscription),
            "takes_credits": takes_credits,
            "left": left,
            "grants": [held for held in holdings if held.left],
            "page": page.get_page(request.GET.get("page")),
            "packs": topups.on_sale(has) if takes_credits else [],
            "notices": [
                *notices.of_account(entitlement_of(account), has.subscription, now),
                *notices.of_credits(left, takes_credits=takes_credits),
            ],
            "pending": account.top_ups.filter(state=TopUp.State.OPEN, payment_pending=True).first(),
            "may_buy": may(request.membership.role, Capability.BILLING),
        },
    )


@require_http_methods(["GET", "POST"])
@limited("checkout", (by_user, "30/h"))
@member(Capability.BILLING)
def credits_buy(request: AccountRequest, pack_id: int) -> HttpResponse:
    """Says what so many cost; a POST leads to the provider's page, if they still cost that."""
    has = terms.standing(request.account.pk, clock.now())
    pack = get_object_or_404(CreditPack, pk=pack_id, listed=True, currency=has.currency)
    if not topups.takes_credits(has):
        return redirect("credits")
    if request.method == "POST":
        return _buy(request, pack)
    form = AmountForm(pack, request.GET or None)
    return _offer(request, pack, form)


def _offer(
    request: AccountRequest,
    pack: CreditPack,
    form: AmountForm,
    *,
    trouble: str = "",
    status: int = 0,
) -> HttpResponse:
    amount = form.cleaned_data["credits"] if form.is_valid() else None
    price_minor = None
    if amount is not None:
        try:
            price_minor = topups.price_minor(pack, amount)
        except topups.NotForSale:
            form.add_error("credits", "That is more than can be paid for at once.")
    return render(
        request,
        "credits/buy.html",
        {
            "nav": "billing",
            "pack": pack,
            "form": form,
            "amount": amount,
            "price_minor": price_minor,
            "trouble": trouble,
        },
        status=status or (422 if form.errors else 200),
    )


def _buy(request: AccountRequest, pack: CreditPack) -> HttpResponse:
    form = AmountForm(pack, request.POST)
    seen = request.POST.get("price_minor", "")
    if not form.is_valid() or not (seen.isascii() and seen.isdecimal()):
        return _offer(request, pack, form, status=422)
    try:
        row = topups.start(
            request.account,
            pack,
            form.cleaned_data["credits"],
            seen_minor=int(seen[:20]),
            user=request.user,
            now=clock.now(),
        )
    except topups.NotForSale:
        return _offer(request, pack, form, trouble=CHANGED, status=409)
    except topups.NothingTakesCredits:
        return redirect("credits")
    except ProviderUnavailable:
        return _offer(request, pack, form, trouble=NOT_NOW, status=503)
    return HttpResponseRedirect(row.url, status=303)


@require_GET
@member()
def top_up_page(request: AccountRequest, top_up_id: UUID) -> HttpResponse:
    """Where the provider sends the buyer back to; polls until the money's fate is known."""
    row = get_object_or_404(request.account.top_ups, pk=top_up_id)
    stage = stage_of(row)
    if request.htmx and request.GET.get("seen") == stage:
        return HttpResponse(status=204)
    left = allowances.balance(request.account.pk, clock.now())
    return render(
        request,
        "credits/_progress.html" if request.htmx else "credits/top_up.html",
        {
            "nav": "billing",
            "top_up": row,
            "stage": stage,
            "left": left,
            "poll_every": {Stage.WAITING: "1s", Stage.RETRY: "1s", Stage.PENDING: "5s"}.get(stage),
        },
    )


def stage_of(row: TopUp) -> Stage:
    """What the buyer is told; “paid” means that the credits are there."""
    if row.state == TopUp.State.OPEN:
        if row.payment_pending:
            return Stage.PENDING
        return Stage.RETRY if row.error else Stage.WAITING
    return STAGES[TopUp.State(row.state)]
