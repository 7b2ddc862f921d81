"""The public pages: landing, prices, the enterprise form, and what machines ask of the site.

Everything shown comes from what is on sale: the listed APIs and the price list.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import urlencode

import structlog
from django import forms
from django.conf import settings
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import redirect, render, resolve_url
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from redis.exceptions import RedisError

from billing import add_ons, catalogue
from billing.models import EnterpriseRequest
from billing.providers import Interval
from gateway.catalogue import on_sale
from gateway.models import Api
from keys import records
from portal import samples
from portal.access import current, memberships_of
from portal.models import Membership
from portal.ratelimits import by_address, limited

log = structlog.get_logger(__name__)

INTERVALS: dict[Interval, str] = {"month": "Monthly", "year": "Yearly"}
Choice = TypeVar("Choice", bound=str)


@require_safe
def landing(request: HttpRequest) -> HttpResponse:
    """What is on sale, a call of it with its answer, and what it costs."""
    api = on_sale().first()
    context = {
        "headline": _headline(api),
        "lead": api.description.partition("\n")[0] if api else "",
        "sample": samples.first_call(api) if api else None,
        "offers": [offer for offer in catalogue.offers() if not offer.is_by_use],
    }
    return render(request, "pages/landing.html", context)


def _headline(api: Api | None) -> str:
    """What the first API is in a few words: its document's summary, else its name."""
    if api is None:
        return str(settings.SITE_NAME)
    summary = (api.document or {}).get("info", {}).get("summary", "")
    return str(summary).rstrip(".") or api.name


@require_safe
def pricing(request: HttpRequest) -> HttpResponse:
    """The price list, as published, in one rhythm and currency; links lead to the others.

    Unless the address says so, an account that has bought something sees its own currency.
    """
    sold = catalogue.sold()
    currencies = sorted({currency for _, currency in sold})
    currency = _chosen(request, "currency", currencies, _own_currency(request))
    intervals = [one for one in INTERVALS if (one, currency) in sold]
    interval: Interval = _chosen(request, "interval", intervals, "month")
    offers = catalogue.offers(interval, currency)
    context = {
        "nav": "pricing",
        "offers": [offer for offer in offers if not offer.is_by_use],
        "by_use": [offer for offer in offers if offer.is_by_use],
        "add_ons": add_ons.offers(interval, currency),
        "interval": interval,
        "intervals": [(one, INTERVALS[one], _query(one, currency)) for one in intervals],
        "currency": currency,
        "currencies": [(one, _query(interval, one)) for one in currencies],
    }
    return render(request, "pages/pricing.html", context)


def _own_currency(request: HttpRequest) -> str:
    membership = _membership(request)
    fixed = catalogue.currency_of(membership.account.pk) if membership else ""
    return fixed or catalogue.own_currency()


def _membership(request: HttpRequest) -> Membership | None:
    """Of a signed-in visitor, in the account that they are looking at."""
    user = request.user
    return current(memberships_of(user), request.session) if user.is_authenticated else None


def _chosen(request: HttpRequest, name: str, given: Sequence[Choice], default: Choice) -> Choice:
    """What the address says, where there is such a thing."""
    asked = request.GET.get(name, "")
    return next((one for one in given if one == asked), default)


def _query(interval: str, currency: str) -> str:
    return urlencode({"interval": interval, "currency": currency})


class EnterpriseForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in stubs only
    class Meta:
        model = EnterpriseRequest
        fields = ["name", "email", "company", "calls_per_month", "message"]
        labels = {
            "email": "Work email",
            "calls_per_month": "Calls a month",
            "message": "What do you need?",
        }
        help_texts = {
            "calls_per_month": "A rough figure is fine.",
            "message": "Limits, service level, invoicing, where your servers are.",
        }
        widgets = {
            "name": forms.TextInput(attrs={"autocomplete": "name"}),
            "email": forms.EmailInput(attrs={"autocomplete": "email"}),
            "company": forms.TextInput(attrs={"autocomplete": "organization"}),
            "calls_per_month": forms.TextInput(attrs={"autocomplete": "off"}),
            "message": forms.Textarea(attrs={"rows": 5}),
        }


@limited("enterprise", (by_address, "10/h"))
def enterprise(request: HttpRequest) -> HttpResponseBase:
    """The form for own terms; what is sent reaches the staff's admin and mailbox."""
    user = request.user
    initial = {"email": user.email, "name": user.name} if user.is_authenticated else {}
    form = EnterpriseForm(request.POST or None, initial=initial)
    if request.method == "POST" and form.is_valid():
        membership = _membership(request)
        form.instance.account = membership.account if membership else None
        wish = form.save()
        log.info("enterprise.requested", request=wish.pk)
        return redirect("enterprise_sent")
    return render(request, "pages/enterprise.html", {"form": form})


@require_safe
def enterprise_sent(request: HttpRequest) -> HttpResponse:
    return render(request, "pages/enterprise_sent.html")


# ------------------------------------------------------------------ for machines
@require_safe
@never_cache
def healthz(_request: HttpRequest) -> HttpResponse:
    """Alive: the process answers. Asks nothing of Postgres or Redis."""
    return HttpResponse("ok\n", content_type="text/plain")


@require_safe
@never_cache
def readyz(_request: HttpRequest) -> JsonResponse:
    """Ready: Postgres and Redis answer; 503 with what doesn't."""
    checks: dict[str, str] = {}
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        checks["postgres"] = "ok"
    except DatabaseError:
        log.exception("readyz.postgres")
        checks["postgres"] = "unavailable"
    try:
        records.connection().ping()
        checks["redis"] = "ok"
    except RedisError:
        log.exception("readyz.redis")
        checks["redis"] = "unavailable"
    ready = all(state == "ok" for state in checks.values())
    return JsonResponse({"ready": ready, **checks}, status=200 if ready else 503)


@require_safe
def security_txt(_request: HttpRequest) -> HttpResponse:
    """Where to report a weakness (RFC 9116)."""
    expires = timezone.now().replace(microsecond=0) + timedelta(days=180)
    lines = [
        f"Contact: mailto:{settings.STAFF_EMAIL}" if settings.STAFF_EMAIL else
        f"Contact: {settings.SITE_URL}{resolve_url('enterprise')}",
        f"Expires: {expires.isoformat()}",
        f"Canonical: {settings.SITE_URL}{resolve_url('security_txt')}",
        "Preferred-Languages: en",
    ]  # fmt: skip
    return HttpResponse("\n".join(lines) + "\n", content_type="text/plain; charset=utf-8")


@require_safe
def robots_txt(_request: HttpRequest) -> HttpResponse:
    """Crawlers may read what is public; rooms behind a login are of no use to them."""
    private = ("/admin/", "/dashboard/", "/buy/", "/checkout/", "/claim/", "/verify/", "/gateway/")
    lines = ["User-agent: *", *(f"Disallow: {path}" for path in private)]
    return HttpResponse("\n".join(lines) + "\n", content_type="text/plain")


@require_safe
def llms_txt(request: HttpRequest) -> HttpResponse:
    """The site in brief for language models (llmstxt.org), in Markdown."""
    context: dict[str, Any] = {
        "apis": [(api, samples.first_call(api)) for api in on_sale()],
        "offers": catalogue.offers(),
    }
    return render(request, "pages/llms.txt", context, content_type="text/plain; charset=utf-8")
