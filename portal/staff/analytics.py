"""What the business did in a period: revenue, customers, and what of the APIs is used.

Chooses the period and lays the numbers out beside their definitions. The numbers are
`billing.metrics`' and `gateway.usage`'s; none is worked out here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.contrib.admin import site
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from billing import metrics, money
from billing.metrics import Churn, Revenue
from gateway import usage
from keys import clock
from portal.models import Account

ROWS = 10
NOBODY = Revenue(0, 0)
NOT_CHURNED = Churn(0, 0)

DEFINITIONS = {
    "top": "Admitted live calls in the period, all customers together. Refused and test calls "
    "don’t count.",
    "failing": "Live calls answered with 500 or more, by the backend or by the gateway in its "
    "place, or abandoned; share of the operation’s calls. The most failures come first.",
    "growth": "Live calls in the last 7 days against the 7 days before, whichever period is "
    "chosen above. The largest increase in calls comes first.",
}


@dataclass(frozen=True)
class Period:
    """A half-open stretch of time, UTC, that doesn't reach into the future."""

    slug: str
    label: str
    start: datetime
    end: datetime


@dataclass(frozen=True)
class PlanRow:
    """A plan's line of the revenue table, and the same for all plans together."""

    plan: str
    customers: int
    mrr: str
    arpu: str
    churn: str


def page(request: HttpRequest) -> HttpResponse:
    """The numbers of `?period=`, this month's unless it says otherwise."""
    if not request.user.has_perm("billing.view_subscription"):
        raise PermissionDenied
    now = clock.now()
    periods = choices(now)
    asked = request.GET.get("period")
    period = next((choice for choice in periods if choice.slug == asked), periods[0])
    top = usage.top_operations(period.start, period.end, ROWS)
    context = {
        **site.each_context(request),
        "title": "Analytics",
        "periods": periods,
        "period": period,
        "figures": figures(period),
        "tables": revenue_tables(period),
        "definitions": {**metrics.DEFINITIONS, **DEFINITIONS},
        "top": [(row, _percent(row.calls, top[0].calls)) for row in top],
        "failing": [
            (row, _percent(row.failures, row.calls))
            for row in usage.failing_operations(period.start, period.end, ROWS)
        ],
        "growing": growing(now),
    }
    return TemplateResponse(request, "admin/analytics.html", context)


def choices(now: datetime) -> list[Period]:
    """The periods that can be asked for; the first is the usual one."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    month = midnight.replace(day=1)
    last_month = (month - timedelta(days=1)).replace(day=1)
    return [
        Period("month", "This month", month, now),
        Period("last-month", "Last month", last_month, month),
        Period("30-days", "Last 30 days", now - timedelta(days=30), now),
    ]


def figures(period: Period) -> list[dict[str, Any]]:
    """The headline numbers, one set per currency; churn counts customers, whatever they pay in."""
    after, before = metrics.revenue(period.end), metrics.revenue(period.start)
    lost = metrics.churn(period.start, period.end)
    return [
        _figures(currency, before.get(currency, NOBODY), after.get(currency, NOBODY), lost)
        for currency in sorted({*after, *before}) or ["USD"]
    ]


def _figures(currency: str, before: Revenue, after: Revenue, lost: Churn) -> dict[str, Any]:
    def text(amount_minor: int) -> str:
        return money.text(amount_minor, currency, short=True)

    return {
        "currency": currency,
        "mrr": text(after.mrr_minor),
        "mrr_change": _change(after.mrr_minor - before.mrr_minor, text),
        "customers": after.customers,
        "customers_change": _change(after.customers - before.customers, str),
        "arpu": text(after.arpu_minor),
        "churn": _churn_text(lost),
        "lost": lost,
    }


def revenue_tables(period: Period) -> list[dict[str, Any]]:
    """Revenue by plan, a table per currency, with what all plans come to in the last line."""
    by_plan = metrics.revenue_by_plan(period.end)
    lost_by_plan = metrics.churn_by_plan(period.start, period.end)
    total = metrics.revenue(period.end)
    currencies = sorted({currency for _, currency in by_plan}) or ["USD"]
    listed = {plan for plan, _ in by_plan}
    tables = []
    for position, currency in enumerate(currencies):
        rows = [
            _row(plan, sums, lost_by_plan.get(plan, NOT_CHURNED), currency)
            for (plan, in_currency), sums in by_plan.items()
            if in_currency == currency
        ]
        if position == 0:
            rows += [
                _row(plan, NOBODY, lost, currency)
                for plan, lost in lost_by_plan.items()
                if plan not in listed
            ]
        lost = metrics.churn(period.start, period.end)
        all_plans = _row("All plans", total.get(currency, NOBODY), lost, currency)
        tables.append({"currency": currency, "rows": rows, "total": all_plans})
    return tables


def growing(now: datetime) -> list[dict[str, Any]]:
    """The fastest-growing customers, each with its account, None where that was deleted."""
    rows = usage.growth(now, ROWS)
    accounts = Account.objects.in_bulk([row.account_id for row in rows])
    return [
        {
            "account": accounts.get(row.account_id),
            "calls": row.calls,
            "calls_before": row.calls_before,
            "increase": row.calls - row.calls_before,
        }
        for row in rows
    ]


def _row(plan: str, sums: Revenue, lost: Churn, currency: str) -> PlanRow:
    return PlanRow(
        plan=plan,
        customers=sums.customers,
        mrr=money.text(sums.mrr_minor, currency, short=True),
        arpu=money.text(sums.arpu_minor, currency, short=True) if sums.customers else "–",
        churn=_churn_text(lost),
    )


def _churn_text(lost: Churn) -> str:
    return "–" if lost.rate is None else f"{lost.rate:.1%}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "0%"


def _change(difference: int, as_text: Callable[[int], str]) -> str:
    if difference == 0:
        return "unchanged"
    sign = "+" if difference > 0 else "−"
    return f"{sign}{as_text(abs(difference))}"
