"""What follows when a top-up was paid for, or could not be: its credits are given, once.

Called under the account's lock, by those who have heard: `billing.topups` of a hosted checkout,
`billing.charges` of a charge.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import structlog

from billing import allowances, history, terms
from billing.models import AutoTopUp, BillingEvent, Charge, CreditGrant, TopUp

log = structlog.get_logger(__name__)

State = TopUp.State
_UNPAID = (Charge.State.FAILED, Charge.State.DROPPED)


def settle(charge: Charge, now: datetime) -> bool:
    """Lets a top-up end as its charge did; False for a charge of something else.

    Paid: the credits are given, also where the charge had failed before. Failed or dropped: no
    more are bought by themselves until the customer resumes.
    """
    row = TopUp.objects.filter(charge=charge).first()
    if row is None:
        return False
    if charge.state == Charge.State.PAID and row.state != State.COMPLETED:
        row.state, row.error = State.COMPLETED, ""
        row.save(update_fields=["state", "error"])
        give(row, now)
    elif charge.state in _UNPAID and row.state == State.OPEN:
        row.state, row.error = State.FAILED, charge.reason[:200] or "The payment failed."
        row.save(update_fields=["state", "error"])
        AutoTopUp.objects.filter(account_id=row.account_id).update(paused_because=row.error)
        tell_of_failure(row, now)
    return True


def give(row: TopUp, now: datetime) -> None:
    """Gives what was bought, and says so. The database refuses to do it twice."""
    expires_at = None
    if row.expires_after_days is not None:
        expires_at = now.replace(microsecond=0) + timedelta(days=row.expires_after_days)
    CreditGrant.objects.create(
        account_id=row.account_id,
        source=CreditGrant.Source.BOUGHT,
        cause=allowances.bought_with(row),
        amount=row.credits,
        expires_at=expires_at,
        reason="Bought by themselves" if row.automatic else "Bought",
        created_by_id=row.started_by_id,
        created_at=now,
    )
    terms.refresh(row.account_id, now)
    until = f"{expires_at.day} {expires_at:%B %Y}" if expires_at else ""
    history.record(BillingEvent.Kind.TOPPED_UP, row.account_id, now, **_told(row), expires_on=until)
    log.info("topup.completed", top_up=str(row.pk), account=str(row.account_id))


def tell_of_failure(row: TopUp, now: datetime) -> None:
    """Of credits that were ordered and could not be paid for."""
    history.record(BillingEvent.Kind.TOP_UP_FAILED, row.account_id, now, **_told(row))
    log.warning("topup.failed", top_up=str(row.pk), account=str(row.account_id))


def _told(row: TopUp) -> dict[str, Any]:
    return {
        "top_up": str(row.pk),
        "credits": row.credits,
        "amount_minor": row.amount_minor,
        "currency": row.currency,
        "automatic": row.automatic,
        "reason": row.error,
    }
