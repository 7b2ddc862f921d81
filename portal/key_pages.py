"""The keys pages: list, create, look, change, claim, rotate, revoke.

Keys themselves are `keys.issuance`'s.

A secret leaves in the response to the POST that makes or claims its key, in no other, and
that POST can't be repeated: creating and rotating carry a token that is spent once
(`portal.once`), a claim finds the key claimed.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods

from gateway import usage
from gateway.catalogue import on_sale
from keys import clock, issuance, leaks, restrictions
from keys.models import ApiKey, Entitlement, LeakPolicy
from portal import live, once, samples
from portal.access import AccountRequest, entitlement_of, member
from portal.key_forms import OVERLAPS, CreateKey, KeySettings, RotateKey
from portal.ratelimits import by_user, limited
from portal.roles import REFUSAL, Capability, may

TRAIL_LENGTH = 50
LEAK_IS_NEWS = timedelta(days=14)


@dataclass(frozen=True)
class KeyRow:
    """A key as its row shows it. `ends_in` is empty for one that doesn't end by itself."""

    key: ApiKey
    condition: str  # unclaimed, active, retiring (replaced), leaked, expired, revoking or revoked
    ends_in: str
    is_restricted: bool

    @property
    def needs_rotation(self) -> bool:
        """Whether the key is in use and still under the pepper before the current one."""
        return self.condition in ("active", "leaked") and self.key.has_older_pepper


def rows_of(keys: list[ApiKey], now: datetime) -> list[KeyRow]:
    """One row per key. “Revoked” is said once the gateway has it, “revoking” until then."""
    pks = [key.pk for key in keys]
    successors = ApiKey.objects.filter(replaces__in=pks, origin=ApiKey.Origin.ROTATED)
    replaced = set(successors.values_list("replaces_id", flat=True))
    rows = []
    for key in keys:
        condition, ends_in = str(key.state), ""
        if key.state == ApiKey.State.REVOKED and not key.is_published:
            condition = "revoking"
        elif key.state != ApiKey.State.REVOKED and key.expires_at is not None:
            ends_in = duration_in_words(key.expires_at - now)
            if key.expires_at <= now:
                condition = "expired"
            elif key.pk in replaced:
                condition = "retiring"
        if condition in ("active", "retiring") and key.leaked_at is not None:
            condition = "leaked"
        rows.append(KeyRow(key, condition, ends_in, restrictions.is_restricted(key)))
    return rows


