"""Customers over months of a clock that tests move: they subscribe, call, and get invoices.

Usage is written as the drain writes it, under the period and terms that the gateway would have
taken from the account's entitlement at that moment.
"""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from itertools import count

from django.db import transaction

from billing import accounts, invoices, periods, subscriptions, tickets
from billing.models import Invoice, PlanVersion, Subscription
from billing.providers import SubscriptionState
from gateway import chain, entries, partitions, recording
from keys import entitlements
from keys.models import Entitlement
from portal.models import Account

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
_serial = count(1)


def subscribe(
    account: Account, version: PlanVersion, at: datetime, *, months: int = 1
) -> Subscription:
    """What a checkout at the sandbox bought, as it is at that moment."""
    number = next(_serial)
    end = periods.add_months(at, months, at.day)
    state = SubscriptionState(f"sub_{number}", f"cus_{number}", "active", at, end)
    with transaction.atomic():
        return subscriptions.start_paid(
            accounts.locked(account.pk),
            version,
            "sandbox",
            subscriptions.Fetched(tickets.take(), state),
            user_id=None,
            now=at,
        )


def tell(subscription: Subscription, now: datetime, **changed: object) -> None:
    """The provider's word on a subscription: renewed unless `changed` says otherwise."""
    subscription.refresh_from_db()
    months = 12 if subscription.version.interval == "year" else 1
    start = subscription.period_end
    said = {
        "status": "active",
        "period_start": start,
        "period_end": periods.add_months(start, months, subscription.anchor_day),
        **changed,
    }
    state = SubscriptionState(
        subscription.provider_subscription_id, subscription.provider_customer_id, **said
    )
    with transaction.atomic():
        account = accounts.locked(subscription.account_id)
        fetched = subscriptions.Fetched(tickets.take(), state)
        subscriptions.apply(account, fetched, "sandbox", now)


def use(
    account: Account,
    at: datetime,
    calls: int = 1,
    *,
    recorded_at: datetime | None = None,
    period_start: datetime | None = None,
    operation: str = "GET /v1/countries",
    mode: str = "live",
    **end: object,
) -> uuid.UUID:
    """One entry of the ledger, admitted then; a call of so many units unless `end` has others.

    period_start: of a period that the entitlement has forgotten
    """
    entitlement = Entitlement.objects.get(account=account)
    if period_start:
        period_s = int(period_start.timestamp())
    else:
        period_s, _ = entitlements.current_period(entitlement, at)
    event_id = uuid.uuid4()
    admitted_us = (at - entries.EPOCH) // timedelta(microseconds=1)
    opened = (account.pk, uuid.UUID(int=7), mode, period_s, entitlement.terms_id, admitted_us)
    ended = {
        "outcome": "completed",
        "status": 200,
        "code": "",
        "billable": mode == "live",
        "units": {"calls": calls},
        "meta": {},
        "latency_us": 1500,
        "upstream_us": 1200,
        "in": 10,
        "out": 200,
    }
    fields = {
        "id": str(event_id),
        "open": "\t".join([*map(str, opened), "holidays", operation, "{}"]),
        "end": json.dumps(ended | end),
    }
    entry = entries.parse({name.encode(): value.encode() for name, value in fields.items()})
    partitions.ensure([entry.admitted_at])
    with transaction.atomic():
        recording.lock(0)
        recording.record([entry], recording.tick(0, recorded_at or at))
    return event_id


def close(now: datetime) -> int:
    """What beat does by that time: hours, then invoices; how many of these."""
    chain.close_hours(now)
    return sum(invoices.close_due(account_id, now) for account_id in invoices.due_to_close())


def closed(account: Account) -> list[Invoice]:
    """The account's, the earliest first."""
    return list(account.invoices.filter(state=Invoice.State.CLOSED).order_by("period_start"))


def lines(invoice: Invoice) -> list[tuple[str, int]]:
    return [(line.text, line.amount_minor) for line in invoice.lines.all()]


def month(number: int, day: int = 1, hour: int = 0) -> datetime:
    """In 2026."""
    return datetime(2026, number, day, hour, tzinfo=UTC)
