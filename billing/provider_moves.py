"""A subscription moved from one payment provider to another; keys, usage and price stay.

The customer confirms a way to pay in a checkout of the new provider, whose first payment is due
when the period ends that was paid before. Once that is done, the new subscription takes the place
of the old one here (`subscriptions.move`), and the old one is ended at its provider: until it
heard of that, beat asks again.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.db.models import QuerySet

from billing import (
    catalogue,
    checkout,
    contents,
    providers,
    subscriptions,
    wishes,
)
from billing.accounts import Account
from billing.models import Checkout, Subscription
from billing.states import State
from billing.terms import NO_PROVIDER

log = structlog.get_logger(__name__)

# Providers want a first payment that is to come to be two days away (Stripe's rule for trials).
_AHEAD = timedelta(hours=49)


class CannotMove(Exception):
    """The subscription can't go to another provider now; says why, in a sentence."""


def possible(subscription: Subscription) -> bool:
    """Whether it is paid through another provider than the seller uses now."""
    return subscription.provider not in (NO_PROVIDER, settings.PAYMENT_PROVIDER)


def start(account: Account, *, user: AbstractBaseUser, now: datetime) -> Checkout:
    """Opens a checkout at the seller's provider; the customer goes to its `url`.

    Raises `CannotMove`, `ProviderUnavailable`.
    """
    held = subscriptions.alive(account)
    if held is None or not possible(held):
        raise CannotMove("The plan is paid where it should be; there is nothing to move.")
    if held.state != State.ACTIVE or held.cancel_at_period_end:
        raise CannotMove("Only a plan that is paid and goes on can move.")
    if wishes.is_planned(held):
        raise CannotMove("Something changes when the period ends. Withdraw that, or wait for it.")
    if held.period_end - now < _AHEAD:
        raise CannotMove("The period is about to end. Please wait until it has been renewed.")
    row = Checkout.objects.create(
        account_id=account.pk,
        version=held.version,
        provider=settings.PAYMENT_PROVIDER,
        replaces=held,
        started_by_id=user.pk,
        created_at=now,
    )
    add_ons = [one.add_on for one in contents.alive(held).select_related("add_on")]
    order = replace(
        checkout.order_of(row, account),
        items=catalogue.items(held.version, add_ons),
        cancel_url=f"{settings.SITE_URL}/dashboard/billing/",
        starts_at=held.period_end,
        trial_days=0,
    )
    return checkout.open_session(row, order)


def to_finish() -> QuerySet[Checkout]:
    """Moves whose old subscription may still live at its provider: ask four times a minute."""
    return Checkout.objects.filter(
        state=Checkout.State.COMPLETED, replaces__isnull=False, replaced_at=None
    )


def finish(checkout_id: UUID, now: datetime) -> None:
    """Ends the old subscription at its provider. Raises `ProviderUnavailable`."""
    row = to_finish().select_related("replaces").filter(pk=checkout_id).first()
    if row is None or row.replaces is None:
        return
    old = row.replaces
    provider = providers.get(old.provider)
    provider.cancel(old.provider_subscription_id, at_period_end=False)
    to_finish().filter(pk=row.pk).update(replaced_at=now)
    log.info("subscription.replaced", subscription=str(old.pk), provider=old.provider)
