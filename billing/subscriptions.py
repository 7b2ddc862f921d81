"""The life of an account's subscription: started, renewed, failing, paused, cancelled, ended.

The states and moves are in `states`, what a subscription consists of in `contents`, changes that
the customer asks for in `plan_changes`, what time alone does in `deadlines`. Every change happens
under the account's lock, and ends with what it means: the entitlement, the first key, a row of
history. What a provider says is fetched first, outside any transaction, and applied if it is news.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import F, Q, QuerySet

from billing import (
    accounts,
    charges,
    contents,
    history,
    payments,
    periods,
    providers,
    states,
    terms,
    tickets,
)
from billing.accounts import Account
from billing.contents import Happened
from billing.models import BillingEvent, PlanVersion, Subscription
from billing.providers import SubscriptionState
from billing.states import IllegalMove, State
from billing.terms import NO_PROVIDER
from keys import issuance

log = structlog.get_logger(__name__)

__all__ = ["IllegalMove", "State"]

Kind = BillingEvent.Kind

# How long after a fetch a subscription whose renewal is due is asked about again.
_ASK_AGAIN = timedelta(minutes=15)
# A new period may begin so much before the old one was to end: providers' clocks differ.
_EARLY = timedelta(days=1)


class AlreadySubscribed(Exception):
    """The account has a subscription that lives."""


class NoSubscription(Exception):
    """The account has no subscription that this could be done to."""


@dataclass(frozen=True)
class Fetched:
    """A subscription as its provider had it after this ticket was taken."""

    ticket: int
    state: SubscriptionState


def alive(account: Account) -> Subscription | None:
    """The account's subscription, free or paid, unless it has ended."""
    return _alive().filter(account_id=account.pk).first()


# ------------------------------------------------------------------ beginnings


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
        trial_ends_at=(state.trial_ends_at or state.period_end) if trial else None,
        method=state.method[:100],
        charged_by=(
            Subscription.ChargedBy.PROVIDER
            if state.charges_usage
            else Subscription.ChargedBy.KEYSTILE
        ),
        past_due_since=now if state.status == "past_due" else None,
        applied_ticket=fetched.ticket,
        synced_at=now,
    )
    payments.apply(account, subscription, provider, state.payments, fetched.ticket, now)
    begun(account, subscription, now, **data)
    return subscription


def move(
    account: Account,
    held: Subscription,
    provider: str,
    fetched: Fetched,
    *,
    user_id: int | None,
    now: datetime,
) -> Subscription:
    """Lets another provider's subscription take the place of one that lives, in its period.

    Under the caller's lock of the account. What was paid at the old provider is used up first;
    its add-ons go along. The old one's end there is `provider_moves.finish`.
    """
    state = fetched.state
    held.state, held.ended_at = State.ENDED, now
    held.save(update_fields=["state", "ended_at"])
    subscription = Subscription.objects.create(
        account_id=account.pk,
        version=held.version,
        provider=provider,
        provider_subscription_id=state.id,
        provider_customer_id=state.customer_id,
        state=State.ACTIVE,
        started_at=now,
        started_by_id=user_id,
        period_start=held.period_start,
        period_end=held.period_end,
        anchor_day=held.anchor_day,
        overage=held.overage,
        method=state.method[:100],
        applied_ticket=fetched.ticket,
        synced_at=now,
    )
    contents.alive(held).update(subscription=subscription)
    terms.refresh(account.pk, now)
    payments.apply(account, subscription, provider, state.payments, fetched.ticket, now)
    history.record(
        Kind.PROVIDER_CHANGED,
        account.pk,
        now,
        subscription=subscription,
        from_provider=held.provider,
        to_provider=provider,
    )
    return subscription


