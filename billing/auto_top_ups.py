"""Credits that come by themselves: bought by a charge when few are left.

At most one at a time, and only while the account's plan is paid by a provider. What was agreed
is kept; a charge that failed, or a pack that has changed since, pauses it until the customer
looks at it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet

from billing import accounts, allowances, charges, terms, topups
from billing.accounts import Account
from billing.models import AutoTopUp, CreditPack, Subscription, TopUp
from billing.providers import ChargeLine
from billing.terms import NO_PROVIDER, Standing

log = structlog.get_logger(__name__)

PACK_CHANGED = "The pack is sold at another price now, or no longer."


class NotPaidHere(Exception):
    """The account has no plan that goes on and that a provider is paid for."""


def available(has: Standing) -> bool:
    """Whether the account has a plan that a provider is paid for, and that goes on."""
    return (
        has.subscription is not None
        and has.subscription.provider != NO_PROVIDER
        and has.subscription.state == Subscription.State.ACTIVE
        and not has.subscription.cancel_at_period_end
    )


def switch_on(
    account: Account,
    pack: CreditPack,
    amount: int,
    *,
    seen_minor: int,
    below: int,
    most_per_month: int,
    by: Any,
    now: datetime,
) -> AutoTopUp:
    """Buys the pack from now on whenever fewer credits than `below` are left.

    amount:     the pack's credits, as the customer saw them; likewise `seen_minor`, their price

    A pause ends with it. Raises `NotPaidHere`, `topups.NothingTakesCredits`,
    `topups.NotForSale`, and Django's ValidationError for numbers out of bounds.
    """
    with transaction.atomic():
        owner = accounts.locked(account.pk)
        has = terms.standing(owner.pk, now)
        if not available(has):
            raise NotPaidHere
        if not topups.takes_credits(has):
            raise topups.NothingTakesCredits
        seen = (amount, seen_minor)
        if pack not in topups.on_sale(has) or (pack.credits, pack.price_minor) != seen:
            raise topups.NotForSale
        wish = AutoTopUp(
            account_id=owner.pk,
            pack=pack,
            credits=pack.credits,
            amount_minor=pack.price_minor,
            currency=pack.currency,
            below=below,
            most_per_month=most_per_month,
            set_by=by,
            set_at=now,
        )
        wish.clean_fields()
        wish.save()
    log.info("auto_top_up.on", account=str(account.pk), pack=pack.pk, below=below)
    return wish


def switch_off(account: Account) -> None:
    """Buys no more by itself; what is being charged still is."""
    AutoTopUp.objects.filter(account_id=account.pk).delete()
    log.info("auto_top_up.off", account=str(account.pk))


def due(now: datetime) -> list[UUID]:
    """Accounts for which `buy` has something to do, as far as the ledger has it."""
    wishes = list(_ready().select_related("pack"))
    left = allowances.balances([wish.account_id for wish in wishes], now)
    return [
        wish.account_id
        for wish in wishes
        if left[wish.account_id] < wish.below
        and _may_buy(wish, terms.standing(wish.account_id, now), now)
    ]


def buy(account_id: UUID, now: datetime) -> TopUp | None:
    """Begins one top-up, if one is due; None where none is, or the month has had its most.

    `billing.charges` takes the money, and what becomes of it is told to `billing.fulfilment`.
    """
    with transaction.atomic():
        accounts.locked(account_id)
        wish = _ready().filter(account_id=account_id).select_related("pack").first()
        if wish is None or allowances.balances([account_id], now)[account_id] >= wish.below:
            return None
        has = terms.standing(account_id, now)
        if has.subscription is None or not _may_buy(wish, has, now):
            return None
        if not _still_agreed(wish, has):
            AutoTopUp.objects.filter(account_id=account_id).update(paused_because=PACK_CHANGED)
            return None
        return _begin(wish, has.subscription, now)


def _may_buy(wish: AutoTopUp, has: Standing, now: datetime) -> bool:
    return (
        available(has)
        and topups.takes_credits(has)
        and bought_this_month(wish.account_id, now) < wish.most_per_month
    )


def _begin(wish: AutoTopUp, subscription: Subscription, now: datetime) -> TopUp:
    text = f"{wish.credits:,} credits"
    charge = charges.create(
        wish.account_id,
        subscription,
        [ChargeLine(text, wish.amount_minor)],
        text,
        now,
        currency=wish.currency,
    )
    row = TopUp.objects.create(
        account_id=wish.account_id,
        credits=wish.credits,
        amount_minor=wish.amount_minor,
        currency=wish.currency,
        expires_after_days=wish.pack.expires_after_days,
        automatic=True,
        charge=charge,
        provider=subscription.provider,
        started_by_id=wish.set_by_id,
        created_at=now,
    )
    log.info("auto_top_up.begun", account=str(wish.account_id), top_up=str(row.pk))
    return row


def resume(account: Account) -> None:
    """Goes on buying after a failed charge, at the price that was agreed."""
    AutoTopUp.objects.filter(account_id=account.pk).update(paused_because="")
    log.info("auto_top_up.resumed", account=str(account.pk))


def bought_this_month(account_id: UUID, now: datetime) -> int:
    """Top-ups that came by themselves since the month began, UTC; failed ones don't count."""
    began = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return TopUp.objects.filter(
        account_id=account_id,
        automatic=True,
        created_at__gte=began,
        state__in=(TopUp.State.OPEN, TopUp.State.COMPLETED),
    ).count()


def _ready() -> QuerySet[AutoTopUp]:
    """Wishes that are not paused, of accounts that may call, with nothing on its way already."""
    on_its_way = TopUp.objects.filter(
        account_id=OuterRef("account_id"), automatic=True, state=TopUp.State.OPEN
    )
    return AutoTopUp.objects.filter(
        ~Exists(on_its_way), paused_because="", account__entitlement__suspended=False
    )


def _still_agreed(wish: AutoTopUp, has: Standing) -> bool:
    pack = wish.pack
    return (
        pack in topups.on_sale(has)
        and (pack.credits, pack.price_minor, pack.currency)
        == (wish.credits, wish.amount_minor, wish.currency)
    )  # fmt: skip
