"""The credits page: what is left of each grant, what became of the others, what can be bought.

Prices, purchases and grants are billing's; this module shows and asks first. As with plans, the
return from the provider proves nothing: its page waits for the top-up's own state.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from billing import allowances, auto_top_ups, credit_history, money, terms, topups
from billing.models import AutoTopUp, CreditPack, TopUp
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


class AutoForm(forms.Form):
    """When which pack is bought by itself. A choice names the price that it was shown with."""

    below = forms.IntegerField(
        label="When fewer are left than", min_value=1, max_value=MAX_CREDITS, initial=100
    )
    most_per_month = forms.IntegerField(
        label="At most, times a month", min_value=1, max_value=100, initial=5
    )

    def __init__(self, packs: Sequence[CreditPack], *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._packs = {_choice(pack): pack for pack in packs}
        self.fields["pack"] = forms.ChoiceField(
            label="Buy",
            choices=[(choice, _offer_text(pack)) for choice, pack in self._packs.items()],
            error_messages={"invalid_choice": "The price list has changed: please look again."},
        )

    def clean_pack(self) -> CreditPack:
        return self._packs[self.cleaned_data["pack"]]


def _offer_text(pack: CreditPack) -> str:
    return f"{pack.credits:,} credits for {money.text(pack.price_minor, pack.currency)}"


def _choice(pack: CreditPack) -> str:
    return f"{pack.pk}-{pack.credits}-{pack.price_minor}"


@require_GET
@member()
def credits_page(request: AccountRequest) -> HttpResponse:
    return _page(request, _auto_form(request))


def _auto_form(request: AccountRequest, data: QueryDict | None = None) -> AutoForm | None:
    """None where no provider could charge the account, or the member may not choose."""
    has = terms.standing(request.account.pk, clock.now())
    packs = topups.on_sale(has)
    if not (may(request.membership.role, Capability.BILLING) and packs):
        return None
    if not (auto_top_ups.available(has) and topups.takes_credits(has)):
        return None
    wish = AutoTopUp.objects.filter(account_id=request.account.pk).first()
    if wish is None:
        return AutoForm(packs, data)
    initial = {
        "pack": f"{wish.pack_id}-{wish.credits}-{wish.amount_minor}",
        "below": wish.below,
        "most_per_month": wish.most_per_month,
    }
    return AutoForm(packs, data, initial=initial)


def _page(request: AccountRequest, auto_form: AutoForm | None) -> HttpResponse:
    now = clock.now()
    account = request.account
    has = terms.standing(account.pk, now)
    holdings = allowances.holdings(account.pk, now)
    drawn = usage.credits_by_day(account.pk, DAYS_READ)
    wish = AutoTopUp.objects.filter(account_id=account.pk).first()
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
                *(notices.of_credits(holdings, now) if takes_credits else ()),
            ],
            "pending": account.top_ups.filter(state=TopUp.State.OPEN, payment_pending=True).first(),
            "may_buy": may(request.membership.role, Capability.BILLING),
            "auto_form": auto_form,
            "auto": wish,
            "may_resume": wish is not None and wish.paused_because != auto_top_ups.PACK_CHANGED,
            "auto_available": auto_top_ups.available(has),
            "bought_this_month": auto_top_ups.bought_this_month(account.pk, now),
        },
        status=422 if auto_form is not None and auto_form.errors else 200,
    )


@require_POST
@member(Capability.BILLING)
def credits_auto(request: AccountRequest) -> HttpResponse:
    """Has credits bought by themselves from now on, or changes when; a pause ends with it."""
    form = _auto_form(request, request.POST)
    if form is None:
        messages.info(request, "Credits come by themselves with a paid plan that takes them.")
        return redirect("credits")
    if not form.is_valid():
        return _page(request, form)
    pack = form.cleaned_data["pack"]
    try:
        auto_top_ups.switch_on(
            request.account,
            pack,
            pack.credits,
            seen_minor=pack.price_minor,
            below=form.cleaned_data["below"],
            most_per_month=form.cleaned_data["most_per_month"],
            by=request.user,
            now=clock.now(),
        )
    except (auto_top_ups.NotPaidHere, topups.NothingTakesCredits, topups.NotForSale):
        messages.error(request, CHANGED)
    else:
        messages.success(request, "Credits are bought by themselves from now on.")
    return redirect("credits")


@require_POST
@member(Capability.BILLING)
def credits_auto_resume(request: AccountRequest) -> HttpResponse:
    """Goes on after a failed charge, at the price that was agreed."""
    auto_top_ups.resume(request.account)
    messages.success(request, "Credits are bought by themselves again.")
    return redirect("credits")


@require_POST
@member(Capability.BILLING)
def credits_auto_off(request: AccountRequest) -> HttpResponse:
    auto_top_ups.switch_off(request.account)
    messages.success(request, "No more credits are bought by themselves.")
    return redirect("credits")


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
