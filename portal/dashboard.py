"""The overview: what an account used, what is left, what it will cost; live.

Prepares pages from `gateway.usage`, `keys` and `billing`; counts, rates and prices nothing.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from django.http import HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.urls import reverse
from django.views.decorators.http import require_GET
from django_htmx.http import HttpResponseClientRefresh

from billing import allowances, catalogue, charges, estimates, terms
from billing.models import Checkout
from gateway import usage
from gateway.models import CALLS, Meter
from keys import clock, issuance
from keys.models import ApiKey, Entitlement
from portal import charts, live, notices, quotas, samples
from portal.access import AccountRequest, entitlement_of, member
from portal.models import Account
from portal.roles import Capability, may

RECENT_CALLS = 10
OPERATIONS = 10


class Situation(StrEnum):
    """Where a customer stands on the way from sign-up to the first call."""

    NO_PLAN = "no_plan"
    UNCLAIMED = "unclaimed"
    NO_KEY = "no_key"
    NO_CALLS = "no_calls"
    RUNNING = "running"


@dataclass(frozen=True)
class Span:
    """A choice of time for the chart: `columns` steps up to the current one."""

    slug: str
    label: str
    title: str
    step: Literal["hour", "day"]
    step_length: timedelta
    columns: int
    moment_format: str
    label_format: str

    def start(self, now: datetime) -> datetime:
        current = now.replace(minute=0, second=0, microsecond=0)
        if self.step == "day":
            current = current.replace(hour=0)
        return current - (self.columns - 1) * self.step_length


HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SPANS = {
    span.slug: span
    for span in (
        Span("24h", "24 h", "Calls per hour", "hour", HOUR, 24, "j F, H:i", "H:i"),
        Span("7d", "7 d", "Calls per day", "day", DAY, 7, "l, j F", "D j"),
        Span("30d", "30 d", "Calls per day", "day", DAY, 30, "l, j F", "j M"),
    )
}
DEFAULT_SPAN = "30d"


@require_GET
@member()
def overview(request: AccountRequest) -> HttpResponse:
    situation = situation_of(request.account)
    context = {
        "nav": "overview",
        "may_manage": may(request.membership.role, Capability.KEYS),
        "may_buy": may(request.membership.role, Capability.BILLING),
    }
    if situation is Situation.RUNNING:
        span = _span(request)
        parts = _parts(request.account, span, clock.now())
        context |= {"span": span, "spans": SPANS.values()}
        context |= live.context(parts, _poll_url(span))
        return render(request, "dashboard/overview.html", context)
    context |= {"situation": situation, **_next_step(request.account, situation)}
    return render(request, f"dashboard/{situation}.html", context)


@require_GET
@member()
def live_overview(request: AccountRequest) -> HttpResponse:
    """What changed since the page's last look; 204 if nothing did.

    A page that waits for the next step names its `situation`, and reloads when it is over.
    """
    awaited = request.GET.get("situation")
    if awaited is not None:
        over = situation_of(request.account) != awaited
        return HttpResponseClientRefresh() if over else HttpResponse(status=204)
    span = _span(request)
    return live.answer(request, _parts(request.account, span, clock.now()), _poll_url(span))


def situation_of(account: Account) -> Situation:
    """What the account's next step is; an account that has called is running, come what may."""
    if usage.recent(account.pk, 1):
        return Situation.RUNNING
    entitlement = entitlement_of(account)
    if entitlement is None or entitlement.state == Entitlement.State.ENDED:
        return Situation.NO_PLAN
    states = set(issuance.keys_of(account).values_list("state", flat=True))
    if ApiKey.State.ACTIVE in states:
        return Situation.NO_CALLS
    return Situation.UNCLAIMED if ApiKey.State.UNCLAIMED in states else Situation.NO_KEY


