"""The billing page: plan, period, what is included and used, the coming bill, the end.

Every change is billing's own function, asked for by a member who may; this module shows and
asks first. Invoices have pages of their own (`invoice_pages`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any

import structlog
from django import forms
from django.conf import settings
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from billing import (
    allowances,
    catalogue,
    charges,
    contents,
    estimates,
    money,
    price_changes,
    provider_moves,
    rating,
    subscriptions,
    terms,
    topups,
    wishes,
)
from billing.models import Checkout, PastIncluded, SpendCap, Subscription
from billing.models.allowances import MAX_CAP_MINOR
from billing.providers import ProviderUnavailable
from gateway import usage
from keys import clock, issuance
from keys.models import ApiKey, Entitlement
from portal import notices, quotas
from portal.access import AccountRequest, entitlement_of, member
from portal.roles import Capability, may

log = structlog.get_logger(__name__)

NOT_NOW = (
    "The payment provider does not answer at the moment, so nothing was changed. "
    "Please try again in a minute."
)
DISAGREES = (
    "The payment provider’s answer does not fit what is known here, so this page is unchanged. "
    "A member of our staff must look into it: please write to us."
)


@contextmanager
def trouble_told(request: AccountRequest) -> Iterator[None]:
    """Around what asks the payment provider: its trouble becomes a message to the member."""
    try:
        yield
    except ProviderUnavailable:
        messages.error(request, NOT_NOW)
    except subscriptions.IllegalMove:
        log.exception("billing.disagrees", account=str(request.account.pk))
        messages.error(request, DISAGREES)


class Cancel(forms.Form):
    when = forms.ChoiceField(
        label="When",
        widget=forms.RadioSelect,
        initial="period_end",
        choices=[
            ("period_end", "When the period ends: until then everything works"),
            ("now", "Now: every key is refused from the next call on, nothing is refunded"),
        ],
    )


class SpendCapForm(forms.Form):
    """An amount in major units of the price's currency; empty takes the cap away."""

    amount = forms.DecimalField(required=False, min_value=0, label="At most, per period")

    def __init__(self, price: rating.Price, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._currency = currency = price.currency
        self.counts_dearest = any(meter.special for meter in price.meters)
        self.fields["amount"].help_text = f"In {currency}; empty: no cap."

    def clean_amount(self) -> int | None:
        """Minor units, or None for no cap."""
        amount: Decimal | None = self.cleaned_data["amount"]
        if amount is None:
            return None
        if amount > money.to_major(MAX_CAP_MINOR, self._currency):
            raise ValidationError("That is more than a cap can be.")
        cap_minor = money.to_minor(amount, self._currency)
        if money.to_major(cap_minor, self._currency) != amount:
            places = money.exponent(self._currency)
            raise ValidationError(f"{self._currency} has {places} decimal places.")
        return cap_minor


@require_GET
@member()
def billing(request: AccountRequest) -> HttpResponse:
    now = clock.now()
    account = request.account
    entitlement = entitlement_of(account)
    has = terms.standing(account.pk, now)
    return _page(request, entitlement, has, _cap_form(request, has), now)


def _cap_form(
    request: AccountRequest, has: terms.Standing, data: QueryDict | None = None
) -> SpendCapForm | None:
    """None where nothing can be billed, or the member may not choose."""
    priced = has.price
    if priced is None or not may(request.membership.role, Capability.BILLING):
        return None
    if not any(meter.tiers for meter in priced.meters):
        return None
    cap = SpendCap.objects.filter(account_id=request.account.pk).first()
    set_now = money.to_major(cap.cap_minor, priced.currency) if cap else None
    return SpendCapForm(priced, data, initial={"amount": set_now})


def _page(
    request: AccountRequest,
    entitlement: Entitlement | None,
    has: terms.Standing,
    cap_form: SpendCapForm | None,
    now: datetime,
) -> HttpResponse:
    account = request.account
    version = has.subscription.version if has.subscription and not has.contract else None
    period = quotas.period_of(entitlement, now)
    used = usage.of_period(account.pk, *period) if period else None
    priced = usage.priced_units(account.pk, *period) if period else []
    return render(
        request,
        "purchase/billing.html",
        {
            "nav": "billing",
            "entitlement": entitlement,
            "contract": has.contract,
            "subscription": has.subscription,
            "is_new_price": has.subscription is not None and wishes.is_new_price(has.subscription),
            "version": version,
            "promises": catalogue.promises(version),
            "add_ons": contents.alive(has.subscription).select_related("add_on")
            if version and has.subscription
            else [],
            "moves_to": _moves_to(has.subscription),
            "may_choose_overage": version is not None
            and version.meters.filter(past_included=PastIncluded.BILL).exists(),
            "quotas": quotas.of_period(entitlement, period, used.billable_units, now)
            if entitlement and period and used
            else [],
            "bill": estimates.coming_bill(has, priced, now),
            "notices": notices.of_account(
                entitlement,
                has.subscription,
                now,
                owed_since=charges.owed_since(account.pk),
            )
            + notices.of_price_change(price_changes.of_account(account.pk)),
            "pending": account.checkouts.filter(
                state=Checkout.State.OPEN, payment_pending=True
            ).first(),
            "may_buy": may(request.membership.role, Capability.BILLING),
            "cap_form": cap_form,
            "credits_left": allowances.balance(account.pk, now),
            "takes_credits": topups.takes_credits(has),
        },
        status=422 if cap_form and cap_form.errors else 200,
    )


def _moves_to(subscription: Subscription | None) -> str:
    """The provider that the seller uses now, where the subscription's is another."""
    if subscription is None or subscription.state != Subscription.State.ACTIVE:
        return ""
    if subscription.cancel_at_period_end or not provider_moves.possible(subscription):
        return ""
    return str(settings.PAYMENT_PROVIDER).capitalize()


@require_POST
@member(Capability.BILLING)
def billing_spend_cap(request: AccountRequest) -> HttpResponse:
    """Sets or takes away the account's own cap on what usage may cost."""
    now = clock.now()
    has = terms.standing(request.account.pk, now)
    form = _cap_form(request, has, request.POST)
    if form is None:
        messages.info(request, "Nothing is billed past what the plan includes: no cap is needed.")
        return redirect("billing")
    if not form.is_valid():
        return _page(request, entitlement_of(request.account), has, form, now)
    cap_minor = form.cleaned_data["amount"]
    allowances.set_cap(request.account, cap_minor, by=request.user, now=now)
    if cap_minor is None:
        messages.success(request, "There is no spend cap any more.")
    else:
        capped = money.text(cap_minor, has.currency)
        messages.success(request, f"Usage of a period costs {capped} at most from now on.")
    return redirect("billing")


@require_http_methods(["GET", "POST"])
@member(Capability.BILLING)
def billing_cancel(request: AccountRequest) -> HttpResponse:
    """Asks when, and says what stops then."""
    subscription = subscriptions.alive(request.account)
    if subscription is None:
        messages.info(request, "There is no plan to cancel.")
        return redirect("billing")
    form = Cancel(request.POST if request.method == "POST" else None)
    if form.is_valid():
        at_period_end = form.cleaned_data["when"] == "period_end"
        name = subscription.version.plan.name
        if at_period_end:
            ended = f"{name} is cancelled for the end of its period."
        else:
            ended = f"{name} has ended."
        try:
            with trouble_told(request):
                subscriptions.cancel(request.account, at_period_end=at_period_end, now=clock.now())
                messages.success(request, ended)
        except subscriptions.NoSubscription:
            messages.info(request, "The plan has ended meanwhile.")
        return redirect("billing")
    keys = issuance.keys_of(request.account)
    return render(
        request,
        "purchase/cancel.html",
        {
            "nav": "billing",
            "form": form,
            "subscription": subscription,
            "keys": keys.filter(state=ApiKey.State.ACTIVE),
        },
        status=422 if form.errors else 200,
    )


@require_POST
@member(Capability.BILLING)
def billing_resume(request: AccountRequest) -> HttpResponse:
    """Takes a planned cancellation back."""
    try:
        with trouble_told(request):
            subscriptions.resume(request.account, clock.now())
            messages.success(request, "The plan goes on; the cancellation is withdrawn.")
    except subscriptions.NoSubscription:
        messages.error(request, "The plan has ended meanwhile. Choose one to go on.")
    return redirect("billing")


@require_POST
@member(Capability.BILLING)
def billing_overage(request: AccountRequest) -> HttpResponse:
    """Chooses what happens past the included units: billed, or refused."""
    overage = request.POST.get("overage", "")
    if overage not in Subscription.Overage.values:
        return redirect("billing")
    try:
        subscriptions.set_overage(request.account, overage, clock.now())
    except subscriptions.NoSubscription:
        messages.error(request, "There is no plan to change.")
    else:
        messages.success(
            request,
            "Units past the included ones are billed."
            if overage == Subscription.Overage.BILL
            else "Calls are refused once the included units are used.",
        )
    return redirect("billing")
