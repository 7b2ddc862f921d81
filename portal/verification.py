"""Proves that a user reads the mail of their address: a code of six digits, sent on request.

A request for a code is a row; the code itself is drawn when its mail is composed
(`portal.announcements`) and exists only there: the row keeps its keyed digest, for 15 minutes
and five tries. What was proved is kept in allauth's EmailAddress.
"""

import secrets
from datetime import datetime, timedelta
from enum import Enum
from urllib.parse import urlencode

from allauth.account.models import EmailAddress
from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render, resolve_url
from django.utils.crypto import constant_time_compare, salted_hmac
from django.utils.http import url_has_allowed_host_and_scheme

from keys import clock
from portal.models import AddressCode, User
from portal.ratelimits import by_user, limited

LIFETIME = timedelta(minutes=15)
MAX_TRIES = 5
PAUSE = timedelta(seconds=60)  # between two codes


class Answer(Enum):
    """What became of a code that was typed in."""

    VERIFIED = "verified"
    WRONG = "wrong"
    SPENT = "spent"  # too old, tried too often, or none was sent


def is_verified(user: User) -> bool:
    proved = EmailAddress.objects.filter(user=user, email__iexact=user.email, verified=True)
    return bool(proved.exists())


@transaction.atomic
def ask(user: User, *, now: datetime) -> bool:
    """Asks for a new code, which voids an older one; False within a minute of the last."""
    request, is_new = AddressCode.objects.select_for_update().get_or_create(
        user=user, defaults={"email": user.email, "requested_at": now}
    )
    if is_new:
        return True
    if now < request.requested_at + PAUSE:
        return False
    request.email = user.email
    request.requested_at = now
    request.digest, request.attempts = "", 0
    request.expires_at = request.sent_at = None
    request.save(
        update_fields=["email", "requested_at", "digest", "attempts", "expires_at", "sent_at"]
    )
    return True


def draw(request: AddressCode, *, now: datetime) -> str:
    """Draws the code that a request asks for. It is nowhere but in what this returns."""
    code = f"{secrets.randbelow(10**6):06}"
    request.digest = _digest(request, code)
    request.expires_at = now + LIFETIME
    request.save(update_fields=["digest", "expires_at"])
    return code


@transaction.atomic
def confirm(user: User, code: str, *, now: datetime) -> Answer:
    """Checks a code that the user typed in; the right one verifies their address."""
    request = AddressCode.objects.select_for_update().filter(user=user, email=user.email).first()
    if request is None or request.expires_at is None or request.expires_at <= now:
        return Answer.SPENT
    if request.attempts >= MAX_TRIES:
        return Answer.SPENT
    if not constant_time_compare(request.digest, _digest(request, code)):
        request.attempts += 1
        request.save(update_fields=["attempts"])
        return Answer.WRONG if request.attempts < MAX_TRIES else Answer.SPENT
    EmailAddress.objects.update_or_create(
        user=user, email=user.email.lower(), defaults={"verified": True, "primary": True}
    )
    request.delete()
    return Answer.VERIFIED


def _digest(request: AddressCode, code: str) -> str:
    return salted_hmac(
        "portal.verification", f"{request.user_id}:{request.email}:{code}", algorithm="sha256"
    ).hexdigest()


class CodeForm(forms.Form):
    code = forms.CharField(
        label="Code",
        max_length=12,
        widget=forms.TextInput(
            attrs={"inputmode": "numeric", "autocomplete": "one-time-code", "autofocus": True}
        ),
    )

    def clean_code(self) -> str:
        """The six digits, however they were grouped."""
        digits = "".join(self.cleaned_data["code"].split())
        if not (len(digits) == 6 and digits.isascii() and digits.isdigit()):
            raise forms.ValidationError("The code has six digits.")
        return digits


@login_required
@limited("address code", (by_user, "30/h"))
def verify(request: HttpRequest) -> HttpResponse:
    """The page that asks for the code; `next` says where to go on."""
    user: User = request.user  # type: ignore[assignment]  # login_required
    onward = _onward(request)
    if is_verified(user):
        return redirect(onward)
    form = CodeForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        answer = confirm(user, form.cleaned_data["code"], now=clock.now())
        if answer is Answer.VERIFIED:
            messages.success(request, f"{user.email} is verified.")
            return redirect(onward)
        form.add_error(
            "code",
            "This is not the code of the latest mail. Try again."
            if answer is Answer.WRONG
            else "This code is no longer valid. Send yourself a new one.",
        )
    asked = AddressCode.objects.filter(user=user, email=user.email).first()
    context = {"form": form, "next": onward, "asked": asked}
    return render(request, "account/verify.html", context)


@login_required
@limited("address code sent", (by_user, "6/h"))
def send_code(request: HttpRequest) -> HttpResponse:
    """Asks for another code and returns to the form."""
    user: User = request.user  # type: ignore[assignment]  # login_required
    if request.method == "POST" and not is_verified(user):
        if ask(user, now=clock.now()):
            messages.success(request, f"A new code is on its way to {user.email}.")
        else:
            messages.warning(request, "A code was sent less than a minute ago. Wait for it first.")
    return redirect(f"{resolve_url('address_verify')}?{urlencode({'next': _onward(request)})}")


def _onward(request: HttpRequest) -> str:
    wanted = request.POST.get("next") or request.GET.get("next") or ""
    safe = url_has_allowed_host_and_scheme(
        wanted, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return wanted if safe else resolve_url("overview")
