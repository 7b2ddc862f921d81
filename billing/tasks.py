"""Billing's work for Celery. A message says “go and look”; beat says so again if it is lost."""

from uuid import UUID

import structlog
from celery import shared_task

from billing import (
    allowances,
    auto_top_ups,
    charges,
    checkout,
    collecting,
    contracts,
    deadlines,
    drift,
    inbox,
    invoices,
    plan_changes,
    plan_credits,
    price_changes,
    provider_moves,
    reconciliation,
    rehearsal,
    shipping,
    subscriptions,
    topups,
)
from billing.providers import ProviderUnavailable
from billing.sandbox import deliveries, orders
from keys import clock

log = structlog.get_logger(__name__)

_ROWS_AT_ONCE = 100


@shared_task(ignore_result=True)
def process_event(event_id: int) -> None:
    """One delivery of the inbox. What goes wrong is noted in its row and raised here."""
    inbox.process(event_id, clock.now())


@shared_task(ignore_result=True)
def process_waiting() -> None:
    """Deliveries whose next attempt is due, or whose message was lost."""
    for event_id in inbox.waiting(clock.now()).values_list("pk", flat=True)[:_ROWS_AT_ONCE]:
        process_event.delay(event_id)


@shared_task(ignore_result=True)
def sync_open_checkouts() -> None:
    """Checkouts that may have been paid without a webhook reaching us."""
    now = clock.now()
    checkout.fail_interrupted(now)
    for checkout_id in checkout.due_for_sync(now):
        sync_checkout.delay(str(checkout_id))
    for moved in provider_moves.to_finish().values_list("pk", flat=True)[:_ROWS_AT_ONCE]:
        finish_move.delay(str(moved))


@shared_task(ignore_result=True)
def finish_move(checkout_id: str) -> None:
    """A task of its own, so that a provider that is away keeps no other waiting."""
    try:
        provider_moves.finish(UUID(checkout_id), clock.now())
    except ProviderUnavailable as error:
        log.warning("checkout.not_finished", checkout=checkout_id, error=str(error))


@shared_task(ignore_result=True)
def sync_checkout(checkout_id: str) -> None:
    try:
        checkout.sync(UUID(checkout_id), clock.now())
    except ProviderUnavailable as error:
        log.warning("checkout.unanswered", checkout=checkout_id, error=str(error))


@shared_task(ignore_result=True)
def sync_open_top_ups() -> None:
    """Credits that may have been paid for without a webhook reaching us."""
    now = clock.now()
    topups.fail_interrupted(now)
    for top_up_id in topups.due_for_sync(now):
        sync_top_up.delay(str(top_up_id))


@shared_task(ignore_result=True)
def sync_top_up(top_up_id: str) -> None:
    try:
        topups.sync(UUID(top_up_id), clock.now())
    except ProviderUnavailable as error:
        log.warning("topup.unanswered", top_up=top_up_id, error=str(error))


@shared_task(ignore_result=True)
def buy_credits() -> None:
    """Credits that come by themselves where few are left."""
    for account_id in auto_top_ups.due(clock.now()):
        buy_credits_for.delay(str(account_id))


@shared_task(ignore_result=True)
def buy_credits_for(account_id: str) -> None:
    row = auto_top_ups.buy(UUID(account_id), clock.now())
    if row is not None:
        send_charge.delay(str(row.charge_id))


@shared_task(ignore_result=True)
def begin_months() -> None:
    """Months of usage that bring credits, also within a year that is paid at once."""
    for account_id in set(plan_credits.due(clock.now()).values_list("account_id", flat=True)):
        begin_months_of.delay(str(account_id))


@shared_task(ignore_result=True)
def begin_months_of(account_id: str) -> None:
    allowances.begin_months(UUID(account_id), clock.now())


@shared_task(ignore_result=True)
def advance_subscriptions() -> None:
    """What the passing of time does to subscriptions and contracts, once a minute."""
    now = clock.now()
    moved = deadlines.due(now) | contracts.due_to_advance(now) | charges.due_to_advance(now)
    for account_id in moved:
        advance_account.delay(str(account_id))
    for due in subscriptions.due_for_sync(now).values_list("pk", flat=True)[:_ROWS_AT_ONCE]:
        sync_subscription.delay(str(due))
    for untold in plan_changes.to_tell().values_list("pk", flat=True)[:_ROWS_AT_ONCE]:
        tell_provider.delay(str(untold))


@shared_task(ignore_result=True)
def advance_account(account_id: str) -> None:
    """A task of its own, so that an account that can't be advanced keeps no other waiting."""
    now = clock.now()
    deadlines.advance(UUID(account_id), now)
    contracts.advance(UUID(account_id), now)
    charges.advance(UUID(account_id), now)


