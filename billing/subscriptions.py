"""The life of an account's subscription: started, renewed, failing, cancelled, ended.

The states and moves stand above `models.Subscription`. Every change happens here, under the
account's lock, and ends with what it means: the entitlement, the first key, a row of history.
What a provider says is fetched first, outside any transaction, and applied if it is news.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from allauth.account.models import EmailAddress
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.db.models import F, Q, QuerySet

from billing import accounts, catalogue, history, periods, providers, terms, tickets
from billing.accounts import Account
from billing.models import BillingEvent, Plan, PlanVersion, Subscription
from billing.providers import SubscriptionState
from billing.terms import NO_PROVIDER
from keys import issuance
from keys.models import Entitlement

log = structlog.get_logger(__name__)

State = Subscription.State
Kind = BillingEvent.Kind

_MOVES: dict[str, set[str]] = {
    State.TRIALING: {State.ACTIVE, State.PAST_DUE, State.ENDED},
    State.ACTIVE: {State.PAST_DUE, State.ENDED},
    State.PAST_DUE: {State.ACTIVE, State.ENDED},
    State.ENDED: set(),
}
# How long after a fetch a subscription whose renewal is due is asked about again.
_ASK_AGAIN = timedelta(minutes=15)


class AlreadySubscribed(Exception):
    """The account has a subscription that lives."""


class NoSubscription(Exception):
    """The account has no subscription that this could be done to."""


class AddressNotVerified(Exception):
    """Free needs an address that was proved."""


class FreeTaken(Exception):
    """This person has another account on Free, or had one within its last period."""


class IllegalMove(Exception):
    """The provider's state can't follow from ours; staff must look."""


@dataclass(frozen=True)
class Fetched:
    """A subscription as its provider had it after this ticket was taken."""

    ticket: int
    state: SubscriptionState


def alive(account: Account) -> Subscription | None:
    """The account's subscription, free or paid, unless it has ended."""
    return _alive().filter(account_id=account.pk).first()


# ------------------------------------------------------------------ beginnings


def start_free(account: Account, user: AbstractBaseUser, now: datetime) -> Subscription:
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
        if alive(owner):
            raise AlreadySubscribed
        running = (
            Subscription.objects.filter(provider=NO_PROVIDER, period_end__gt=now)
            .filter(Q(started_by_id=user.pk) | Q(account_id=owner.pk))
            .order_by("-started_at")
        )
        if any(free.account_id != owner.pk for free in running):
            raise FreeTaken
        begun = running.first()
        start = begun.period_start if begun else now.replace(microsecond=0)
        anchor_day = begun.anchor_day if begun else start.day
        subscription = Subscription.objects.create(
            account_id=owner.pk,
            version=version,
            provider=NO_PROVIDER,
            state=State.ACTIVE,
            started_at=now,
            started_by_id=user.pk,
            period_start=start,
            period_end=begun.period_end if begun else periods.add_months(start, 1, anchor_day),
            anchor_day=anchor_day,
        )
        _started(owner, subscription, now)
    return subscription


def start_paid(
    account: Account,
    version: PlanVersion,
    provider: str,
    fetched: Fetched,
    *,
    user_id: int | None,
    now: datetime,
) -> Subscription:
    """Begins what a checkout bought, under the caller's lock of the account.

    A free subscription ends in its favour, and the paid plan's quota begins with it, in a new
    period. Raises `AlreadySubscribed` where a paid one lives.
    """
    held = alive(account)
    if held and held.provider != NO_PROVIDER:
        raise AlreadySubscribed
    data = {}
    if held:
        held.state, held.ended_at = State.ENDED, now
        held.save(update_fields=["state", "ended_at"])
        data["previous_plan"] = held.version.plan.name
    state = fetched.state
    trial = state.status == "trialing"
    subscription = Subscription.objects.create(
        account_id=account.pk,
        version=version,
        provider=provider,
        provider_subscription_id=state.id,
        provider_customer_id=state.customer_id,
        state=state.status,
        started_at=now,
        started_by_id=user_id,
        period_start=state.period_start.replace(microsecond=0),
        period_end=state.period_end.replace(microsecond=0),
        anchor_day=state.period_end.day if trial else state.period_start.day,
        cancel_at_period_end=state.cancel_at_period_end,
        past_due_since=now if state.status == "past_due" else None,
        applied_ticket=fetched.ticket,
        synced_at=now,
    )
    _started(account, subscription, now, **data)
    return subscription


