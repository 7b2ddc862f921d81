"""A customer of Dodo's from purchase to refund, through the whole site."""

from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone

from billing import (
    accounts,
    charges,
    collecting,
    plan_changes,
    refunds,
    subscriptions,
    wishes,
)
from billing.models import Charge, Refund, Subscription
from billing.providers import ChargeLine
from portal.models import Account
from tests.dodo_trade import pay_as_you_go
from tests.factories import make_account
from tests.shop import published


def upgrade(trade, account: Account):
    now = timezone.now()
    subscription = subscriptions.alive(account)
    wish = wishes.to_version(subscription, trade.shop.plans["pro"])
    quote = plan_changes.quote(subscription, wish, now)
    return quote, plan_changes.change_now(account, wish, quote.as_of, now)


def charge(subscription: Subscription, amount_minor: int) -> Charge:
    now = timezone.now()
    with transaction.atomic():
        accounts.locked(subscription.account_id)
        row = charges.create(
            subscription.account_id,
            subscription,
            [ChargeLine("Calls", amount_minor)],
            "Usage in May",
            now,
        )
    collecting.send_charge(row.pk, now)
    row.refresh_from_db()
    return row


def told(account: Account) -> list[str]:
    return [event.kind for event in account.billing_events.order_by("id")]


@pytest.mark.parametrize("card", ["good", "declined"])
def test_an_upgrade_holds_when_it_is_paid_for(trade, card):
    account = make_account()
    before = trade.buy(account)
    if card == "declined":
        trade.dodo.declining.add(before.provider_customer_id)

    quote, outcome = upgrade(trade, account)
    trade.settle()

    after = subscriptions.alive(account)
    paid = card == "good"
    assert (quote.wish.at, outcome.kind) == ("now", "done" if paid else "unpaid")
    assert after.version.plan.slug == ("pro" if paid else "basic")
    assert (after.period_start, after.period_end) == (before.period_start, before.period_end)
    assert ("plan_changed" in told(account)) is paid
    assert published(account)["plan"] == ("Pro" if paid else "Basic")


def test_usage_of_a_mandate_is_charged_once_and_paid_back(trade):
    pay_as_you_go(trade)
    account = make_account()
    row = trade.start(account, "payg")
    trade.pay(row)
    trade.settle()
    subscription = subscriptions.alive(account)

    trade.dodo.faults.extend(["nothing", "nothing", "lost answer"])
    with pytest.raises(Exception, match="Dodo"):
        charge(subscription, 12_00)
    due = Charge.objects.get()
    collecting.send_charge(due.pk, timezone.now() + timedelta(hours=1))
    due.refresh_from_db()
    trade.settle()

    (payment,) = account.payments.all()
    refund = refunds.ask(payment.pk, 5_00, "A mistake of ours.", timezone.now())
    collecting.send_refund(refund.pk, timezone.now())
    trade.settle()

    payment.refresh_from_db()
    assert subscription.charged_by == Subscription.ChargedBy.KEYSTILE
    assert due.state == Charge.State.PAID
    assert (payment.amount_minor, payment.refunded_minor, payment.kind) == (12_00, 5_00, "charge")
    assert Refund.objects.get().state == Refund.State.DONE
    assert told(account) == ["started", "charged", "refunded"]


def test_a_lost_dispute_suspends(trade):
    account = make_account()
    trade.buy(account)
    (payment_id,) = trade.dodo.payments
    trade.dodo.dispute(payment_id)
    trade.settle()
    trade.dodo.dispute(payment_id, "lost")

    trade.settle()

    assert account.payments.get().dispute == "lost"
    assert told(account) == ["started", "disputed", "dispute_lost"]


def test_cancelled_now_it_ends_here_and_there(trade):
    account = make_account()
    subscription = trade.buy(account)

    subscriptions.cancel(account, at_period_end=False, now=timezone.now())
    trade.settle()

    at_dodo = trade.dodo.subscriptions[subscription.provider_subscription_id]
    subscription.refresh_from_db()
    assert (at_dodo["status"], subscription.state) == ("cancelled", Subscription.State.ENDED)