@shared_task(ignore_result=True)
def advance_price_changes() -> None:
    """Customers whose new price is near, or has come."""
    for move_id in price_changes.due_to_advance(clock.now()):
        advance_price_move.delay(move_id)


@shared_task(ignore_result=True)
def advance_price_move(move_id: int) -> None:
    price_changes.advance(move_id, clock.now())


@shared_task(ignore_result=True)
def close_invoices() -> None:
    """Invoices whose period is over, once the ledger's hours that they rest on are closed."""
    for account_id in invoices.due_to_close():
        close_invoices_of.delay(str(account_id))


@shared_task(ignore_result=True)
def close_invoices_of(account_id: str) -> None:
    """A task of its own, so that an account whose usage can't be rated keeps no other waiting."""
    invoices.close_due(UUID(account_id), clock.now())


@shared_task(ignore_result=True)
def sync_subscription(subscription_id: str) -> None:
    try:
        subscriptions.sync(UUID(subscription_id), clock.now())
    except ProviderUnavailable as error:
        log.warning("subscription.unanswered", subscription=subscription_id, error=str(error))


@shared_task(ignore_result=True)
def tell_provider(subscription_id: str) -> None:
    """What is planned for the period's end, where its provider has not heard of it."""
    try:
        plan_changes.tell(UUID(subscription_id), clock.now())
    except ProviderUnavailable as error:
        log.warning("subscription.untold", subscription=subscription_id, error=str(error))


@shared_task(ignore_result=True)
def collect_money() -> None:
    """Charges and refunds that are due, or whose outcome was not heard."""
    now = clock.now()
    for charge_id in collecting.due_charges(now).values_list("pk", flat=True)[:_ROWS_AT_ONCE]:
        send_charge.delay(str(charge_id))
    for refund_id in collecting.due_refunds(now).values_list("pk", flat=True)[:_ROWS_AT_ONCE]:
        send_refund.delay(str(refund_id))


@shared_task(ignore_result=True)
def send_charge(charge_id: str) -> None:
    try:
        collecting.send_charge(UUID(charge_id), clock.now())
    except ProviderUnavailable as error:
        log.warning("charge.unanswered", charge=charge_id, error=str(error))


@shared_task(ignore_result=True)
def send_refund(refund_id: str) -> None:
    try:
        collecting.send_refund(UUID(refund_id), clock.now())
    except ProviderUnavailable as error:
        log.warning("refund.unanswered", refund=refund_id, error=str(error))


@shared_task(ignore_result=True)
def collect_shipments() -> None:
    """What was recorded since the last time becomes shipments."""
    now = clock.now()
    shipping.collect(now)
    send_shipments()


@shared_task(ignore_result=True)
def send_shipments() -> None:
    """A task for each provider that has something due, so that one that is away stops no other."""
    for provider in shipping.providers_due(clock.now()):
        send_to.delay(provider)


@shared_task(ignore_result=True)
def send_to(provider: str) -> None:
    shipping.send(provider, clock.now())


@shared_task(ignore_result=True)
def reconcile_providers() -> None:
    """Each provider's counts against the ledger, once a day and when staff ask for it."""
    shipping.collect(clock.now())
    for provider in reconciliation.in_use():
        reconcile_provider.delay(provider)


@shared_task(ignore_result=True)
def reconcile_provider(provider: str) -> None:
    reconciliation.reconcile(provider, clock.now())


@shared_task(ignore_result=True)
def find_drift() -> None:
    """Subscriptions that no provider has spoken of for a day, some at a time."""
    for subscription_id in drift.due(clock.now()).values_list("pk", flat=True)[:_ROWS_AT_ONCE]:
        look_for_drift.delay(str(subscription_id))


@shared_task(ignore_result=True)
def look_for_drift(subscription_id: str) -> None:
    try:
        drift.look(UUID(subscription_id), clock.now())
    except ProviderUnavailable as error:
        log.warning("subscription.unanswered", subscription=subscription_id, error=str(error))


@shared_task(ignore_result=True)
def sandbox_tick() -> None:
    """One second in the sandbox's world: its orders move on, its webhooks leave."""
    now = clock.now()
    if rehearsal.under_way():
        sandbox_travel.apply_async(expires=1)
    orders.advance(now)
    for delivery_id in deliveries.due(now).values_list("pk", flat=True)[:_ROWS_AT_ONCE]:
        sandbox_deliver.delay(delivery_id)


@shared_task(ignore_result=True)
def sandbox_travel() -> None:
    """Goes on with the way to a later time, on which staff have sent the clock."""
    rehearsal.travel()


@shared_task(ignore_result=True)
def sandbox_deliver(delivery_id: str) -> None:
    deliveries.send(delivery_id, clock.now())