def _started(account: Account, subscription: Subscription, now: datetime, **data: str) -> None:
    terms.refresh(account.pk, now)
    issuance.issue_first(account, now)
    history.record(Kind.STARTED, account.pk, now, subscription=subscription, **data)


# ------------------------------------------------------------------ what a provider says


def fetch(subscription: Subscription) -> Fetched:
    """Asks the provider. Raises `ProviderUnavailable`; not for use in a transaction."""
    ticket = tickets.take()
    provider = providers.get(subscription.provider)
    return Fetched(ticket, provider.fetch_subscription(subscription.provider_subscription_id))


def apply(account: Account, fetched: Fetched, provider: str, now: datetime) -> None:
    """Makes the stored subscription what its provider had, under the caller's account lock.

    Does nothing if a newer fetch has been applied. Raises `IllegalMove`.
    """
    state = fetched.state
    row = Subscription.objects.select_related("version__plan").get(
        account_id=account.pk, provider=provider, provider_subscription_id=state.id
    )
    if fetched.ticket <= row.applied_ticket:
        return
    if state.status not in {row.state, *_MOVES[row.state]}:
        raise IllegalMove(f"{row.state} → {state.status} of subscription {row.pk}")
    happened = _differences(row, state)
    if state.status == "past_due":
        row.past_due_since = row.past_due_since or now
    else:
        row.past_due_since = None
    if state.status == "ended":
        row.ended_at = row.ended_at or state.ended_at or now
    row.state = state.status
    row.period_start = state.period_start.replace(microsecond=0)
    row.period_end = state.period_end.replace(microsecond=0)
    row.cancel_at_period_end = state.cancel_at_period_end
    row.applied_ticket, row.synced_at = fetched.ticket, now
    row.save(
        update_fields=[
            "state",
            "period_start",
            "period_end",
            "cancel_at_period_end",
            "past_due_since",
            "ended_at",
            "applied_ticket",
            "synced_at",
        ]
    )
    terms.refresh(account.pk, now)
    for kind in happened:
        history.record(kind, account.pk, now, subscription=row)


def sync(subscription_id: UUID, now: datetime) -> None:
    """Fetches and applies. Raises `ProviderUnavailable`, `IllegalMove`."""
    subscription = Subscription.objects.get(pk=subscription_id)
    fetched = fetch(subscription)
    with transaction.atomic():
        apply(accounts.locked(subscription.account_id), fetched, subscription.provider, now)


def _differences(row: Subscription, state: SubscriptionState) -> list[BillingEvent.Kind]:
    """What happened between the stored row and this state, in the order of telling it."""
    if state.status == "ended":
        return [] if row.state == State.ENDED else [Kind.ENDED]
    happened: list[BillingEvent.Kind] = []
    if row.state == State.PAST_DUE and state.status == "active":
        happened.append(Kind.PAYMENT_RECOVERED)
    if row.state != State.PAST_DUE and state.status == "past_due":
        happened.append(Kind.PAYMENT_FAILED)
    trial_over = row.state == State.TRIALING and state.status == "active"
    renewed = state.period_start.replace(microsecond=0) > row.period_start
    if trial_over or (renewed and state.status == "active"):
        happened.append(Kind.RENEWED)
    if state.cancel_at_period_end and not row.cancel_at_period_end:
        happened.append(Kind.CANCEL_PLANNED)
    if row.cancel_at_period_end and not state.cancel_at_period_end:
        happened.append(Kind.CANCEL_WITHDRAWN)
    return happened


# ------------------------------------------------------------------ what the customer says


def cancel(account: Account, *, at_period_end: bool, now: datetime) -> None:
    """Ends the subscription, now or when its period is over.

    Raises `NoSubscription`, `ProviderUnavailable`, `IllegalMove`: then nothing has changed here.
    """
    subscription = alive(account)
    if subscription is None:
        raise NoSubscription
    if subscription.provider == NO_PROVIDER:
        _cancel_free(account.pk, at_period_end, now)
        return
    provider = providers.get(subscription.provider)
    provider.cancel(subscription.provider_subscription_id, at_period_end=at_period_end)
    sync(subscription.pk, now)


def resume(account: Account, now: datetime) -> None:
    """Withdraws a planned end. Raises `NoSubscription`, `ProviderUnavailable`, `IllegalMove`."""
    subscription = alive(account)
    if subscription is None or not subscription.cancel_at_period_end:
        raise NoSubscription
    if subscription.provider == NO_PROVIDER:
        with transaction.atomic():
            _plan_end(_held_free(account.pk), False, now)
        return
    providers.get(subscription.provider).resume(subscription.provider_subscription_id)
    sync(subscription.pk, now)


