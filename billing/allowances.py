"""Credits given to an account, and its own spend cap: every change holds from the next call on.

What is drawn of grants is the gateway's to count. Those of a plan are given by
`billing.plan_credits`, those that are bought by `billing.topups`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from django.db import transaction

from billing import accounts, plan_credits, terms
from billing.accounts import Account
from billing.models import CreditGrant, SpendCap, TopUp
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


@dataclass(frozen=True)
class Held:
    """A grant and what was drawn of it, as far as the ledger has it."""

    grant: CreditGrant
    drawn: int
    now: datetime

    @property
    def is_over(self) -> bool:
        expires_at = self.grant.expires_at
        taken_back = self.grant.taken_back_at is not None
        return taken_back or (expires_at is not None and expires_at <= self.now)

    @property
    def unspent(self) -> int:
        """Never drawn: to be used still or, of one that is over, gone."""
        return max(self.grant.amount - self.drawn, 0)

    @property
    def left(self) -> int:
        return 0 if self.is_over else self.unspent


def holdings(account_id: UUID, now: datetime) -> list[Held]:
    """All that the account was ever given, in the order of use."""
    drawn = usage.credits_drawn(account_id)
    return [
        Held(grant, drawn.get(grant.pk, 0), now)
        for grant in CreditGrant.objects.filter(account_id=account_id)
    ]


def balance(account_id: UUID, now: datetime) -> int | None:
    """Credits that are left, as far as the ledger has it; None for who was never given any."""
    held = holdings(account_id, now)
    return sum(one.left for one in held) if held else None


def balances(account_ids: Collection[UUID], now: datetime) -> Counter[UUID]:
    """Likewise of many accounts at once; 0 for who was never given any."""
    alive = list(
        CreditGrant.objects.filter(account_id__in=account_ids, taken_back_at=None).exclude(
            expires_at__lte=now
        )
    )
    drawn = usage.credits_drawn_of(grant.pk for grant in alive)
    left: Counter[UUID] = Counter()
    for grant in alive:
        left[grant.account_id] += Held(grant, drawn.get(grant.pk, 0), now).left
    return left


def take_back(top_up: TopUp, now: datetime) -> int:
    """Takes back what is left of the credits that were bought with it, for they were paid back.

    Under the caller's account lock. Calls that are on their way keep what they have drawn. Returns
    how many were taken, as far as the ledger has it; 0 where there are none, or not any more.
    """
    holding = next(
        (
            held
            for held in holdings(top_up.account_id, now)
            if held.grant.cause == bought_with(top_up) and held.left
        ),
        None,
    )
    if holding is None:
        return 0
    CreditGrant.objects.filter(pk=holding.grant.pk).update(taken_back_at=now)
    terms.refresh(top_up.account_id, now)
    log.info("credits.taken_back", top_up=str(top_up.pk), amount=holding.left)
    return holding.left


def bought_with(top_up: TopUp) -> str:
    """The cause of the one grant that a top-up ends in."""
    return f"topup:{top_up.pk}"


def begin_months(account_id: UUID, now: datetime) -> None:
    """Gives an account the credits of the month that its plan has begun."""
    with transaction.atomic():
        accounts.locked(account_id)
        if plan_credits.due(now).filter(account_id=account_id).exists():
            terms.refresh(account_id, now)


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
