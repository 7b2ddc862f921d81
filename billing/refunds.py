"""Money paid back, and the credit note that says so. The moves stand above `models.Refund`.

Asks nobody: `collecting` does. What was paid back at the provider, past us, becomes a refund
here as soon as it is seen.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F, Q, QuerySet, Sum

from billing import accounts, allowances, history, parties, tickets
from billing.invoices import WE_ISSUE_FOR
from billing.models import BillingEvent, Charge, Invoice, InvoiceCounter, Payment, Refund, TopUp

State = Refund.State


class TooMuch(Exception):
    """There is less left of the payment than that."""


def left_minor(payment: Payment) -> int:
    """What may still be paid back; what is on its way back counts as gone."""
    known = _standing(payment).aggregate(sum=Sum("amount_minor"))["sum"] or 0
    return payment.amount_minor - max(known, payment.refunded_minor)


def ask(
    payment_id: UUID,
    amount_minor: int,
    reason: str,
    now: datetime,
    *,
    by: Any = None,
    ends_subscription: bool = False,
) -> Refund:
    """Writes down what staff pay back; beat then sends it.

    The account keeps what it has unless the subscription is ended with it. Raises `TooMuch`,
    also for a payment that was not paid.
    """
    with transaction.atomic():
        payment = Payment.objects.select_for_update().get(pk=payment_id)
        if payment.state != Payment.State.PAID or not 0 < amount_minor <= left_minor(payment):
            raise TooMuch
        return Refund.objects.create(
            payment=payment,
            invoice=_invoice_of(payment),
            amount_minor=amount_minor,
            currency=payment.currency,
            reason=reason[:300],
            ends_subscription=ends_subscription,
            created_by_id=by.pk if by else None,
            created_at=now,
            next_attempt_at=now,
        )


def ask_again(refund_id: UUID, now: datetime) -> bool:
    """Tries one that failed once more; False for others, or where less is left by now."""
    with transaction.atomic():
        refund = Refund.objects.get(pk=refund_id)
        payment = Payment.objects.select_for_update().get(pk=refund.payment_id)
        refund.refresh_from_db()
        if refund.state != State.FAILED or refund.amount_minor > left_minor(payment):
            return False
        refund.state, refund.next_attempt_at = State.DUE, now
        refund.save(update_fields=["state", "next_attempt_at"])
    return True


def done(refund_id: UUID, now: datetime) -> None:
    """The provider has paid it back: it gets its number, the customer a mail. Once."""
    with transaction.atomic():
        refund, payment = _held(refund_id)
        if refund.state == State.DONE:
            return
        # Older fetches don't know of it; a newer one that was applied meanwhile does.
        before = payment.refunds.filter(state=State.DONE).aggregate(
            sum=Sum("amount_minor", default=0)
        )["sum"]
        payment.refunded_minor = max(payment.refunded_minor, before + refund.amount_minor)
        payment.applied_ticket = tickets.take()
        payment.save(update_fields=["refunded_minor", "applied_ticket"])
        _settle(refund, now)


def failed(refund_id: UUID, error: str, now: datetime) -> None:
    """The provider won't: nothing was paid back."""
    with transaction.atomic():
        refund, _ = _held(refund_id)
        if refund.state == State.DONE:
            return
        refund.state, refund.error, refund.settled_at = State.FAILED, error[:300], now
        refund.next_attempt_at = None
        refund.save(update_fields=["state", "error", "settled_at", "next_attempt_at"])


def seen(payment: Payment, now: datetime) -> None:
    """Writes down what was paid back at the provider and not by us.

    Under the account's lock, with the payment as it was fetched.
    """
    known = _standing(payment).aggregate(sum=Sum("amount_minor"))["sum"] or 0
    if payment.refunded_minor <= known:
        return
    refund = Refund.objects.create(
        payment=payment,
        invoice=_invoice_of(payment),
        amount_minor=payment.refunded_minor - known,
        currency=payment.currency,
        reason=f"Paid back at {payment.provider.title()}",
        created_at=now,
    )
    _settle(refund, now)


def _settle(refund: Refund, now: datetime) -> None:
    payment = refund.payment
    refund.state, refund.error, refund.settled_at = State.DONE, "", now
    refund.next_attempt_at = None
    refund.number = _next_number() if payment.provider in WE_ISSUE_FOR else None
    refund.seller = parties.seller()
    refund.buyer = payment.buyer or parties.buyer(payment.account)
    refund.save()
    top_up = _top_up_of(payment)
    history.record(
        BillingEvent.Kind.REFUNDED,
        payment.account_id,
        now,
        subscription=payment.subscription,
        refund=str(refund.pk),
        number=str(refund) if refund.number else "",
        amount_minor=refund.amount_minor,
        currency=refund.currency,
        reason=refund.reason,
        credits_taken=allowances.take_back(top_up, now) if top_up else 0,
    )


def _top_up_of(payment: Payment) -> TopUp | None:
    """What was bought with it, in a checkout or by a charge; None: no credits."""
    reference = payment.our_id
    if reference is None:
        return None
    bought = Q(pk=reference) | Q(charge_id=reference)
    return TopUp.objects.filter(bought, account_id=payment.account_id).first()


def _standing(payment: Payment) -> QuerySet[Refund]:
    return Refund.objects.filter(payment=payment).exclude(state=State.FAILED)


def _invoice_of(payment: Payment) -> Invoice | None:
    """The invoice that the payment paid, or that names it."""
    line = getattr(payment, "line", None)
    if line is not None:
        return Invoice.objects.get(pk=line.invoice_id)
    its_id = payment.our_id
    if payment.kind != Payment.Kind.CHARGE or its_id is None:
        return None
    charge = Charge.objects.filter(pk=its_id).select_related("invoice").first()
    return charge.invoice if charge else None


def _held(refund_id: UUID) -> tuple[Refund, Payment]:
    payment_id, account_id = Refund.objects.values_list("payment_id", "payment__account_id").get(
        pk=refund_id
    )
    accounts.locked(account_id)
    payment = Payment.objects.select_for_update().get(pk=payment_id)
    return Refund.objects.select_related("payment__subscription__version__plan").get(
        pk=refund_id
    ), payment


def _next_number() -> int:
    """One more than the last; whoever else wants one waits for this transaction."""
    InvoiceCounter.objects.get_or_create(pk=1)
    InvoiceCounter.objects.filter(pk=1).update(latest_credit_note=F("latest_credit_note") + 1)
    return InvoiceCounter.objects.get(pk=1).latest_credit_note