def set_overage(account: Account, overage: str, now: datetime) -> None:
    """Chooses what happens past the included units where the plan would bill them.

    Holds from the next call on; what was used past them before is billed. Raises
    `NoSubscription`, ValueError for what is no `Subscription.Overage`.
    """
    choice = Subscription.Overage(overage)
    with transaction.atomic():
        owner = accounts.locked(account.pk)
        changed = _alive().filter(account_id=owner.pk).update(overage=choice)
        if not changed:
            raise NoSubscription
        terms.refresh(owner.pk, now)
    log.info("subscription.overage", account=str(account.pk), overage=choice.value)


def _cancel_free(account_id: UUID, at_period_end: bool, now: datetime) -> None:
    with transaction.atomic():
        subscription = _held_free(account_id)
        if at_period_end:
            _plan_end(subscription, True, now)
        else:
            _end(subscription, now)


def _held_free(account_id: UUID) -> Subscription:
    subscription = alive(accounts.locked(account_id))
    if subscription is None or subscription.provider != NO_PROVIDER:
        raise NoSubscription
    return subscription


def _plan_end(subscription: Subscription, planned: bool, now: datetime) -> None:
    if subscription.cancel_at_period_end == planned:
        return
    subscription.cancel_at_period_end = planned
    subscription.save(update_fields=["cancel_at_period_end"])
    terms.refresh(subscription.account_id, now)
    kind = Kind.CANCEL_PLANNED if planned else Kind.CANCEL_WITHDRAWN
    history.record(kind, subscription.account_id, now, subscription=subscription)


def _end(subscription: Subscription, now: datetime) -> None:
    subscription.state, subscription.ended_at = State.ENDED, now
    subscription.save(update_fields=["state", "ended_at"])
    terms.refresh(subscription.account_id, now)
    history.record(Kind.ENDED, subscription.account_id, now, subscription=subscription)


# ------------------------------------------------------------------ what time does


def advance(account_id: UUID, now: datetime) -> None:
    """Does what has become due for one account without a provider's word.

    A free subscription gets its next period or its planned end; a payment that has failed for
    the whole grace stops the traffic.
    """
    with transaction.atomic():
        accounts.locked(account_id)
        for subscription in _free_over(now).filter(account_id=account_id):
            _advance_free(subscription, now)
        if _grace_over(now).filter(account_id=account_id).exists():
            terms.refresh(account_id, now)


def due_to_advance(now: datetime) -> set[UUID]:
    """Accounts for which `advance` has something to do: ask once a minute."""
    rows = _free_over(now).values_list("account_id", flat=True)
    return {*rows, *_grace_over(now).values_list("account_id", flat=True)}


def due_for_sync(now: datetime) -> QuerySet[Subscription]:
    """Paid subscriptions whose provider should have said something by now.

    Their period is over and no renewal or end has come: its webhook may be lost.
    """
    return _alive().filter(
        ~Q(provider=NO_PROVIDER),
        Q(synced_at=None) | Q(synced_at__lt=F("period_end")) | Q(synced_at__lt=now - _ASK_AGAIN),
        period_end__lte=now,
    )


def _free_over(now: datetime) -> QuerySet[Subscription]:
    return _alive().filter(provider=NO_PROVIDER, period_end__lte=now)


def _grace_over(now: datetime) -> QuerySet[Subscription]:
    return Subscription.objects.filter(
        state=State.PAST_DUE,
        past_due_since__lte=now - terms.PAYMENT_GRACE,
        account__entitlement__state=Entitlement.State.ACTIVE,
        account__entitlement__terms_id__startswith=terms.OF_VERSION,
    )


def _advance_free(subscription: Subscription, now: datetime) -> None:
    if subscription.cancel_at_period_end:
        _end(subscription, now)
        return
    start, end = periods.boundaries(
        subscription.period_start,
        subscription.period_end,
        months=1,
        anchor_day=subscription.anchor_day,
        now=now,
    )[:2]
    subscription.period_start, subscription.period_end = start, end
    subscription.save(update_fields=["period_start", "period_end"])
    terms.refresh(subscription.account_id, now)


def _alive() -> QuerySet[Subscription]:
    return Subscription.objects.exclude(state=State.ENDED).select_related("version__plan")


def _hold(user: AbstractBaseUser) -> None:
    """Waits for this person's other requests for Free."""
    get_user_model().objects.select_for_update(no_key=True).get(pk=user.pk)
