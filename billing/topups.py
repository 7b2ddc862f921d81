"""Credits that are bought in a hosted checkout.

`start` sends the buyer to the provider's page. What comes of it is learned by asking, as with
plans (`billing.checkout`): `fetch`, then `apply` in a transaction. However often it is said, one
top-up gives its credits once (`billing.fulfilment`). Those that come by themselves are bought by
`billing.auto_top_ups`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import structlog
from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction

from billing import accounts, asking, fulfilment, payments, providers, terms, tickets
from billing.accounts import Account
from billing.models import CreditPack, PastIncluded, Subscription, TopUp
from billing.models.allowances import MAX_CREDITS
from billing.providers import CheckoutState, ProviderUnavailable, Sale
from billing.terms import NO_PROVIDER, Standing

log = structlog.get_logger(__name__)

State = TopUp.State
# Providers take no more at once: Stripe takes eight digits.
MAX_SALE_MINOR = 99_999_999


class NotForSale(Exception):
    """Not in this amount, not in this currency, or no longer at the price that was seen."""


class NothingTakesCredits(Exception):
    """The account has no plan, or one that credits pay nothing of."""


@dataclass(frozen=True)
class Fetched:
    """A top-up's session as its provider had it after this ticket was taken."""

    ticket: int
    state: CheckoutState


def takes_credits(has: Standing) -> bool:
    """Whether credits pay for anything of what the account has."""
    if has.contract:
        return has.contract.past_included == PastIncluded.CREDITS
    if has.subscription is None:
        return False
    return has.subscription.version.meters.filter(past_included=PastIncluded.CREDITS).exists()


def on_sale(has: Standing) -> list[CreditPack]:
    """The packs that the account may buy: those in its currency."""
    return list(CreditPack.objects.filter(listed=True, currency=has.currency))


def price_minor(pack: CreditPack, amount: int) -> int:
    """What so many cost at the pack's rate: exactly half a minor unit is rounded up.

    Raises `NotForSale` for an amount that the pack isn't sold in.
    """
    if amount != pack.credits and not (pack.any_amount and pack.credits <= amount <= MAX_CREDITS):
        raise NotForSale
    rounded = (2 * pack.price_minor * amount + pack.credits) // (2 * pack.credits)
    if rounded > MAX_SALE_MINOR:
        raise NotForSale
    return rounded


def start(
    account: Account,
    pack: CreditPack,
    amount: int,
    *,
    seen_minor: int,
    user: AbstractBaseUser,
    now: datetime,
) -> TopUp:
    """Opens a hosted checkout for so many credits; the buyer goes to its `url`.

    seen_minor: the price that the buyer has seen

    Returns to `/dashboard/billing/credits/<id>/`. Raises `NothingTakesCredits`, `NotForSale`,
    `ProviderUnavailable`.
    """
    has = terms.standing(account.pk, now)
    if not takes_credits(has):
        raise NothingTakesCredits
    if pack not in on_sale(has) or price_minor(pack, amount) != seen_minor:
        raise NotForSale
    row = TopUp.objects.create(
        account_id=account.pk,
        credits=amount,
        amount_minor=seen_minor,
        currency=pack.currency,
        expires_after_days=pack.expires_after_days,
        provider=_provider_of(has.subscription),
        started_by_id=user.pk,
        created_at=now,
    )
    try:
        session = providers.get(row.provider).create_sale(_sale(row, account))
    except ProviderUnavailable as error:
        row.state, row.error = State.FAILED, str(error)[:200]
        row.save(update_fields=["state", "error"])
        raise
    row.provider_session_id, row.url = session.id, session.url
    row.save(update_fields=["provider_session_id", "url"])
    log.info("topup.started", top_up=str(row.pk), account=str(account.pk))
    return row


def _provider_of(subscription: Subscription | None) -> str:
    """Where the account pays already, so that its receipts are in one place."""
    if subscription is None or subscription.provider == NO_PROVIDER:
        return str(settings.PAYMENT_PROVIDER)
    return subscription.provider


def _sale(row: TopUp, account: Account) -> Sale:
    known = Subscription.objects.filter(account_id=account.pk, provider=row.provider).first()
    page = f"{settings.SITE_URL}/dashboard/billing/credits/"
    return Sale(
        reference=str(row.pk),
        description=f"{row.credits:,} credits",
        amount_minor=row.amount_minor,
        currency=row.currency,
        customer_email=account.billing_email,
        return_url=f"{page}{row.pk}/",
        cancel_url=page,
        customer_id=known.provider_customer_id if known else "",
    )


def fetch(row: TopUp) -> Fetched:
    """Asks the provider. Raises `ProviderUnavailable`; not for use in a transaction."""
    ticket = tickets.take()
    return Fetched(ticket, providers.get(row.provider).fetch_checkout(row.provider_session_id))


def apply(account: Account, top_up_id: UUID, fetched: Fetched, now: datetime) -> None:
    """Makes the stored top-up what its provider had, under the caller's account lock.

    Paid: its credits are given. Does nothing if a newer fetch has been applied; of one that has
    ended, only what was paid back or disputed since is news.
    """
    row = TopUp.objects.get(pk=top_up_id)
    state = fetched.state
    if state.payment is not None:
        payments.apply(account, None, row.provider, [state.payment], fetched.ticket, now)
    if row.state != State.OPEN or fetched.ticket <= row.applied_ticket:
        return
    was_on_its_way = row.payment_pending
    asking.note(row, fetched.ticket, state, now)
    if state.status == "paid":
        row.state = State.COMPLETED
    row.save(update_fields=asking.WRITTEN)
    if row.state == State.COMPLETED:
        fulfilment.give(row, now)
    if asking.is_let_down(row, was_on_its_way):
        fulfilment.tell_of_failure(row, now)


def sync(top_up_id: UUID, now: datetime) -> TopUp:
    """Asks the provider, applies the answer and returns the row as it is then.

    Raises `ProviderUnavailable`.
    """
    row = TopUp.objects.get(pk=top_up_id)
    if row.state == State.OPEN and row.provider_session_id:
        fetched = fetch(row)
        with transaction.atomic():
            apply(accounts.locked(row.account_id), row.pk, fetched, now)
        row.refresh_from_db()
    return row


def due_for_sync(now: datetime) -> list[UUID]:
    """Those to ask about now, whose webhook may be lost."""
    return asking.due(TopUp.objects.filter(state=State.OPEN), now)


def fail_interrupted(now: datetime) -> None:
    """Ends those that were interrupted before their buyer got an address to pay at."""
    visits = TopUp.objects.filter(state=State.OPEN, charge=None)
    failed = asking.interrupted(visits, now).update(
        state=State.FAILED, error="It was interrupted before it began."
    )
    if failed:
        log.warning("topup.interrupted", count=failed)
