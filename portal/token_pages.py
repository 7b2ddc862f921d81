"""The service tokens page: list, create, revoke. Tokens themselves are `keys.service_tokens`'."""

from datetime import datetime
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods

from keys import clock, service_tokens
from keys.issuance import NotEntitled
from keys.models import ServiceToken
from portal import once
from portal.access import AccountRequest, member
from portal.key_forms import LastDay
from portal.ratelimits import by_user, limited
from portal.roles import Capability, may


class NewToken(forms.Form):
    """What a new token is for. `offered`: the scopes to choose from."""

    name = forms.CharField(
        max_length=80, label="Name", help_text="The program that will have it: “Deployment”."
    )
    scopes = forms.MultipleChoiceField(
        label="What it may do",
        widget=forms.CheckboxSelectMultiple,
        error_messages={"required": "Tick at least one."},
    )
    expires_at = LastDay(
        "The token works until this day is over, in UTC. Empty: until it is revoked."
    )

    def __init__(self, offered: tuple[ServiceToken.Scope, ...], *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        scopes: Any = self.fields["scopes"]
        scopes.choices = [(scope.value, scope.label) for scope in offered]

    def clean_expires_at(self) -> datetime | None:
        expires_at: datetime | None = self.cleaned_data["expires_at"]
        if expires_at is not None and expires_at <= clock.now():
            raise forms.ValidationError("This day is over. Choose a later one.")
        return expires_at


@require_GET
@member()
def token_list(request: AccountRequest) -> HttpResponse:
    """The account's tokens, those that ended too, with who made and revoked them."""
    now = clock.now()
    found = request.account.service_tokens.prefetch_related("events__actor")
    context = {
        "nav": "keys",
        "rows": [(token, _condition(token, now)) for token in found],
        "may_manage": may(request.membership.role, Capability.KEYS),
    }
    return render(request, "tokens/list.html", context)


@require_http_methods(["GET", "POST"])
@limited("keys", (by_user, "120/h"))
@member(Capability.KEYS)
def token_create(request: AccountRequest) -> HttpResponse:
    sees_invoices = may(request.membership.role, Capability.BILLING)
    offered = tuple(
        scope
        for scope in service_tokens.ACCOUNT_SCOPES
        if sees_invoices or scope != ServiceToken.Scope.INVOICES_READ
    )
    form = NewToken(offered, request.POST or None)
    if form.is_valid():
        if (refusal := once.refusal(request, "token")) is not None:
            return refusal
        try:
            token, text = service_tokens.create(
                request.account,
                **form.cleaned_data,
                actor=request.user,
                address=request.META["REMOTE_ADDR"],
                now=clock.now(),
            )
        except service_tokens.TokenLimitReached:
            most = service_tokens.MOST_PER_ACCOUNT
            form.add_error(None, f"An account has at most {most} tokens. Revoke one first.")
        except NotEntitled:
            form.add_error(None, "Service tokens come with a plan. Choose one first.")
        else:
            return render(
                request, "tokens/shown.html", {"nav": "keys", "token": token, "text": text}
            )
    return render(
        request,
        "tokens/create.html",
        {"nav": "keys", "form": form, "once": once.draw(request.user, "token")},
        status=422 if form.errors else 200,
    )


@require_http_methods(["GET", "POST"])
@limited("keys", (by_user, "120/h"))
@member(Capability.KEYS)
def token_revoke(request: AccountRequest, token_id: UUID) -> HttpResponse:
    """Asks first; “revoked” is said when the data plane has confirmed it."""
    token = get_object_or_404(request.account.service_tokens, pk=token_id)
    if request.method == "POST":
        revoked = service_tokens.revoke(
            token,
            actor=request.user,
            address=request.META["REMOTE_ADDR"],
            now=clock.now(),
        )
        if revoked.confirmed:
            messages.success(request, f"Revoked: {token.name} is refused from now on.")
        else:
            messages.warning(
                request,
                f"{token.name} is refused by the management API from now on; the gateway has "
                "not confirmed it yet and is told again every few seconds.",
            )
        return redirect("tokens")
    return render(request, "tokens/revoke.html", {"nav": "keys", "token": token})


def _condition(token: ServiceToken, now: datetime) -> str:
    if token.revoked_at is not None:
        return "revoked" if token.is_published else "revoking…"
    return "active" if token.is_alive(now) else "expired"
