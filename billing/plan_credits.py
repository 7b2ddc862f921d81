"""Credits that come with a plan: for its trial, once per account, and for each month of usage.

Gives them in the transaction in which `terms.refresh` makes the terms hold. Months that passed
while nobody looked bring nothing: their credits would be over.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import structlog
from django.db.models import Exists, OuterRef, Q, QuerySet, Sum

from billing.models import CreditGrant, Plan, Subscription
from keys.models import Entitlement

log = structlog.get_logger(__name__)

State = Subscription.State
Source = CreditGrant.Source

# Used in this order, the lowest first; those that were bought or given by staff come last.
OF_TRIAL, OF_MONTH = 10, 50
_MONTHS_IN = (State.ACTIVE, State.PAST_DUE)


def give(subscription: Subscription, boundaries: Sequence[datetime], now: datetime) -> None:
    """Gives what the subscription has coming now and was not given yet.

    boundaries: of the months of usage, the current one's start first
    """
    if subscription.state == State.TRIALING:
        _give_trial(subscription, now)
    elif subscription.state in _MONTHS_IN:
        start, end = boundaries[:2]
        if start <= now < end:
            _give_month(subscription, start, end, now)


def due(now: datetime) -> QuerySet[Subscription]:
    """Those that began a month which brings credits, and has not: ask once a minute."""
    held = CreditGrant.objects.filter(
        account_id=OuterRef("account_id"), source=Source.PLAN, expires_at__gt=now
    )
    return Subscription.objects.filter(
        Q(account__entitlement__ends_at=None) | Q(account__entitlement__ends_at__gt=now),
        ~Exists(held),
        state__in=_MONTHS_IN,
        version__monthly_credits__gt=0,
        period_start__lte=now,
        account__entitlement__state=Entitlement.State.ACTIVE,
        account__entitlement__terms_id__startswith="version:",
    )


def _give_trial(subscription: Subscription, now: datetime) -> None:
    amount = subscription.version.trial_credits
    ends_at = subscription.trial_ends_at or subscription.period_end
    if amount and ends_at > now:
        _give_once(
            f"trial:{subscription.account_id}",
            subscription,
            now,
            source=Source.TRIAL,
            amount=amount,
            priority=OF_TRIAL,
            expires_at=ends_at,
            reason=f"Trial of {subscription.version.plan.name}",
        )


def _give_month(subscription: Subscription, start: datetime, end: datetime, now: datetime) -> None:
    """What the month's grants lack of the plan's credits: all of them, or what an upgrade adds.

    A renewal that is confirmed late may move the boundaries a little; what lives past the middle
    of this month is this month's. A free plan that was ended and taken again goes on in its month.
    """
    grants = CreditGrant.objects.filter(
        account_id=subscription.account_id,
        source=Source.PLAN,
        expires_at__gt=start + (end - start) / 2,
    )
    if subscription.version.plan.kind != Plan.Kind.FREE:
        grants = grants.filter(cause__startswith=f"month:{subscription.pk}:")
    given = grants.aggregate(credits=Sum("amount", default=0))["credits"]
    lacking = subscription.version.monthly_credits - given
    if lacking > 0:
        _give_once(
            f"month:{subscription.pk}:{start:%Y-%m-%dT%H:%M:%S}:{subscription.version_id}",
            subscription,
            now,
            source=Source.PLAN,
            amount=lacking,
            priority=OF_MONTH,
            expires_at=end,
            reason=f"{subscription.version.plan.name}, from {start.day} {start:%B %Y}",
        )


def _give_once(cause: str, subscription: Subscription, now: datetime, **fields: object) -> None:
    grant, is_new = CreditGrant.objects.get_or_create(
        cause=cause,
        defaults={"account_id": subscription.account_id, "created_at": now, **fields},
    )
    if is_new:
        log.info("credits.granted", account=str(grant.account_id), cause=cause, grant=grant.pk)
