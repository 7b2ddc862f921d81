"""Free: taken without a provider, by people with a proved address, one account each."""

from __future__ import annotations

from datetime import datetime

from allauth.account.models import EmailAddress
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.db.models import Q

from billing import accounts, catalogue, periods, subscriptions
from billing.accounts import Account
from billing.models import Plan, Subscription
from billing.states import State
from billing.subscriptions import AlreadySubscribed
from billing.terms import NO_PROVIDER


class AddressNotVerified(Exception):
    """Free needs an address that was proved."""


class FreeTaken(Exception):
    """This person has another account on Free, or had one within its last period."""


def start(account: Account, user: AbstractBaseUser, now: datetime) -> Subscription:
    """Subscribes the account to Free and issues its first key.

    Free ended and taken again goes on in the same period: its quota comes once a month.
    Raises `AddressNotVerified`, `AlreadySubscribed`, `FreeTaken`; `Plan.DoesNotExist` where
    the seller offers no free plan.
    """
    if not EmailAddress.objects.filter(user=user, verified=True).exists():
        raise AddressNotVerified
    plan = Plan.objects.filter(kind=Plan.Kind.FREE, listed=True)[:1].get()
    version = catalogue.current(plan.slug)
    if version is None:
        raise Plan.DoesNotExist
    with transaction.atomic():
        _hold(user)
        owner = accounts.locked(account.pk)
        if subscriptions.alive(owner):
            raise AlreadySubscribed
        running = (
            Subscription.objects.filter(provider=NO_PROVIDER, period_end__gt=now)
            .filter(Q(started_by_id=user.pk) | Q(account_id=owner.pk))
            .order_by("-started_at")
        )
        if any(free.account_id != owner.pk for free in running):
            raise FreeTaken
        before = running.first()
        first = before.period_start if before else now.replace(microsecond=0)
        anchor_day = before.anchor_day if before else first.day
        subscription = Subscription.objects.create(
            account_id=owner.pk,
            version=version,
            provider=NO_PROVIDER,
            state=State.ACTIVE,
            started_at=now,
            started_by_id=user.pk,
            period_start=first,
            period_end=before.period_end if before else periods.add_months(first, 1, anchor_day),
            anchor_day=anchor_day,
        )
        subscriptions.begun(owner, subscription, now)
    return subscription


def _hold(user: AbstractBaseUser) -> None:
    """Waits for this person's other requests for Free."""
    get_user_model().objects.select_for_update(no_key=True).get(pk=user.pk)
