"""Where leaked keys are reported: GitHub's secret scanning, and a page for everybody.

What is done with a key or token is `keys.leaks`'. Neither answer nor log has one in it.
"""

import json
from typing import Any

import structlog
from django import forms
from django.contrib import messages
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from keys import clock, leaks
from keys.models import LeakPolicy
from portal import github
from portal.access import AccountRequest, member
from portal.ratelimits import by_address, by_user, limited
from portal.roles import Capability

log = structlog.get_logger(__name__)

MOST_IN_A_REPORT = 1000
MOST_CHARACTERS = 20_000


class Report(forms.Form):
    found = forms.CharField(
        max_length=MOST_CHARACTERS,
        label="The key or token, or the lines it stands in",
        widget=forms.Textarea(attrs={"rows": 5, "spellcheck": "false", "autocomplete": "off"}),
    )
    url = forms.URLField(
        required=False,
        max_length=500,
        assume_scheme="https",
        label="Where you found it",
        widget=forms.URLInput(attrs={"autocomplete": "off"}),
    )


class Policy(forms.Form):
    on_leak = forms.ChoiceField(choices=LeakPolicy.Act.choices, widget=forms.RadioSelect)


@csrf_exempt
@require_POST
def github_report(request: HttpRequest) -> JsonResponse:
    """GitHub's secret scanning partner protocol: found tokens in, a label for each out.

    400 for what is no report, 403 without GitHub's signature, 503 while its public keys can't
    be had: GitHub sends again.
    """
    try:
        body = request.body
    except RequestDataTooBig:
        return _refused(400, "The report is too large.")
    try:
        is_github = github.is_signed(
            body,
            key_id=request.headers.get("Github-Public-Key-Identifier", ""),
            signature=request.headers.get("Github-Public-Key-Signature", ""),
        )
    except github.KeysUnavailable as error:
        log.warning("leaks.github_keys_unavailable", reason=str(error))
        return _refused(503, "GitHub's public keys can't be fetched at the moment.")
    if not is_github:
        return _refused(403, "This is not signed by GitHub.")
    try:
        found = _tokens(json.loads(body))
    except (ValueError, RecursionError):
        return _refused(400, "The report is not a list of found tokens.")
    now = clock.now()
    labels = []
    for entry in found:
        find = leaks.Find(f"GitHub {entry['source']}", entry["url"])
        is_ours = leaks.treat(entry["token"], find, now)
        labels.append(
            {
                # GitHub's own words back to GitHub, which tells reports apart by them.
                "token_raw": entry["token"],
                "token_type": entry["type"],
                "label": "true_positive" if is_ours else "false_positive",
            }
        )
    log.info("leaks.github_report", found=len(labels))
    return JsonResponse(labels, safe=False)


@require_http_methods(["GET", "POST"])
@limited("leak report", (by_address, "30/h"))
def report(request: HttpRequest) -> HttpResponse:
    """Thanks everybody alike, whether the key or token exists or not.

    An accepted risk: a key that exists takes longer to treat. Who reports one holds it, and
    could ask the gateway just as well.
    """
    form = Report(request.POST or None)
    if form.is_valid():
        find = leaks.Find("reported on our page", form.cleaned_data["url"])
        now = clock.now()
        for text in leaks.secrets_in(form.cleaned_data["found"]):
            leaks.treat(text, find, now)
        return redirect("leak_reported")
    return render(request, "leaks/report.html", {"form": form}, status=422 if form.errors else 200)


@require_GET
def reported(request: HttpRequest) -> HttpResponse:
    return render(request, "leaks/reported.html")


@require_POST
@limited("keys", (by_user, "120/h"))
@member(Capability.KEYS)
def choose_policy(request: AccountRequest) -> HttpResponse:
    """What is to be done with keys of this account that leak."""
    form = Policy(request.POST)
    if form.is_valid():
        leaks.choose(request.account.pk, LeakPolicy.Act(form.cleaned_data["on_leak"]))
        messages.success(request, "Saved: this is done with a key that leaks from now on.")
    return redirect("keys")


def _tokens(report: Any) -> list[dict[str, str]]:
    """The report's entries, as text. Raises `ValueError`."""
    if not isinstance(report, list) or len(report) > MOST_IN_A_REPORT:
        raise ValueError("not a list, or too long")
    entries = []
    for entry in report:
        if not isinstance(entry, dict) or not isinstance(entry.get("token"), str):
            raise ValueError("an entry without a token")
        known = {name: entry.get(name, "") for name in ("token", "type", "url", "source")}
        entries.append({name: v if isinstance(v, str) else "" for name, v in known.items()})
    return entries


def _refused(status: int, detail: str) -> JsonResponse:
    return JsonResponse({"status": status, "detail": detail}, status=status)
