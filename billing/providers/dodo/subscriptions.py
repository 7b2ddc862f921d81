"""Subscriptions at Dodo: their state in our words, their end, their page for the customer.

One on demand is a mandate that Dodo does not renew: its periods are the calendar's, from the day
it began, and what they cost is taken by `charges`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

import structlog
from django.utils import timezone
from dodopayments import DodoPayments
from dodopayments.types import (
    CustomerLimitedDetails,
    CustomerPortalSession,
    Payment,
    Subscription,
    SubscriptionStatus,
)

from billing.periods import add_months
from billing.providers import SubscriptionState
from billing.providers.dodo import marks, payments, products
from billing.providers.dodo.client import asking, moment, understood

log = structlog.get_logger(__name__)

Status = Literal["trialing", "active", "past_due", "paused", "ended"]

_STATUSES: dict[str, Status] = {
    "active": "active",
    "on_hold": "past_due",
    "past_due": "past_due",
    "paused": "paused",
    "cancelled": "ended",
    "failed": "ended",
    "expired": "ended",
}
_A_LITTLE = timedelta(days=3)


def fetch_subscription(subscription_id: str) -> SubscriptionState:
    with asking() as client:
        return read(client, found(client, subscription_id))


def cancel(subscription_id: str, *, at_period_end: bool) -> None:
    with asking() as client:
        held = found(client, subscription_id)
        if is_over(held):
            return
        if not at_period_end:
            client.subscriptions.update(subscription_id, status="cancelled")
        elif held.on_demand:
            # Dodo has no bill for it to come: its end has to be told.
            _, end = period_of(held, timezone.now())
            client.subscriptions.update(
                subscription_id, cancel_at_next_billing_date=True, next_billing_date=end
            )
        else:
            client.subscriptions.update(subscription_id, cancel_at_next_billing_date=True)


def resume(subscription_id: str) -> None:
    with asking() as client:
        if not is_over(found(client, subscription_id)):
            client.subscriptions.update(subscription_id, cancel_at_next_billing_date=False)


def portal(customer_id: str, return_url: str) -> str:
    with asking() as client:
        session = client.customers.customer_portal.create(customer_id, return_url=return_url)
        return understood(understood(session, CustomerPortalSession).link, str)


def found(client: DodoPayments, subscription_id: str) -> Subscription:
    held = understood(client.subscriptions.retrieve(subscription_id), Subscription)
    understood(held.subscription_id, str)
    understood(held.customer, CustomerLimitedDetails)
    return held


def is_over(held: Subscription) -> bool:
    return _STATUSES.get(held.status) == "ended"


def read(client: DodoPayments, held: Subscription) -> SubscriptionState:
    """Raises `ProviderUnavailable` where an answer lacks what we need."""
    now = timezone.now()
    paid = payments.latest(client, held)
    trial_ends_at = trial_end(held, paid)
    start, end = period_of(held, now, trial_ends_at)
    status = _status(held, now, end)
    if status == "active" and trial_ends_at and now < trial_ends_at:
        status = "trialing"
    return SubscriptionState(
        id=held.subscription_id,
        customer_id=held.customer.customer_id,
        status=status,
        period_start=start,
        period_end=end,
        cancel_at_period_end=bool(held.cancel_at_next_billing_date),
        ended_at=_ended_at(held, now) if status == "ended" else None,
        trial_ends_at=trial_ends_at,
        items=_items(client, held),
        payments=payments.states_of(paid, held.tax_id or ""),
        method=payments.method(paid),
        charges_usage=marks.text(held.metadata, marks.USAGE) == "dodo",
    )


def period_of(
    held: Subscription, now: datetime, trial_ends_at: datetime | None = None
) -> tuple[datetime, datetime]:
    """The period that runs, or ran last."""
    if held.on_demand:
        return _period_on_demand(held, now)
    last_paid, end = moment(held.previous_billing_date), moment(held.next_billing_date)
    start = add_months(end, -_months(held), end.day)
    if trial_ends_at is not None:
        return moment(held.created_at), end
    if abs(last_paid - start) <= _A_LITTLE:
        # Months of other lengths.
        return last_paid, end
    if last_paid < start and now < add_months(last_paid, _months(held), last_paid.day):
        # Dodo, or who sells there, put the next bill off.
        return last_paid, end
    # A change was paid for since, or nothing was when it was on demand.
    return start, end


def trial_end(held: Subscription, paid: list[Payment]) -> datetime | None:
    """While nothing but the trial has been; Dodo has no status for it."""
    if not held.trial_period_days:
        return None
    if held.on_demand:
        first = _first_period(held)
        return first if timezone.now() < first else None
    begun = moment(held.created_at) + _A_LITTLE
    renewed = moment(held.previous_billing_date) > begun or any(map(payments.took_money, paid))
    return None if renewed else moment(held.next_billing_date)


def _period_on_demand(held: Subscription, now: datetime) -> tuple[datetime, datetime]:
    created, first = moment(held.created_at), _first_period(held)
    if now < first:
        return created, first
    months, number = _months(held), 0
    while add_months(first, months * (number + 1), first.day) <= now:
        number += 1
    start, end = (add_months(first, months * n, first.day) for n in (number, number + 1))
    if held.cancel_at_next_billing_date:
        planned = moment(held.next_billing_date)
        if planned <= now:
            return add_months(planned, -months, first.day), planned
        return start, min(planned, end)
    return start, end


def _first_period(held: Subscription) -> datetime:
    """When what is on demand begins to count: at once, after its trial, or when it was told to."""
    if told := marks.text(held.metadata, marks.STARTS_AT):
        return datetime.fromisoformat(told).astimezone(UTC)
    return moment(held.created_at) + timedelta(days=held.trial_period_days or 0)


def _status(held: Subscription, now: datetime, period_end: datetime) -> Status:
    status = _STATUSES.get(held.status)
    if status is None:
        # Newer than this code: what is paid for goes on.
        if held.status not in get_args(SubscriptionStatus):
            log.warning("dodo.unknown_status", status=held.status)
        status = "active" if now < period_end else "past_due"
    if held.on_demand and held.cancel_at_next_billing_date and period_end <= now:
        status = "ended"
    return status


def _ended_at(held: Subscription, now: datetime) -> datetime | None:
    """When it ended; a planned end may have been asked for long before it came."""
    ended: datetime | None
    if held.cancel_at_next_billing_date:
        ended = held.next_billing_date
    elif held.status == "expired":
        ended = held.expires_at
    else:
        ended = held.cancelled_at
    return ended if ended and moment(ended) <= now else None


def _items(client: DodoPayments, held: Subscription) -> tuple[str, ...]:
    """Nothing where the plan is none of ours: then nobody can say what it consists of."""
    plan = products.key_of(client, held.product_id)
    if plan is None:
        return ()
    add_ons = [products.add_on_key_of(client, one.addon_id) for one in held.addons or ()]
    return (plan, *filter(None, add_ons))


def _months(held: Subscription) -> int:
    return 12 if held.payment_frequency_interval == "Year" else 1