def _next_step(account: Account, situation: Situation) -> dict[str, Any]:
    """What the page of a situation before the first call needs."""
    if situation is Situation.NO_PLAN:
        return {
            "offers": catalogue.offers(),
            "pending": account.checkouts.filter(
                state=Checkout.State.OPEN, payment_pending=True
            ).first(),
        }
    if situation is Situation.UNCLAIMED:
        return {"key": account.keys.filter(state=ApiKey.State.UNCLAIMED).first()}
    if situation is Situation.NO_CALLS:
        active = issuance.keys_of(account).filter(state=ApiKey.State.ACTIVE)
        return {"key": active.first(), "curl": samples.curl()}
    return {}


def _span(request: AccountRequest) -> Span:
    return SPANS.get(request.GET.get("range", ""), SPANS[DEFAULT_SPAN])


def _poll_url(span: Span) -> str:
    return f"{reverse('live_overview')}?range={span.slug}&"


def _parts(account: Account, span: Span, now: datetime) -> list[live.Part]:
    """Everything on the running overview that may change while it is looked at."""
    entitlement = entitlement_of(account)
    period = quotas.period_of(entitlement, now)
    used = usage.of_period(account.pk, *period) if period else None
    priced = usage.priced_units(account.pk, *period) if period else []
    found = (
        quotas.of_period(entitlement, period, used.billable_units, now)
        if entitlement and period and used
        else []
    )
    points = usage.series(account.pk, span.start(now), now, span.step)
    columns = [charts.Column(point.start, point.calls, point.errors) for point in points]
    chart = charts.draw(columns, moment_format=span.moment_format, label_format=span.label_format)
    has = terms.standing(account.pk, now)
    took = usage.latencies(account.pk, period[0], now) if period else None
    operations = usage.by_operation(account.pk, period[0], now) if period else []
    contexts: dict[str, dict[str, Any]] = {
        "period": {"period": period},
        "notices": {
            "notices": [
                *notices.of_account(
                    entitlement,
                    has.subscription,
                    now,
                    owed_since=charges.owed_since(account.pk),
                ),
                *(
                    notice
                    for quota in found
                    for notice in notices.of_quota(quota, own_terms=has.contract is not None)
                ),
                *(
                    notices.of_credits(allowances.holdings(account.pk, now), now)
                    if any(quota.credits_per_unit for quota in found)
                    else ()
                ),
            ]
        },
        "stats": {
            "quota": found[0] if found else None,
            "used": used,
            "today": usage.today(account.pk, now),
            "error_percent": f"{100 * used.errors / used.calls:.2f}" if used and used.calls else "",
            "took": took and took.overall,
        },
        "chart": {"chart": chart, "title": span.title},
        "figures": {"bars": chart.bars, "span": span},
        "meters": {"meters": _meters(used, found)},
        "operations": {
            "operations": [
                (one, took and took.by_operation.get((one.api, one.operation)))
                for one in operations[:OPERATIONS]
            ]
        },
        "recent": {"calls": usage.recent(account.pk, RECENT_CALLS)},
        "bill": {"bill": estimates.coming_bill(has, priced, now)},
    }
    return [
        live.Part.of(name, render_to_string(f"dashboard/_{name}.html", context))
        for name, context in contexts.items()
    ]


@dataclass(frozen=True)
class MeterUse:
    """Billable units of a meter in the period; no quota where the terms do not name it."""

    label: str
    used: int
    quota: quotas.Quota | None


def _meters(used: usage.PeriodUsage | None, found: list[quotas.Quota]) -> list[MeterUse]:
    """What was used of each meter, `calls` first; nothing where there are only calls."""
    by_meter = {quota.meter: quota for quota in found}
    billable = used.billable_units if used else {}
    names = {*by_meter, *(meter for meter, units in billable.items() if units)}
    if names <= {CALLS}:
        return []
    labels = dict(Meter.objects.values_list("name", "label"))
    return [
        MeterUse(labels.get(name, name), billable.get(name, 0), by_meter.get(name))
        for name in sorted(names, key=lambda name: (name != CALLS, name))
    ]
