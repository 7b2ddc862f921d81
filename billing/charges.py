"""Money that we ask a provider to take: what a period's usage cost, credits bought by themselves.

The moves stand above `models.Charge`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from uuid import UUID

from billing.models import Charge, Invoice, Subscription
from billing.providers import ChargeLine


def create(
    account_id: UUID,
    subscription: Subscription,
    lines: Sequence[ChargeLine],
    description: str,
    now: datetime,
    *,
    currency: str = "",
    invoice: Invoice | None = None,
) -> Charge:
    """Writes down money to be taken, in the caller's transaction; beat then sends it.

    lines: each above 0
    currency: the subscription's where none is given
    """
    return Charge.objects.create(
        account_id=account_id,
        subscription=subscription,
        provider=subscription.provider,
        invoice=invoice,
        description=description[:200],
        amount_minor=sum(line.amount_minor for line in lines),
        currency=currency or subscription.version.currency,
        lines=[asdict(line) for line in lines],
        next_attempt_at=now,
        created_at=now,
    )
