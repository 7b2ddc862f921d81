"""Subscriptions at Dodo: their state in our words, their end, their refund."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, get_args

import structlog
from django.utils import timezone
from dodopayments import DodoPayments
from dodopayments.types import (
    CustomerLimitedDetails,
    Payment,
    PaymentListResponse,
    Subscription,
    SubscriptionStatus,
)

from billing.providers import ProviderUnavailable, SubscriptionState
from billing.providers.dodo.client import asking, every, moment, understood

log = structlog.get_logger(__name__)

_STATUSES: dict[str, Literal["active", "past_due", "ended"]] = {
    "active": "active",
    "on_hold": "past_due",
    "past_due": "past_due",
    "cancelled": "ended",
    "failed": "ended",
    "expired": "ended",
}


def fetch_subscription(subscription_id: str) -> SubscriptionState:
    with asking() as client:
        return state_of(_found(client, subscription_id))


def cancel(subscription_id: str, *, at_period_end: bool) -> None:
    with asking() as client:
        if state_of(_found(client, subscription_id)).status == "ended":
            return
        if at_period_end:
            client.subscriptions.update(subscription_id, cancel_at_next_billing_date=True)
        else:
            client.subscriptions.update(subscription_id, status="cancelled")


def resume(subscription_id: str) -> None:
    with asking() as client:
        if state_of(_found(client, subscription_id)).status != "ended":
            client.subscriptions.update(subscription_id, cancel_at_next_billing_date=False)


def refund_and_cancel(subscription_id: str) -> None:
    """Looks for a refund before it asks for one: Dodo keeps no idempotency keys.

    Of two at the same moment Dodo refuses the second, since nothing is left to pay back.
    """
    cancel(subscription_id, at_period_end=False)
    with asking() as client:
        charge = _last_charge(client, subscription_id)
        if charge is None:
            return
        payment = understood(client.payments.retrieve(charge), Payment)
        if any(one.status != "failed" and not one.is_partial for one in payment.refunds or ()):
            return
        client.refunds.create(
            payment_id=charge,
            reason="The account had a subscription already.",
            metadata={"keystile_subscription": subscription_id},
        )


def state_of(found: Subscription) -> SubscriptionState:
    """Raises `ProviderUnavailable` where the answer lacks what we need."""
    now = timezone.now()
    period_end = moment(found.next_billing_date)
    status = _STATUSES.get(found.status)
    if status is None:
        # Paused, or a status that is newer than this code: what is paid for goes on.
        if found.status not in get_args(SubscriptionStatus):
            log.warning("dodo.unknown_status", status=found.status)
        status = "active" if now < period_end else "past_due"
    return SubscriptionState(
        id=understood(found.subscription_id, str),
        customer_id=understood(found.customer, CustomerLimitedDetails).customer_id,
        status=status,
        period_start=moment(found.previous_billing_date),
        period_end=period_end,
        cancel_at_period_end=bool(found.cancel_at_next_billing_date),
        ended_at=_ended_at(found, now) if status == "ended" else None,
    )


def _ended_at(found: Subscription, now: datetime) -> datetime | None:
    """When it ended; a planned end may have been asked for long before it came."""
    ended: datetime | None
    if found.cancel_at_next_billing_date:
        ended = found.next_billing_date
    elif found.status == "expired":
        ended = found.expires_at
    else:
        ended = found.cancelled_at
    return ended if ended and moment(ended) <= now else None


def _found(client: DodoPayments, subscription_id: str) -> Subscription:
    return understood(client.subscriptions.retrieve(subscription_id), Subscription)


def _last_charge(client: DodoPayments, subscription_id: str) -> str | None:
    """The payment that took money last; None where none has taken any.

    Raises `ProviderUnavailable` where there is no payment at all: it isn't listed yet.
    """
    listed = every(
        lambda number, size: client.payments.list(
            subscription_id=subscription_id,
            status="succeeded",
            page_number=number,
            page_size=size,
        )
    )
    payments = [understood(one, PaymentListResponse) for one in listed]
    if not payments:
        raise ProviderUnavailable("Dodo: A paid subscription without a payment.")
    charges = [one for one in payments if one.total_amount > 0]
    newest = max(charges, key=lambda one: moment(one.created_at), default=None)
    return newest.payment_id if newest else None
