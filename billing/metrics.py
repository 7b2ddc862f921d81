"""The business in numbers, for staff. Reads the history only, so that any past day can be asked.

A *customer* is an account; a *paying* one has a monthly recurring revenue above zero. Every
number is by currency: amounts of different currencies are never added. `DEFINITIONS` says in
words, beside each number on the page, what the functions below compute.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from billing.models import BillingEvent

DEFINITIONS = {
    "mrr": (
        "Monthly recurring revenue: the base prices of all subscriptions that live, those "
        "with a failed payment included, and of running contracts, which count in place of a "
        "plan. A yearly price counts a twelfth; trials and usage past the included units don't."
    ),
    "customers": "Paying customers: accounts whose monthly recurring revenue is above zero.",
    "arpu": "Average revenue per paying customer: monthly recurring revenue ÷ paying customers.",
    "churn": (
        "Customers who paid at the period's start and no longer did at its end, "
        "÷ customers who paid at its start. Who left and came back within it has not churned."
    ),
}


@dataclass(frozen=True)
class Revenue:
    """Of one currency, minor units."""

    customers: int
    mrr_minor: int

    @property
    def arpu_minor(self) -> int:
        """Half a unit rounded up; 0 without customers."""
        if not self.customers:
            return 0
        return (2 * self.mrr_minor + self.customers) // (2 * self.customers)


@dataclass(frozen=True)
class Churn:
    at_start: int
    lost: int

    @property
    def rate(self) -> Decimal | None:
        """0 to 1; None where nobody paid at the start."""
        return Decimal(self.lost) / self.at_start if self.at_start else None


@dataclass(frozen=True)
class _Paying:
    plan: str
    currency: str
    mrr_minor: int


def revenue(at: datetime) -> dict[str, Revenue]:
    """Paying customers and monthly recurring revenue at a moment, by currency."""
    sums: dict[str, list[int]] = defaultdict(list)
    for paying in _paying(at).values():
        sums[paying.currency].append(paying.mrr_minor)
    return {currency: Revenue(len(each), sum(each)) for currency, each in sorted(sums.items())}


def revenue_by_plan(at: datetime) -> dict[tuple[str, str], Revenue]:
    """The same by (plan's name, currency), the largest first; contracts are “Enterprise”."""
    sums: dict[tuple[str, str], list[int]] = defaultdict(list)
    for paying in _paying(at).values():
        sums[paying.plan, paying.currency].append(paying.mrr_minor)
    found = {key: Revenue(len(each), sum(each)) for key, each in sums.items()}
    return dict(sorted(found.items(), key=lambda item: -item[1].mrr_minor))


def churn(start: datetime, end: datetime) -> Churn:
    """Customers lost between two moments, of those who paid at the first."""
    before, after = _paying(start), _paying(end)
    return Churn(len(before), len(before.keys() - after.keys()))


def churn_by_plan(start: datetime, end: datetime) -> dict[str, Churn]:
    """The same by the plan that each had at the start; changing plans is no churn."""
    before, after = _paying(start), _paying(end)
    plans = sorted({paying.plan for paying in before.values()})
    return {
        plan: Churn(
            sum(paying.plan == plan for paying in before.values()),
            sum(
                paying.plan == plan and account_id not in after
                for account_id, paying in before.items()
            ),
        )
        for plan in plans
    }


def _paying(at: datetime) -> dict[UUID, _Paying]:
    """Paying customers at a moment, each as the last thing that happened to it left it."""
    latest = (
        BillingEvent.objects.filter(at__lte=at)
        .order_by("account_id", "-at", "-id")
        .distinct("account_id")
        .values_list("account_id", "data__plan", "currency", "mrr_minor")
    )
    return {
        account_id: _Paying(plan, currency, mrr_minor)
        for account_id, plan, currency, mrr_minor in latest
        if mrr_minor > 0
    }
