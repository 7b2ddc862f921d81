"""What time alone does to a subscription: its provider says nothing, and something is due.

Free gets its next period or its planned end; a trial is about to end; a failed payment is
reminded of, and stops the traffic when its grace is over.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import DurationField, Exists, ExpressionWrapper, F, OuterRef, QuerySet

from billing import accounts, history, periods, pricing, subscriptions, terms
from billing.models import BillingEvent, Subscription
from billing.states import State
from billing.terms import NO_PROVIDER

Kind = BillingEvent.Kind

# A trial of a few days was spoken of when it began.
TRIAL_ENDING = timedelta(days=3)
# How long after a failed payment it is reminded of, as far as its grace lasts.
REMINDERS = (timedelta(days=3), timedelta(days=6))


def advance(account_id: UUID, now: datetime) -> None:
    """Does what has become due for one account; asked again, nothing."""
    with transaction.atomic():
        accounts.locked(account_id)
        for subscription in _free_over(now).filter(account_id=account_id):
            _advance_free(subscription, now)
        for subscription in _trial_ending(now).filter(account_id=account_id):
            history.record(Kind.TRIAL_ENDING, account_id, now, subscription=subscription)
        for subscription in _grace_over(now).filter(account_id=account_id):
            terms.refresh(account_id, now)
            history.record(Kind.PAYMENT_REQUIRED, account_id, now, subscription=subscription)
        for after in REMINDERS:
            for subscription in _unreminded(after, now).filter(account_id=account_id):
                history.record(
                    Kind.GRACE_REMINDER,
                    account_id,
                    now,
                    subscription=subscription,
                    day=after.days,
                    stops_at=_grace_end(subscription).isoformat(),
                )


def due(now: datetime) -> set[UUID]:
    """Accounts for which `advance` has something to do: ask once a minute."""
    rows = [_free_over(now), _trial_ending(now), _grace_over(now)]
    rows += [_unreminded(after, now) for after in REMINDERS]
    return {account_id for found in rows for account_id in found.values_list("account", flat=True)}


def _alive() -> QuerySet[Subscription]:
    return Subscription.objects.exclude(state=State.ENDED).select_related("version__plan")


def _free_over(now: datetime) -> QuerySet[Subscription]:
    return _alive().filter(provider=NO_PROVIDER, period_end__lte=now)


def _advance_free(subscription: Subscription, now: datetime) -> None:
    if subscription.cancel_at_period_end:
        subscriptions.end(subscription, now)
        return
    start, end = periods.boundaries(
        subscription.period_start,
        subscription.period_end,
        months=1,
        anchor_day=subscription.anchor_day,
        now=now,
    )[:2]
    subscription.period_start, subscription.period_end = start, end
    subscription.version = subscription.next_version or subscription.version
    subscription.next_version = None
    subscription.save(update_fields=["period_start", "period_end", "version", "next_version"])
    terms.refresh(subscription.account_id, now)


def _trial_ending(now: datetime) -> QuerySet[Subscription]:
    lasts = ExpressionWrapper(F("trial_ends_at") - F("started_at"), output_field=DurationField())
    return (
        _alive()
        .filter(
            ~Exists(_events(Kind.TRIAL_ENDING)),
            state=State.TRIALING,
            trial_ends_at__gt=now,
            trial_ends_at__lte=now + TRIAL_ENDING,
            cancel_at_period_end=False,
        )
        .alias(lasts=lasts)
        .filter(lasts__gt=TRIAL_ENDING)
    )


def _grace_over(now: datetime) -> QuerySet[Subscription]:
    """Not where a contract runs: its calls go on."""
    return _alive().filter(
        ~Exists(_events(Kind.PAYMENT_REQUIRED).filter(at__gte=OuterRef("past_due_since"))),
        state=State.PAST_DUE,
        past_due_since__lte=now - terms.PAYMENT_GRACE,
        account__entitlement__terms_id__startswith=pricing.OF_VERSION,
    )


def _unreminded(after: timedelta, now: datetime) -> QuerySet[Subscription]:
    """Only the latest reminder that is due, and none once the grace is over."""
    later = [other for other in REMINDERS if other > after]
    until = min([*later, terms.PAYMENT_GRACE])
    told = _events(Kind.GRACE_REMINDER).filter(
        at__gte=OuterRef("past_due_since"), data__day=after.days
    )
    return _alive().filter(
        ~Exists(told),
        state=State.PAST_DUE,
        past_due_since__lte=now - after,
        past_due_since__gt=now - until,
    )


def _grace_end(subscription: Subscription) -> datetime:
    since = subscription.past_due_since
    assert since is not None  # noqa: S101 - of those that are past due
    return since + terms.PAYMENT_GRACE


def _events(kind: BillingEvent.Kind) -> QuerySet[BillingEvent]:
    return BillingEvent.objects.filter(subscription=OuterRef("pk"), kind=kind)
