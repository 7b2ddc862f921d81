"""Enterprise contracts: an account's own terms, from their start to their end.

A contract runs in place of the plan version's terms and price; where it ends, a subscription
that still lives takes over, else the access ends with it.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet

from billing import accounts, history, pricing, terms
from billing.accounts import Account
from billing.models import BillingEvent, Contract
from keys import issuance
from keys.models import Entitlement


def apply(account: Account, now: datetime) -> None:
    """Makes the account's contracts hold from the next call on.

    Call it after saving or deleting one, in the same transaction. An account whose contract
    runs gets its first key; the change is in the history with what it is worth a month.
    """
    with transaction.atomic():
        _apply(accounts.locked(account.pk), now)


def advance(account_id: UUID, now: datetime) -> None:
    """Lets one account's contract start or end if its time has come."""
    with transaction.atomic():
        account = accounts.locked(account_id)
        if _turned(_running(now).filter(account_id=account_id), _held().filter(pk=account_id)):
            _apply(account, now)


def due_to_advance(now: datetime) -> set[UUID]:
    """Accounts for which `advance` has something to do: ask once a minute."""
    return _turned(_running(now), _held())


def _apply(locked: Account, now: datetime) -> None:
    terms.refresh(locked.pk, now)
    contract = terms.standing(locked.pk, now).contract
    if contract:
        issuance.issue_first(locked, now)
    title = contract.title if contract else ""
    history.record(BillingEvent.Kind.CONTRACT_CHANGED, locked.pk, now, title=title)


def _turned(running: QuerySet[Contract], held: QuerySet[Entitlement]) -> set[UUID]:
    """Accounts whose entitlement speaks of another contract than the one that runs."""
    should = {row.account_id: pricing.id_of_contract(row) for row in running}
    does = dict(held.values_list("account_id", "terms_id"))
    return {
        account_id
        for account_id in {*should, *does}
        if should.get(account_id) != does.get(account_id)
    }


def _running(now: datetime) -> QuerySet[Contract]:
    """Contracts that run; of two of an account the one that holds comes last."""
    return (
        Contract.objects.filter(starts_at__lte=now)
        .filter(Q(ends_at=None) | Q(ends_at__gt=now))
        .order_by("starts_at", "pk")
    )


def _held() -> QuerySet[Entitlement]:
    return Entitlement.objects.exclude(state=Entitlement.State.ENDED).filter(
        terms_id__startswith=pricing.OF_CONTRACT
    )
