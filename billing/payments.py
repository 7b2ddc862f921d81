"""Payments as their providers have them: kept, and what follows from them done.

Writes `models.Payment` from what was fetched, and nothing else does. Asks nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import structlog
from django.db.models import Q

from billing import charges, history, refunds
from billing.accounts import Account
from billing.models import BillingEvent, Charge, Invoice, Payment, Subscription
from billing.providers import PaymentState
from keys import entitlements

log = structlog.get_logger(__name__)

Kind = BillingEvent.Kind
Dispute = Payment.Dispute
_TOLD: dict[str, BillingEvent.Kind] = {
    Dispute.OPEN: Kind.DISPUTED,
    Dispute.WON: Kind.DISPUTE_WON,
    Dispute.LOST: Kind.DISPUTE_LOST,
}

# How far from a period's start the payment for it may be: it may have been tried for days.
_RENEWED_EARLY, _RENEWED_LATE = timedelta(hours=1), timedelta(days=14)


def apply(
    account: Account,
    subscription: Subscription | None,
    provider: str,
    states: Iterable[PaymentState],
    ticket: int,
    now: datetime,
) -> None:
    """Makes the stored payments what the provider had, under the caller's account lock.

    subscription: whose they are; None: of what was bought by itself

    Leaves alone what a newer fetch has been applied to. A lost dispute suspends the account; an
    open one takes nothing from it, and staff are told. What was paid back becomes a refund with
    its credit note, and a payment of a charge settles that.
    """
    for state in sorted(states, key=lambda one: one.at):
        _apply(account, subscription, provider, state, ticket, now)


def _apply(
    account: Account,
    subscription: Subscription | None,
    provider: str,
    state: PaymentState,
    ticket: int,
    now: datetime,
) -> None:
    row = Payment.objects.filter(provider=provider, provider_payment_id=state.id).first()
    if row is None:
        row = Payment(account_id=account.pk, provider=provider, provider_payment_id=state.id)
    elif row.account_id != account.pk:
        log.error("payment.of_another_account", payment=str(row.pk), account=str(account.pk))
        return
    elif ticket <= row.applied_ticket:
        return
    disputed = state.dispute != row.dispute
    row.subscription = subscription or row.subscription
    row.kind, row.reference, row.state = state.kind, state.reference[:64], state.status
    row.amount_minor, row.tax_minor = state.amount_minor, state.tax_minor
    row.currency, row.at = state.currency, state.at
    row.refunded_minor, row.dispute = state.refunded_minor, state.dispute
    row.failure, row.number = state.failure[:200], state.number[:100]
    row.page_url, row.pdf_url = state.page_url, state.pdf_url
    row.tax_lines = [{"text": text, "amount_minor": amount} for text, amount in state.tax_lines]
    row.buyer = dict(state.buyer)
    row.applied_ticket = ticket
    if disputed:
        row.dispute_announced_at = None
    row.save()
    _settle_charge(row, state, now)
    refunds.seen(row, now)
    if disputed:
        _disputed(row, now)


def _settle_charge(payment: Payment, state: PaymentState, now: datetime) -> None:
    """What is heard of a charge by the way.

    That it failed counts only of one that was on its way: what is being asked for again was
    declined before, and its own answer says how that went.
    """
    charge = charge_of(payment)
    if charge is None:
        return
    if state.status == "paid" or charge.state == Charge.State.PENDING:
        charges.heard(charge, state.status, payment.failure, now)


def charge_of(payment: Payment) -> Charge | None:
    its_id = payment.our_id
    if payment.kind != Payment.Kind.CHARGE or its_id is None:
        return None
    return Charge.objects.filter(pk=its_id, account_id=payment.account_id).first()


def of_invoice(invoice: Invoice) -> list[Payment]:
    """Those that paid what is on a closed invoice, the earliest first: its charge, changes of the
    plan, and the renewal that its base price names.
    """
    charge = Charge.objects.filter(invoice=invoice).first()
    paid = Q(line__invoice=invoice)
    if charge is not None:
        paid |= Q(kind=Payment.Kind.CHARGE, reference=str(charge.pk))
    renewal = Payment.objects.none()
    if invoice.lines.filter(meter="", payment=None).exists():
        renewal = Payment.objects.filter(
            account_id=invoice.account_id,
            kind=Payment.Kind.SUBSCRIPTION,
            state=Payment.State.PAID,
            at__gte=invoice.period_end - _RENEWED_EARLY,
            at__lt=invoice.period_end + _RENEWED_LATE,
        ).order_by("at")
    found = Payment.objects.filter(paid, account_id=invoice.account_id, state=Payment.State.PAID)
    return [*found.order_by("at"), *renewal[:1]]


def _disputed(payment: Payment, now: datetime) -> None:
    log.warning("payment.disputed", payment=str(payment.pk), dispute=payment.dispute)
    if payment.dispute == Dispute.LOST:
        entitlements.suspend(payment.account_id, now)
    if payment.dispute in _TOLD:
        history.record(
            _TOLD[payment.dispute],
            payment.account_id,
            now,
            subscription=payment.subscription,
            payment=str(payment.pk),
            amount_minor=payment.amount_minor,
            currency=payment.currency,
        )
