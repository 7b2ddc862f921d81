"""Asks every provider once a day whether it still says what we have, and repairs what differs.

Webhooks tell of changes within seconds; what they did not tell of is found here. A difference may
be a webhook on its way, so that it is only noted at first: one that is still there a quarter of an
hour later is drift, applied like anything a provider says, and told to staff.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet

from billing import accounts, subscriptions
from billing.models import Drift, Subscription
from billing.subscriptions import IllegalMove
from billing.terms import NO_PROVIDER

log = structlog.get_logger(__name__)

EVERY = timedelta(days=1)
# A webhook takes seconds, and minutes when its first attempts fail.
ON_ITS_WAY = timedelta(minutes=15)

Said = dict[str, str]


@dataclass(frozen=True)
class _Look:
    """What a look found: differences, or why what the provider says can't be applied."""

    differences: list[dict[str, str]]
    error: str = ""

    @property
    def agrees(self) -> bool:
        return not (self.differences or self.error)


def due(now: datetime) -> QuerySet[Subscription]:
    """Living subscriptions to ask about: not heard of for a day, or seen to differ; in any order.

    In any, so that some that can't be asked about are in nobody's way.
    """
    seen = Drift.objects.filter(subscription=OuterRef("pk"), repaired_at=None)
    again = seen.filter(error="", looked_at__lte=now - ON_ITS_WAY)
    daily = seen.filter(looked_at__lte=now - EVERY)
    rows = Subscription.objects.exclude(state=Subscription.State.ENDED)
    return (
        rows.exclude(provider=NO_PROVIDER)
        .filter(
            Exists(again)
            | Exists(daily)
            | (~Exists(seen) & (Q(synced_at=None) | Q(synced_at__lte=now - EVERY)))
        )
        .order_by("?")
    )


def look(subscription_id: UUID, now: datetime) -> None:
    """Compares one subscription with its provider, and repairs what differed the last time, too.

    Raises `ProviderUnavailable`. Not for use in a transaction.
    """
    subscription = Subscription.objects.get(pk=subscription_id)
    fetched = subscriptions.fetch(subscription)
    with transaction.atomic():
        account = accounts.locked(subscription.account_id)
        seen = Drift.objects.filter(subscription=subscription, repaired_at=None).first()
        is_drift = seen is not None and seen.seen_at <= now - ON_ITS_WAY
        found = _applied(account, subscription, fetched, now, keep=is_drift)
        if found.agrees:
            Drift.objects.filter(subscription=subscription, repaired_at=None).delete()
            return
        noted = {"looked_at": now, "differences": found.differences, "error": found.error}
        if is_drift and not found.error:
            noted["repaired_at"] = now
            log.warning(
                "drift.repaired",
                subscription=str(subscription.pk),
                provider=subscription.provider,
                differences=found.differences,
            )
        Drift.objects.update_or_create(
            subscription=subscription,
            repaired_at=None,
            defaults=noted,
            create_defaults={**noted, "seen_at": now},
        )


def _applied(
    account: accounts.Account,
    subscription: Subscription,
    fetched: subscriptions.Fetched,
    now: datetime,
    *,
    keep: bool,
) -> _Look:
    """What changes when the provider's word is applied; undone again where it says not to keep it.

    Agreement is kept in any case: it says that the provider was asked.
    """
    try:
        with transaction.atomic():
            before = _said(subscription.pk)
            subscriptions.apply(account, fetched, subscription.provider, now)
            after = _said(subscription.pk)
            differences = [
                {"what": what, "ours": before[what], "theirs": after[what]}
                for what in before
                if before[what] != after[what]
            ]
            if differences and not keep:
                transaction.set_rollback(True)
    except IllegalMove as error:
        return _Look([], str(error)[:300])
    return _Look(differences)


def _said(subscription_id: UUID) -> Said:
    """What our rows say, in words that staff can compare."""
    row = Subscription.objects.select_related("version__plan").get(pk=subscription_id)
    alive = row.add_ons.filter(ended_at=None).order_by("add_on__slug")
    return {
        "state": row.get_state_display(),
        "plan": str(row.version),
        "add-ons": ", ".join(alive.annotate(slug=F("add_on__slug")).values_list("slug", flat=True)),
        "period": f"{row.period_start:%Y-%m-%d %H:%M} to {row.period_end:%Y-%m-%d %H:%M}",
        "planned end": "at the period’s end" if row.cancel_at_period_end else "none",
    }
