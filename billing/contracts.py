"""Enterprise contracts: an account's own terms, from their start to their end.

A contract runs in place of the plan version's terms and price; where it ends, a subscription
that still lives takes over, else the access ends with it.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from billing import accounts, history, terms
from billing.accounts import Account
from billing.models import BillingEvent, Contract
from keys import issuance
from keys.models import Entitlement

_PREFIX = "contract:"


def apply(account: Account, now: datetime) -> None:
    """Makes the account's contracts hold from the next call on.

    Call it after saving or deleting one, in the same transaction. An account whose contract
    runs gets its first key; the change is in the history with what it is worth a month.
    """
    with transaction.atomic():
        owner = accounts.locked(account.pk)
        terms.refresh(owner.pk, now)
        contract = terms.standing(owner.pk, now).contract
        if contract:
            issuance.issue_first(owner, now)
        title = contract.title if contract else ""
        history.record(BillingEvent.Kind.CONTRACT_CHANGED, owner.pk, now, title=title)


def advance(now: datetime) -> None:
    """Lets contracts start and end when their time has come: call it once a minute."""
    for account_id in _turned(now):
        with transaction.atomic():
            apply(accounts.locked(account_id), now)


def _turned(now: datetime) -> list[UUID]:
    """Accounts whose entitlement speaks of another contract than the one that runs now."""
    running = {
        contract.account_id: f"{_PREFIX}{contract.pk}"
        for contract in Contract.objects.filter(starts_at__lte=now)
        .filter(Q(ends_at=None) | Q(ends_at__gt=now))
        .order_by("starts_at", "pk")
    }
    held = dict(
        Entitlement.objects.exclude(state=Entitlement.State.ENDED)
        .filter(terms_id__startswith=_PREFIX)
        .values_list("account_id", "terms_id")
    )
    return [
        account_id
        for account_id in {*running, *held}
        if running.get(account_id) != held.get(account_id)
    ]
