"""The inbox of providers' webhooks: a delivery is a hint to go and ask.

receive: verify the raw body, store one row per delivery, nothing else. process: find what it
is about, fetch the provider's state, and in one transaction apply it and mark the row. What
keeps failing is put aside with its error until staff replay it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import F, Q, QuerySet

from billing import accounts, checkout, providers, shipping, subscriptions, topups
from billing.models import Charge, Checkout, ProviderEvent, Subscription, TopUp
from billing.providers import Forged, metering

log = structlog.get_logger(__name__)

# Seconds after the start of each attempt until the next; after the last the row is dead.
_BACKOFF_SECONDS = (10, 30, 120, 600, 3600, 4 * 3600, 12 * 3600)
# A row that nobody has tried for this long lost its message on the way to the worker.
_LOST_AFTER = timedelta(seconds=5)


@dataclass(frozen=True)
class Received:
    """A delivery that is stored; `is_new` is False for one that was stored before."""

    event_id: int
    is_new: bool


@dataclass(frozen=True)
class Refused:
    """A delivery that is not from the provider, or that can't be read. Nothing is stored."""

    reason: str


def receive(
    provider: str, headers: Mapping[str, str], body: bytes, now: datetime
) -> Received | Refused:
    """Stores a delivery whose signature holds. The caller enqueues new ones and answers 200."""
    try:
        delivery = providers.get(provider).verify(headers, body)
    except Forged as error:
        log.warning("webhook.refused", provider=provider, reason=str(error))
        return Refused(str(error))
    event, is_new = ProviderEvent.objects.get_or_create(
        provider=provider,
        external_id=delivery.external_id,
        defaults={"type": delivery.type, "payload": delivery.payload, "received_at": now},
    )
    log.info("webhook.received", provider=provider, type=delivery.type, is_new=is_new)
    return Received(event.pk, is_new)


def process(event_id: int, now: datetime) -> None:
    """Does what a stored delivery hints at, unless that has been done or isn't due.

    Raises whatever went wrong after noting it: the row is tried again later, and put aside
    when its attempts are used up.
    """
    event = _begin(event_id, now)
    if event is None:
        return
    try:
        _follow(event, now)
    except Exception as error:
        _note(event, error, now)
        raise


def waiting(now: datetime) -> QuerySet[ProviderEvent]:
    """Rows to process now: due again, or never tried because their message was lost."""
    lost = Q(next_attempt_at=None, received_at__lte=now - _LOST_AFTER)
    return ProviderEvent.objects.filter(processed_at=None, dead_at=None).filter(
        lost | Q(next_attempt_at__lte=now)
    )


def replay(event_id: int, now: datetime) -> None:
    """Gives a dead row all its attempts again, beginning now; beat finds it in seconds."""
    ProviderEvent.objects.filter(pk=event_id, processed_at=None).update(
        dead_at=None, attempts=0, next_attempt_at=now
    )


def _begin(event_id: int, now: datetime) -> ProviderEvent | None:
    """Counts the attempt before it is made: a worker that is killed in it used one up."""
    with transaction.atomic():
        event = ProviderEvent.objects.select_for_update().get(pk=event_id)
        elsewhere = event.next_attempt_at is not None and event.next_attempt_at > now
        if event.processed_at or event.dead_at or elsewhere:
            return None
        if event.attempts == len(_BACKOFF_SECONDS):
            event.dead_at = now
            event.save(update_fields=["dead_at"])
            log.error("webhook.dead", delivery=event.pk, type=event.type)
            return None
        event.next_attempt_at = now + timedelta(seconds=_BACKOFF_SECONDS[event.attempts])
        event.attempts += 1
        event.save(update_fields=["attempts", "next_attempt_at"])
    return event


def _note(event: ProviderEvent, error: Exception, now: datetime) -> None:
    used_up = event.attempts == len(_BACKOFF_SECONDS)
    ProviderEvent.objects.filter(pk=event.pk, processed_at=None).update(
        error=f"{type(error).__name__}: {error}"[:2000], dead_at=now if used_up else F("dead_at")
    )


def _follow(event: ProviderEvent, now: datetime) -> None:
    refusals = metering.get(event.provider).refusals(event.type, event.payload)
    if refusals is not None:
        with transaction.atomic():
            if _still_open(event):
                shipping.refuse(event.provider, refusals)
                _processed(event, now)
        return
    found = _subject(event)
    if found is None:
        _processed(event, now, ignored=True)
    elif isinstance(found, Subscription):
        bought = subscriptions.fetch(found)
        with transaction.atomic():
            if _still_open(event):
                account = accounts.locked(found.account_id)
                subscriptions.apply(account, bought, event.provider, now)
                _processed(event, now)
    elif isinstance(found, TopUp):
        _follow_top_up(event, found, now)
    else:
        visited = checkout.fetch(found)
        with transaction.atomic():
            if _still_open(event):
                account = accounts.locked(found.account_id)
                checkout.apply(account, found.pk, visited, now)
                _processed(event, now)
        checkout.refund_superseded(found.pk, now)


def _follow_top_up(event: ProviderEvent, row: TopUp, now: datetime) -> None:
    if not row.provider_session_id:  # its charge says what became of it
        _processed(event, now, ignored=True)
        return
    visited = topups.fetch(row)
    with transaction.atomic():
        if _still_open(event):
            topups.apply(accounts.locked(row.account_id), row.pk, visited, now)
            _processed(event, now)


def _subject(event: ProviderEvent) -> Subscription | Checkout | TopUp | None:
    """The row of ours that the delivery is about; None: nothing of ours, or no matter."""
    subject = providers.get(event.provider).subject(event.type, event.payload)
    if subject is None:
        return None
    bought = Subscription.objects.filter(provider=event.provider)
    known = bought.filter(provider_subscription_id=subject.subscription_id or None).first()
    if known is not None:
        return known
    try:
        reference = UUID(subject.reference)
    except ValueError:
        about = Q(provider_customer_id=subject.customer_id or None)
        if subject.payment_id:
            about |= Q(payments__provider_payment_id=subject.payment_id)
        # The newest: a customer may have had others before.
        return bought.filter(about).order_by("-started_at").first()
    charged = Charge.objects.filter(pk=reference, provider=event.provider).first()
    if charged is not None:
        return charged.subscription
    return (
        Checkout.objects.filter(pk=reference, provider=event.provider).first()
        or TopUp.objects.filter(pk=reference, provider=event.provider).first()
    )


def _still_open(event: ProviderEvent) -> bool:
    """Holds the event's row; False if another worker has processed it meanwhile."""
    return ProviderEvent.objects.select_for_update().filter(pk=event.pk, processed_at=None).exists()


def _processed(event: ProviderEvent, now: datetime, *, ignored: bool = False) -> None:
    ProviderEvent.objects.filter(pk=event.pk).update(
        processed_at=now, ignored=ignored, error="", next_attempt_at=None
    )