def begun(account: Account, subscription: Subscription, now: datetime, **data: str) -> None:
    """What a new row means: the entitlement, the first key, its line of history."""
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
    row = Subscription.objects.select_related("version__plan", "next_version__plan").get(
        account_id=account.pk, provider=provider, provider_subscription_id=state.id
    )
    if fetched.ticket <= row.applied_ticket:
        return
    status = _status(row, state)
    states.check(row.state, status, row.pk)
    start, end = (moment.replace(microsecond=0) for moment in _period(row, state))
    renewed = start > row.period_start and start >= row.period_end - _EARLY
    happened = _differences(row, state, status, renewed=renewed)
    if status == State.ENDED:
        row.ended_at = row.ended_at or state.ended_at or now
        contents.end(row, now)
    else:
        happened += contents.follow(row, state.items, renewed=renewed, now=now)
    row.past_due_since = (row.past_due_since or now) if status == State.PAST_DUE else None
    if status == State.TRIALING:
        row.trial_ends_at = state.trial_ends_at or state.period_end
    row.state = status
    row.anchor_day = periods.anchor(start, row.anchor_day)
    row.period_start, row.period_end = start, end
    row.cancel_at_period_end = state.cancel_at_period_end
    row.method = state.method[:100] or row.method
    row.applied_ticket, row.synced_at = fetched.ticket, now
    row.save(
        update_fields=[
            "state",
            "version",
            "next_version",
            "period_start",
            "period_end",
            "anchor_day",
            "cancel_at_period_end",
            "method",
            "trial_ends_at",
            "past_due_since",
            "ended_at",
            "applied_ticket",
            "synced_at",
        ]
    )
    payments.apply(account, row, provider, state.payments, fetched.ticket, now)
    terms.refresh(account.pk, now)
    for turn in happened:
        history.record(turn.kind, account.pk, now, subscription=row, **turn.data)
    if {turn.kind for turn in happened} & {Kind.METHOD_UPDATED, Kind.PAYMENT_RECOVERED}:
        charges.ask_again(account.pk, now)


def sync(subscription_id: UUID, now: datetime) -> None:
    """Fetches and applies. Raises `ProviderUnavailable`, `IllegalMove`."""
    subscription = Subscription.objects.get(pk=subscription_id)
    fetched = fetch(subscription)
    with transaction.atomic():
        apply(accounts.locked(subscription.account_id), fetched, subscription.provider, now)


def due_for_sync(now: datetime) -> QuerySet[Subscription]:
    """Paid subscriptions whose provider should be asked now.

    Their period is over and no renewal or end has come, its webhook may be lost; or a change was
    asked for and its outcome not heard.
    """
    unheard = Q(synced_at__lt=F("period_end")) | Q(synced_at__lt=now - _ASK_AGAIN)
    return _alive().filter(
        ~Q(provider=NO_PROVIDER),
        Q(synced_at=None) | Q(unheard, period_end__lte=now),
    )


def _status(row: Subscription, state: SubscriptionState) -> State:
    """A trial that was not sold as one only waits for its first payment: it is active."""
    waits = state.status == "trialing" and row.trial_ends_at is None
    return State.ACTIVE if waits else State(state.status)


def _period(row: Subscription, state: SubscriptionState) -> tuple[datetime, datetime]:
    """While a first payment is waited for, the period is the one that was paid before."""
    if state.status == "trialing" and row.trial_ends_at is None:
        return row.period_start, state.period_end
    return state.period_start, state.period_end


def _differences(
    row: Subscription, state: SubscriptionState, status: State, *, renewed: bool
) -> list[Happened]:
    """What happened between the stored row and this state, in the order of telling it."""
    if status == State.ENDED:
        return [] if row.state == State.ENDED else [Happened(Kind.ENDED)]
    kinds: list[BillingEvent.Kind] = []
    if row.state == State.PAUSED and status != State.PAUSED:
        kinds.append(Kind.UNPAUSED)
    if row.state != State.PAUSED and status == State.PAUSED:
        kinds.append(Kind.PAUSED)
    if row.state == State.PAST_DUE and status == State.ACTIVE:
        kinds.append(Kind.PAYMENT_RECOVERED)
    if row.state != State.PAST_DUE and status == State.PAST_DUE:
        kinds.append(Kind.PAYMENT_FAILED)
    trial_over = row.state == State.TRIALING and status == State.ACTIVE
    if trial_over or (renewed and status == State.ACTIVE):
        kinds.append(Kind.RENEWED)
    if state.cancel_at_period_end and not row.cancel_at_period_end:
        kinds.append(Kind.CANCEL_PLANNED)
    if row.cancel_at_period_end and not state.cancel_at_period_end:
        kinds.append(Kind.CANCEL_WITHDRAWN)
    happened = [Happened(kind) for kind in kinds]
    if row.method and state.method and state.method[:100] != row.method:
        happened.append(Happened(Kind.METHOD_UPDATED, {"method": state.method}))
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
            end(subscription, now)


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


def end(subscription: Subscription, now: datetime) -> None:
    """Ends a free one, under the account's lock."""
    subscription.state, subscription.ended_at = State.ENDED, now
    subscription.save(update_fields=["state", "ended_at"])
    terms.refresh(subscription.account_id, now)
    history.record(Kind.ENDED, subscription.account_id, now, subscription=subscription)


def _alive() -> QuerySet[Subscription]:
    return Subscription.objects.exclude(state=State.ENDED).select_related("version__plan")
