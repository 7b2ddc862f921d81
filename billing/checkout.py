"""From a plan version to a paid subscription: one visit to a provider's hosted checkout.

`start` sends the buyer there. What comes of it is learned by asking the provider, never from
the browser that returns: `fetch`, then `apply` in a transaction. Asked by the inbox when a
webhook hints at it, and by beat for checkouts whose webhook never came.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import structlog
from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.db.models import Q

from billing import accounts, asking, catalogue, history, providers, subscriptions, tickets
from billing.accounts import Account
from billing.models import BillingEvent, Checkout, PlanVersion
from billing.providers import CheckoutState, Order, ProviderUnavailable
from billing.subscriptions import AlreadySubscribed
from billing.terms import NO_PROVIDER

log = structlog.get_logger(__name__)

State = Checkout.State


class OtherCurrency(Exception):
    """The account pays in another currency, since its first purchase."""


class NotForSale(Exception):
    """This version is a draft, an old one, free, or sold by staff only."""


@dataclass(frozen=True)
class Fetched:
    """A checkout as its provider had it after this ticket was taken."""

    ticket: int
    state: CheckoutState


def start(
    account: Account, version: PlanVersion, *, user: AbstractBaseUser, now: datetime
) -> Checkout:
    """Opens a hosted checkout; the buyer goes to its `url`.

    Returns to `/checkout/<id>/`, or to `/buy/<plan>/` when the buyer turns back. Raises
    `NotForSale`, `AlreadySubscribed` (a paid subscription lives), `OtherCurrency`,
    `ProviderUnavailable`.
    """
    if not catalogue.for_sale(version):
        raise NotForSale
    held = subscriptions.alive(account)
    if held and held.provider != NO_PROVIDER:
        raise AlreadySubscribed
    if catalogue.currency_of(account.pk) not in ("", version.currency):
        raise OtherCurrency
    row = Checkout.objects.create(
        account_id=account.pk,
        version=version,
        provider=settings.PAYMENT_PROVIDER,
        started_by_id=user.pk,
        created_at=now,
    )
    return open_session(row, order_of(row, account))


def open_session(row: Checkout, order: Order) -> Checkout:
    """Opens the checkout at its provider. Raises `ProviderUnavailable`: then it has failed."""
    try:
        session = providers.get(row.provider).create_checkout(order)
    except ProviderUnavailable as error:
        row.state, row.error = State.FAILED, str(error)[:200]
        row.save(update_fields=["state", "error"])
        raise
    row.provider_session_id, row.url = session.id, session.url
    row.save(update_fields=["provider_session_id", "url"])
    log.info("checkout.started", checkout=str(row.pk), account=str(row.account_id))
    return row


def order_of(row: Checkout, account: Account) -> Order:
    """What the provider is asked to sell."""
    version = row.version
    return Order(
        reference=str(row.pk),
        items=catalogue.items(version),
        currency=version.currency,
        interval=catalogue.interval_of(version),
        customer_email=account.billing_email,
        return_url=f"{settings.SITE_URL}/checkout/{row.pk}/",
        cancel_url=f"{settings.SITE_URL}/buy/{version.plan.slug}/{catalogue.query_of(version)}",
        trial_days=catalogue.trial_days(account.pk, row.started_by_id, version),
    )


def fetch(row: Checkout) -> Fetched:
    """Asks the provider. Raises `ProviderUnavailable`; not for use in a transaction."""
    ticket = tickets.take()
    return Fetched(ticket, providers.get(row.provider).fetch_checkout(row.provider_session_id))


def apply(account: Account, checkout_id: UUID, fetched: Fetched, now: datetime) -> None:
    """Makes the stored checkout what its provider had, under the caller's account lock.

    Paid: the subscription starts and the first key is issued, once, however often this is
    said; where the account has a paid one already, the checkout is superseded and
    `refund_superseded` must follow. Does nothing if a newer fetch has been applied.
    """
    row = Checkout.objects.select_related("version__plan").get(pk=checkout_id)
    if row.state != State.OPEN or fetched.ticket <= row.applied_ticket:
        return
    state = fetched.state
    was_on_its_way = row.payment_pending
    asking.note(row, fetched.ticket, state, now)
    if state.status == "paid" and state.subscription is not None:
        bought = subscriptions.Fetched(fetched.ticket, state.subscription)
        row.state = _paid(account, row, bought, now)
    row.save(update_fields=asking.WRITTEN)
    if asking.is_let_down(row, was_on_its_way):
        history.record(
            BillingEvent.Kind.PURCHASE_FAILED,
            account.pk,
            now,
            refused_plan=row.version.plan.name,
            refused_slug=row.version.plan.slug,
            reason=row.error,
        )
    if row.state != State.OPEN:
        log.info(f"checkout.{row.state}", checkout=str(row.pk), account=str(account.pk))


def _paid(
    account: Account, row: Checkout, bought: subscriptions.Fetched, now: datetime
) -> Checkout.State:
    if bought.state.status == "ended":
        row.error = "It ended before it began."
        return State.FAILED
    held = subscriptions.alive(account)
    if held is not None and held.pk == row.replaces_id:
        subscriptions.move(account, held, row.provider, bought, user_id=row.started_by_id, now=now)
        return State.COMPLETED
    try:
        subscriptions.start_paid(
            account, row.version, row.provider, bought, user_id=row.started_by_id, now=now
        )
    except AlreadySubscribed:
        return State.SUPERSEDED
    return State.COMPLETED


def refund_superseded(checkout_id: UUID, now: datetime) -> None:
    """Cancels and refunds a second purchase at its provider, then says so in the history.

    Does nothing for other checkouts, or when it has been done. Raises `ProviderUnavailable`:
    beat then tries again.
    """
    row = Checkout.objects.get(pk=checkout_id)
    if row.state != State.SUPERSEDED or row.refunded_at is not None:
        return
    provider = providers.get(row.provider)
    bought = provider.fetch_checkout(row.provider_session_id).subscription
    if bought is None:
        raise ProviderUnavailable("A paid checkout without a subscription.")
    provider.refund_and_cancel(bought.id)
    with transaction.atomic():
        accounts.locked(row.account_id)
        if not Checkout.objects.filter(pk=row.pk, refunded_at=None).update(refunded_at=now):
            return
        history.record(
            BillingEvent.Kind.DUPLICATE_REFUNDED,
            row.account_id,
            now,
            checkout=str(row.pk),
            refunded_plan=row.version.plan.name,
            amount_minor=row.version.base_price_minor,
            currency=row.version.currency,
        )


def sync(checkout_id: UUID, now: datetime) -> Checkout:
    """Asks the provider, applies the answer and returns the row as it is then.

    Raises `ProviderUnavailable`.
    """
    row = Checkout.objects.get(pk=checkout_id)
    if row.state == State.OPEN and row.provider_session_id:
        fetched = fetch(row)
        with transaction.atomic():
            apply(accounts.locked(row.account_id), row.pk, fetched, now)
    refund_superseded(checkout_id, now)
    row.refresh_from_db()
    return row


def due_for_sync(now: datetime) -> list[UUID]:
    """Checkouts to ask about now: open ones whose webhook may be lost, refunds not done yet."""
    unsettled = Q(state=State.OPEN) | Q(state=State.SUPERSEDED, refunded_at=None)
    return asking.due(Checkout.objects.filter(unsettled), now)


def fail_interrupted(now: datetime) -> None:
    """Ends checkouts that were interrupted before their buyer got an address to pay at."""
    interrupted = asking.interrupted(Checkout.objects.filter(state=State.OPEN), now)
    failed = interrupted.update(state=State.FAILED, error="It was interrupted before it began.")
    if failed:
        log.warning("checkout.interrupted", count=failed)
