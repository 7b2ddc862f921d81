"""Asks providers for money: charges that are due, refunds that are due.

Each is marked as asked for before it is, and asked for again by the same reference until an
answer is heard: killed in between, or unanswered, it is done once.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import QuerySet

from billing import accounts, charges, payments, providers, refunds, subscriptions, tickets
from billing.models import Charge, Refund, Subscription
from billing.providers import ChargeLine, ChargeOrder, Declined
from billing.terms import NO_PROVIDER
from gateway.alone import alone

log = structlog.get_logger(__name__)

# What was asked for is asked about again in proportion to its age.
_ASK_AFTER, _ASK_AT_LEAST_EVERY = timedelta(minutes=1), timedelta(hours=6)
_ASK_SHARE_OF_AGE = 10


def due_charges(now: datetime) -> QuerySet[Charge]:
    return Charge.objects.filter(next_attempt_at__lte=now).order_by("next_attempt_at")


def due_refunds(now: datetime) -> QuerySet[Refund]:
    return Refund.objects.filter(next_attempt_at__lte=now).order_by("next_attempt_at")


def send_charge(charge_id: UUID, now: datetime) -> None:
    """Asks for a charge that is due, and settles it by the answer.

    Raises `ProviderUnavailable`: what has become of it is not known, beat asks again. Does nothing
    while another process still asks: a slow answer may take longer than `_ASK_AFTER`, and not
    every provider would know the second request by its reference before the first is done.
    """
    with alone(f"billing.charge.{charge_id}") as is_alone:
        charge = _begin_charge(charge_id, now) if is_alone else None
        if charge is not None:
            _send_charge(charge, now)


def _send_charge(charge: Charge, now: datetime) -> None:
    ticket = tickets.take()
    try:
        state = providers.get(charge.provider).charge(_order(charge))
    except Declined as error:
        with transaction.atomic():
            accounts.locked(charge.account_id)
            charges.heard(Charge.objects.get(pk=charge.pk), "failed", str(error), now)
        return
    with transaction.atomic():
        account = accounts.locked(charge.account_id)
        payments.apply(account, charge.subscription, charge.provider, [state], ticket, now)
        charges.heard(Charge.objects.get(pk=charge.pk), state.status, state.failure, now)
    log.info("charge.answered", charge=str(charge.pk), status=state.status)


def _begin_charge(charge_id: UUID, now: datetime) -> Charge | None:
    """Marks it as asked for; None where it isn't due, or another process has it."""
    account_id = Charge.objects.values_list("account_id", flat=True).get(pk=charge_id)
    with transaction.atomic():
        accounts.locked(account_id)
        charge = due_charges(now).filter(pk=charge_id).first()
        if charge is None:
            return None
        if charge.state != Charge.State.PENDING:
            charge.state = Charge.State.UNKNOWN
        charge.attempts += 1
        charge.next_attempt_at = _again(charge.created_at, now)
        charge.save(update_fields=["state", "attempts", "next_attempt_at"])
    return charge


def _order(charge: Charge) -> ChargeOrder:
    subscription = Subscription.objects.get(charges=charge)
    return ChargeOrder(
        reference=str(charge.pk),
        subscription_id=subscription.provider_subscription_id,
        customer_id=subscription.provider_customer_id,
        description=charge.description,
        lines=tuple(ChargeLine(line["text"], line["amount_minor"]) for line in charge.lines),
        currency=charge.currency,
    )


def send_refund(refund_id: UUID, now: datetime) -> None:
    """Pays back a refund that is due; ends its subscription first, where that was asked for.

    Raises `ProviderUnavailable`: beat asks again. Alone, as `send_charge`.
    """
    with alone(f"billing.refund.{refund_id}") as is_alone:
        refund = _begin_refund(refund_id, now) if is_alone else None
        if refund is not None:
            _send_refund(refund, now)


def _begin_refund(refund_id: UUID, now: datetime) -> Refund | None:
    """As `_begin_charge`."""
    with transaction.atomic():
        refund = due_refunds(now).filter(pk=refund_id).select_for_update().first()
        if refund is None:
            return None
        refund.state = Refund.State.UNKNOWN
        refund.attempts += 1
        refund.next_attempt_at = _again(refund.created_at, now)
        refund.save(update_fields=["state", "attempts", "next_attempt_at"])
    return refund


def _send_refund(refund: Refund, now: datetime) -> None:
    payment = refund.payment
    provider = providers.get(payment.provider)
    if refund.ends_subscription and payment.subscription is not None:
        _end(payment.subscription, now)
    try:
        provider.refund(
            payment.provider_payment_id, refund.amount_minor, refund.currency, str(refund.pk)
        )
    except Declined as error:
        refunds.failed(refund.pk, str(error), now)
        log.warning("refund.declined", refund=str(refund.pk), error=str(error))
        return
    refunds.done(refund.pk, now)
    log.info("refund.done", refund=str(refund.pk))


def _end(subscription: Subscription, now: datetime) -> None:
    if subscription.state == Subscription.State.ENDED or subscription.provider == NO_PROVIDER:
        return
    provider = providers.get(subscription.provider)
    provider.cancel(subscription.provider_subscription_id, at_period_end=False)
    subscriptions.sync(subscription.pk, now)


def _again(since: datetime, now: datetime) -> datetime:
    wait = max(_ASK_AFTER, (now - since) / _ASK_SHARE_OF_AGE)
    return now + min(wait, _ASK_AT_LEAST_EVERY)
