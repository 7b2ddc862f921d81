"""Money that we ask a provider to take: what a period's usage cost, credits bought by themselves.

The moves stand above `models.Charge`; all are made under the account's lock. Asks nobody:
`collecting` does. An invoice that stays unpaid for the grace stops the traffic, as a failed
payment of the plan does; credits that could not be charged for are nobody's debt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from billing import accounts, fulfilment, history, pricing, terms
from billing.models import BillingEvent, Charge, Invoice, Subscription
from billing.providers import ChargeLine
from billing.terms import NO_PROVIDER
from keys.models import Entitlement

State = Charge.State
Kind = BillingEvent.Kind

# An invoice that could not be charged is tried again so long after that.
RETRIES = (timedelta(days=1), timedelta(days=3), timedelta(days=5))


def create(
    account_id: UUID,
    subscription: Subscription | None,
    lines: Sequence[ChargeLine],
    description: str,
    now: datetime,
    *,
    currency: str = "",
    invoice: Invoice | None = None,
) -> Charge:
    """Writes down money to be taken, in the caller's transaction; beat then sends it.

    subscription: whose customer at its provider is charged; None: it is paid by transfer
    lines:        each above 0
    currency:     the subscription's where none is given
    """
    return Charge.objects.create(
        account_id=account_id,
        subscription=subscription,
        provider=subscription.provider if subscription else NO_PROVIDER,
        invoice=invoice,
        description=description[:200],
        amount_minor=sum(line.amount_minor for line in lines),
        currency=currency or (subscription.version.currency if subscription else ""),
        lines=[asdict(line) for line in lines],
        next_attempt_at=now if subscription else None,
        created_at=now,
    )


def heard(
    charge: Charge, outcome: Literal["pending", "paid", "failed"], reason: str, now: datetime
) -> None:
    """Moves a charge to what its provider has answered, or has said in a newer fetch."""
    if charge.state in (State.PAID, State.DROPPED) and outcome != "paid":
        return
    if outcome == "paid":
        paid(charge, now)
    elif outcome == "pending":
        charge.state = State.PENDING
        charge.save(update_fields=["state"])
    elif charge.state != State.FAILED:
        _failed(charge, reason, now)


def paid(charge: Charge, now: datetime) -> None:
    """Also one that was dropped meanwhile: the money is there."""
    if charge.state == State.PAID:
        return
    charge.state, charge.reason, charge.settled_at = State.PAID, "", now
    _owe_no_more(charge, now)
    if not fulfilment.settle(charge, now):
        _record(Kind.CHARGED, charge, now)


def _failed(charge: Charge, reason: str, now: datetime) -> None:
    charge.state, charge.reason = State.FAILED, reason[:300]
    charge.next_attempt_at = None
    if charge.invoice_id is not None:
        charge.failed_since = charge.failed_since or now
        retries = (charge.failed_since + after for after in RETRIES)
        charge.next_attempt_at = next((at for at in retries if at > now), None)
    charge.save(update_fields=["state", "reason", "next_attempt_at", "failed_since"])
    fulfilment.settle(charge, now)
    if charge.invoice_id is not None:
        terms.refresh(charge.account_id, now)
        again = charge.next_attempt_at
        _record(Kind.CHARGE_FAILED, charge, now, again_at=again.isoformat() if again else "")


def drop(charge_id: UUID, now: datetime) -> bool:
    """Gives the money up; False where it is on its way or settled."""
    return _by_hand(charge_id, State.DROPPED, now)


def paid_by_transfer(charge_id: UUID, now: datetime) -> bool:
    """Staff have seen the money on the bank account; False where it is settled already."""
    return _by_hand(charge_id, State.PAID, now)


def _by_hand(charge_id: UUID, state: Charge.State, now: datetime) -> bool:
    with transaction.atomic():
        charge = _locked(charge_id)
        if charge.state not in (State.DUE, State.FAILED):
            return False
        if state == State.PAID:
            paid(charge, now)
        else:
            charge.state, charge.settled_at = state, now
            _owe_no_more(charge, now)
            fulfilment.settle(charge, now)
    return True


def _owe_no_more(charge: Charge, now: datetime) -> None:
    owed = charge.failed_since is not None
    charge.failed_since = charge.next_attempt_at = None
    charge.save(update_fields=["state", "reason", "settled_at", "failed_since", "next_attempt_at"])
    if owed:
        terms.refresh(charge.account_id, now)


# ------------------------------------------------------------------ failed, and asked again


def failed(account_id: UUID) -> QuerySet[Charge]:
    """Invoices of the account that could not be charged."""
    return Charge.objects.filter(
        account_id=account_id, state=State.FAILED, invoice__isnull=False
    ).exclude(provider=NO_PROVIDER)


def owed_since(account_id: UUID) -> datetime | None:
    """Since when an invoice of the account could not be charged."""
    owed = Charge.objects.filter(account_id=account_id, failed_since__isnull=False)
    return owed.order_by("failed_since").values_list("failed_since", flat=True).first()


def ask_again(account_id: UUID, now: datetime) -> int:
    """Makes the account's failed charges due: its card is another one, or somebody asks. How many.

    In the caller's transaction or on its own; beat finds them, `collecting.send_charge` now.
    """
    return failed(account_id).update(state=State.DUE, next_attempt_at=now)


def due_to_advance(now: datetime) -> set[UUID]:
    """Accounts that have owed an invoice for the whole grace and still make calls."""
    return set(_grace_over(now).values_list("account_id", flat=True))


def advance(account_id: UUID, now: datetime) -> None:
    """Stops the calls of an account whose grace is over."""
    with transaction.atomic():
        accounts.locked(account_id)
        if not _grace_over(now).filter(account_id=account_id).exists():
            return
        terms.refresh(account_id, now)
        owed = failed(account_id).first()
        subscription = owed.subscription if owed else None
        history.record(Kind.PAYMENT_REQUIRED, account_id, now, subscription=subscription)


def _grace_over(now: datetime) -> QuerySet[Charge]:
    return Charge.objects.filter(
        failed_since__lte=now - terms.PAYMENT_GRACE,
        account__entitlement__state=Entitlement.State.ACTIVE,
        account__entitlement__terms_id__startswith=pricing.OF_VERSION,
    )


def _locked(charge_id: UUID) -> Charge:
    account_id = Charge.objects.values_list("account_id", flat=True).get(pk=charge_id)
    accounts.locked(account_id)
    return Charge.objects.get(pk=charge_id)


def _record(kind: BillingEvent.Kind, charge: Charge, now: datetime, **data: str) -> None:
    history.record(
        kind,
        charge.account_id,
        now,
        subscription=charge.subscription,
        charge=str(charge.pk),
        invoice=str(charge.invoice_id or ""),
        description=charge.description,
        amount_minor=charge.amount_minor,
        currency=charge.currency,
        reason=charge.reason,
        **data,
    )
