"""Credits given to an account, and its own spend cap: every change holds from the next call on.

Owns the order in which grants are used. What is drawn of them is the gateway's to count.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from django.db import transaction

from billing import accounts, terms
from billing.accounts import Account
from billing.models import CreditGrant, SpendCap
from gateway import usage

log = structlog.get_logger(__name__)


def grant(
    account: Account,
    amount: int,
    *,
    reason: str,
    by: Any,
    now: datetime,
    priority: int = 100,
    expires_at: datetime | None = None,
) -> CreditGrant:
    """Gives an account credits. Raises Django's ValidationError for an amount out of bounds."""
    with transaction.atomic():
        owner = accounts.locked(account.pk)
        given = CreditGrant(
            account_id=owner.pk,
            amount=amount,
            priority=priority,
            expires_at=expires_at,
            reason=reason,
            created_by=by,
            created_at=now,
        )
        given.clean_fields()
        given.save(force_insert=True)
        terms.refresh(owner.pk, now)
    log.info("credits.granted", account=str(account.pk), grant=given.pk, amount=amount)
    return given


def balance(account_id: UUID, now: datetime) -> int | None:
    """Credits that are left, as far as the ledger has it; None for who was never given any."""
    grants = CreditGrant.objects.filter(account_id=account_id)
    if not grants.exists():
        return None
    drawn = usage.credits_drawn(account_id)
    alive = grants.exclude(expires_at__lte=now)
    return sum(max(grant.amount - drawn.get(grant.pk, 0), 0) for grant in alive)


def set_cap(account: Account, cap_minor: int | None, *, by: Any, now: datetime) -> None:
    """Sets the account's spend cap, or takes it away (None).

    Raises Django's ValidationError for an amount out of bounds.
    """
    with transaction.atomic():
        owner = accounts.locked(account.pk)
        if cap_minor is None:
            SpendCap.objects.filter(account_id=owner.pk).delete()
        else:
            cap = SpendCap(account_id=owner.pk, cap_minor=cap_minor, set_by=by, set_at=now)
            cap.clean_fields()
            cap.save()
        terms.refresh(owner.pk, now)
    log.info("spend_cap.set", account=str(account.pk), cap_minor=cap_minor)