def duration_in_words(duration: timedelta) -> str:
    """`6 d 3 h`, `23 h 41 min`, `12 min`: two units at most, rounded down."""
    minutes = max(int(duration.total_seconds()) // 60, 0)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


@require_GET
@member()
def key_list(request: AccountRequest) -> HttpResponse:
    """All keys, live: those in use, and those that were."""
    now = clock.now()
    rows = rows_of(list(issuance.keys_of(request.account)), now)
    entitlement = entitlement_of(request.account)
    context: dict[str, Any] = {
        "nav": "keys",
        "unclaimed": [row.key for row in rows if row.condition == "unclaimed"],
        "current": [row for row in rows if row.condition in ("active", "retiring", "leaked")],
        "former": [row for row in rows if row.condition in ("expired", "revoking", "revoked")],
        "leaked": [
            row.key for row in rows if row.key.leaked_at and row.key.leaked_at > now - LEAK_IS_NEWS
        ],
        "pepper_ends": settings.KEY_PEPPER_PREVIOUS_ENDS,
        "has_plan": entitlement is not None and entitlement.state == Entitlement.State.ACTIVE,
        "may_manage": may(request.membership.role, Capability.KEYS),
    }
    parts = [
        live.Part.of(name, render_to_string(f"keys/_{name}.html", context))
        for name in ("current", "former")
    ]
    poll_url = f"{reverse('keys')}?"
    if request.htmx:
        return live.answer(request, parts, poll_url)
    context["leak_policies"] = LeakPolicy.Act.choices
    context["leak_policy"] = leaks.policy_of(request.account.pk)
    context["apis"] = apis = list(on_sale())
    if apis and (sample := samples.first_call(apis[0])):
        context |= {"sample": sample, "try_url": reverse("try_it", args=[apis[0].slug])}
    return render(request, "keys/list.html", context | live.context(parts, poll_url))


@require_http_methods(["GET", "POST"])
@limited("keys", (by_user, "120/h"))
@member(Capability.KEYS)
def key_create(request: AccountRequest) -> HttpResponse:
    form = CreateKey(
        request.POST if request.method == "POST" else None,
        entitlement=entitlement_of(request.account),
        # The docs ask for a test key.
        initial={"mode": request.GET.get("mode", ApiKey.Mode.LIVE)},
    )
    if form.is_valid():
        if (refusal := once.refusal(request, "create")) is not None:
            return refusal
        try:
            key, secret = issuance.create(
                request.account,
                name=form.settings["name"],
                mode=form.cleaned_data["mode"],
                actor=request.user,
                address=request.META["REMOTE_ADDR"],
                now=clock.now(),
                settings=form.settings,
            )
        except issuance.KeyLimitReached:
            form.add_error(
                None,
                "Your plan allows no more keys. Revoke one that is not used any more, "
                "or choose a larger plan.",
            )
        except issuance.NotEntitled:
            form.add_error(None, "Keys come with a plan. Choose one first.")
        else:
            return show_secret(request, key, secret)
    return render(
        request,
        "keys/create.html",
        {"nav": "keys", "form": form, "once": once.draw(request.user, "create")},
        status=422 if form.errors else 200,
    )


@require_http_methods(["GET", "POST"])
@limited("keys", (by_user, "120/h"))
@member()
def key_page(request: AccountRequest, key_id: UUID) -> HttpResponse:
    """One key: what it may do, who did what to it; its settings, for those who may change them."""
    now = clock.now()
    may_manage = may(request.membership.role, Capability.KEYS)
    if request.method == "POST" and not may_manage:
        raise PermissionDenied(REFUSAL[Capability.KEYS])
    key = get_object_or_404(
        issuance.keys_of(request.account).select_related("created_by", "replaces"), pk=key_id
    )
    form = KeySettings(
        request.POST if request.method == "POST" else None,
        entitlement=entitlement_of(request.account),
        held=key,
    )
    if form.is_valid():
        _change(request, key, form)
        return redirect("key_page", key.pk)
    (row,) = rows_of([key], now)
    context = {
        "nav": "keys",
        "row": row,
        "pepper_ends": settings.KEY_PEPPER_PREVIOUS_ENDS,
        "key": key,
        "words": restrictions.in_words(key),
        "events": key.events.select_related("actor", "service_token")[:TRAIL_LENGTH],
        "recent": usage.recent(request.account.pk, 5, key_id=key.pk),
        "successors": key.successors.all(),
        "form": form,
        "is_alive": row.condition in ("unclaimed", "active", "retiring", "leaked"),
        "may_be_changed": row.condition in ("unclaimed", "active", "retiring"),
        "may_manage": may_manage,
    }
    return render(request, "keys/page.html", context, status=422 if form.errors else 200)


def _change(request: AccountRequest, key: ApiKey, form: KeySettings) -> None:
    """Stores the form's settings and says how far they have got."""
    try:
        changed = issuance.change(
            key.pk,
            request.account,
            form.settings,
            actor=request.user,
            address=request.META["REMOTE_ADDR"],
            now=clock.now(),
        )
    except issuance.KeyNotActive:
        messages.error(request, f"{key.hint} is not active any more and can’t be changed.")
        return
    if changed.confirmed:
        messages.success(request, "Saved. The gateway has it and applies it to the next call.")
    else:
        messages.warning(
            request,
            "Stored, and on its way: the gateway has not confirmed it yet and may still apply "
            "the old settings. It is told again every few seconds.",
        )


@require_http_methods(["GET", "POST"])
@limited("keys", (by_user, "120/h"))
@member(Capability.KEYS)
def key_claim(request: AccountRequest, key_id: UUID) -> HttpResponse:
    """Shows the secret of a key that was issued and never shown. GET never claims."""
    key = get_object_or_404(issuance.keys_of(request.account), pk=key_id)
    if request.method == "GET":
        return redirect("keys")
    try:
        secret = issuance.claim(
            key.pk,
            request.account,
            actor=request.user,
            address=request.META["REMOTE_ADDR"],
            now=clock.now(),
        )
    except issuance.AlreadyClaimed:
        key.refresh_from_db()
        context = {"nav": "keys", "key": key, "may_manage": True}
        return render(request, "keys/already_claimed.html", context)
    key.refresh_from_db()
    return show_secret(request, key, secret)


@require_http_methods(["GET", "POST"])
@limited("keys", (by_user, "120/h"))
@member(Capability.KEYS)
def key_rotate(request: AccountRequest, key_id: UUID) -> HttpResponse:
    """Makes a successor; the old key lives on for the overlap that the member chose."""
    now = clock.now()
    key = get_object_or_404(issuance.keys_of(request.account), pk=key_id)
    act = f"rotate {key.pk}"
    form = RotateKey(request.POST if request.method == "POST" else None)
    if form.is_valid():
        if (refusal := once.refusal(request, act)) is not None:
            return refusal
        overlap, _ = OVERLAPS[form.cleaned_data["overlap"]]
        try:
            successor, secret = issuance.rotate(
                key.pk,
                request.account,
                overlap=overlap,
                actor=request.user,
                address=request.META["REMOTE_ADDR"],
                now=now,
            )
        except issuance.KeyNotActive:
            messages.error(request, f"{key.hint} is not active any more and can't be rotated.")
            return redirect("keys")
        key.refresh_from_db()
        return show_secret(request, successor, secret, rotated=rows_of([key], now)[0])
    return render(
        request,
        "keys/rotate.html",
        {"nav": "keys", "key": key, "form": form, "once": once.draw(request.user, act)},
        status=422 if form.errors else 200,
    )


@require_http_methods(["GET", "POST"])
@limited("keys", (by_user, "120/h"))
@member(Capability.KEYS)
def key_revoke(request: AccountRequest, key_id: UUID) -> HttpResponse:
    """Asks first, naming what will break; for htmx as a dialog's content."""
    key = get_object_or_404(issuance.keys_of(request.account), pk=key_id)
    if request.method == "POST":
        revoked = issuance.revoke(
            key.pk,
            request.account,
            actor=request.user,
            address=request.META["REMOTE_ADDR"],
            now=clock.now(),
        )
        if revoked.confirmed:
            messages.success(
                request, f"Revoked: {key.name} ({key.hint}) is refused from the next call on."
            )
        else:
            messages.warning(
                request,
                f"{key.name} ({key.hint}) is on its way out, but the gateway has not confirmed "
                "it yet and may still let calls through. It is told again every few seconds; "
                "the list says “revoked” when it is done.",
            )
        return redirect("keys")
    return render(
        request,
        "keys/_revoke.html" if request.htmx else "keys/revoke.html",
        {
            "nav": "keys",
            "key": key,
            "recent": usage.recent(request.account.pk, 3, key_id=key.pk),
        },
    )


def show_secret(
    request: AccountRequest, key: ApiKey, secret: str, *, rotated: KeyRow | None = None
) -> HttpResponse:
    """The one response that carries a secret; `member` has it stored nowhere."""
    return render(
        request,
        "keys/shown.html",
        {
            "nav": "keys",
            "key": key,
            "secret": secret,
            "curl": samples.curl(secret),
            "rotated": rotated,
        },
    )
