"""Credits that come by themselves: one at a time, as often as agreed, at the price agreed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from django.core.exceptions import ValidationError
from django.db import connections
from django.utils import timezone

from billing import allowances, auto_top_ups, charges, collecting, topups
from billing.models import AutoTopUp, Charge, CreditPack, Plan, Subscription, TopUp
from billing.providers import ProviderUnavailable
from billing.sandbox.models import SandboxFaults, SandboxOrder, SandboxPayment
from keys.models import Entitlement
from tests.factories import make_account, make_plans
from tests.prepaid import START, draw, make_pack, prepaid_version, subscribed

NOW = START + timedelta(days=1)
State = TopUp.State

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_clean")]


def at_the_sandbox(subscription: Subscription) -> SandboxOrder:
    """What the sandbox has of it, so that it can be charged."""
    return SandboxOrder.objects.create(
        id=f"co_{subscription.pk.hex}",
        reference=str(subscription.pk),
        customer_id=subscription.provider_customer_id,
        customer_email="a@example.com",
        description="Prepaid",
        amount_minor=10_00,
        currency="USD",
        interval="month",
        subscription_id=subscription.provider_subscription_id,
        state=SandboxOrder.State.ACTIVE,
        period_start=subscription.period_start,
        period_end=subscription.period_end,
        created_at=subscription.started_at,
    )


@pytest.fixture
def account(db):
    subscription = subscribed(prepaid_version())
    at_the_sandbox(subscription)
    return subscription.account


def wish(account, pack=None, *, below=100, most_per_month=5, **fields) -> AutoTopUp:
    pack = pack or make_pack(1000, 10_00)
    given = {"seen_minor": pack.price_minor, "by": None, "now": NOW} | fields
    return auto_top_ups.switch_on(
        account, pack, pack.credits, below=below, most_per_month=most_per_month, **given
    )


def pass_time(now: datetime) -> None:
    """What beat does: buys what is due and collects the money."""
    for account_id in auto_top_ups.due(now):
        auto_top_ups.buy(account_id, now)
    for charge_id in collecting.due_charges(now).values_list("pk", flat=True):
        collecting.send_charge(charge_id, now)


def spend(account, left: int, now: datetime = NOW) -> None:
    """Calls draw all but so many of the newest grant."""
    newest = account.credit_grants.order_by("pk").last()
    balance = allowances.balance(account.pk, now)
    draw(account, newest.pk, balance - left)


def test_few_credits_left_buy_the_pack_once(account):
    wish(account)

    for second in range(5):
        pass_time(NOW + timedelta(seconds=10 * second))

    row = account.top_ups.get()
    assert (row.state, row.automatic, row.credits, row.amount_minor) == (
        State.COMPLETED, True, 1000, 10_00,
    )  # fmt: skip
    assert allowances.balance(account.pk, NOW) == 1000
    assert SandboxPayment.objects.get().amount_minor == 10_00
    assert [event.kind for event in account.billing_events.all()] == ["topped_up"]


def test_nothing_is_bought_while_enough_is_left(account):
    wish(account, below=100)
    pass_time(NOW)
    spend(account, left=100)

    pass_time(NOW)
    enough = account.top_ups.count()
    spend(account, left=99)
    pass_time(NOW)

    assert (enough, account.top_ups.count()) == (1, 2)


def test_no_more_than_agreed_come_in_a_month(account):
    wish(account, most_per_month=2)
    for _ in range(5):
        pass_time(NOW)
        spend(account, left=0)

    in_may = account.top_ups.count()
    pass_time(datetime(2026, 6, 1, tzinfo=NOW.tzinfo))

    assert (in_may, account.top_ups.count()) == (2, 3)


def test_a_failed_charge_pauses_until_the_customer_goes_on(account):
    wish(account)
    SandboxOrder.objects.update(declines=True)

    for day in range(5):
        pass_time(NOW + timedelta(days=day))
    paused = AutoTopUp.objects.get().paused_because
    failed = [event.kind for event in account.billing_events.all()]
    SandboxOrder.objects.update(declines=False)
    auto_top_ups.resume(account)
    pass_time(NOW + timedelta(days=6))

    assert paused == "Your card was declined."
    assert failed == ["top_up_failed"]
    assert sorted(account.top_ups.values_list("state", flat=True)) == ["completed", "failed"]
    assert allowances.balance(account.pk, NOW) == 1000


def test_a_charge_whose_answer_is_lost_takes_the_money_once(account):
    wish(account)
    faults = SandboxFaults.objects.create(unanswered=100)
    with pytest.raises(ProviderUnavailable):
        pass_time(NOW)
    faults.delete()

    pass_time(NOW + timedelta(seconds=30))
    between = (account.top_ups.count(), allowances.balance(account.pk, NOW))
    pass_time(NOW + timedelta(hours=1))

    assert between == (1, None)
    assert SandboxPayment.objects.count() == 1
    assert allowances.balance(account.pk, NOW) == 1000
    assert account.top_ups.count() == 1


def test_a_charge_that_is_paid_after_all_gives_its_credits(account):
    wish(account)
    SandboxOrder.objects.update(declines=True)
    pass_time(NOW)

    charge = Charge.objects.get()
    charges.paid(charge, NOW)
    charges.paid(Charge.objects.get(), NOW)

    assert allowances.balance(account.pk, NOW) == 1000
    assert account.top_ups.get().state == State.COMPLETED


@pytest.mark.parametrize("change", [{"price_minor": 11_00}, {"credits": 900}, {"listed": False}])
def test_a_pack_that_has_changed_is_not_bought_until_the_customer_has_seen_it(account, change):
    pack = make_pack(1000, 10_00)
    wish(account, pack)
    CreditPack.objects.update(**change)

    pass_time(NOW)

    assert AutoTopUp.objects.get().paused_because == auto_top_ups.PACK_CHANGED
    assert not TopUp.objects.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"state": "past_due"},
        {"state": "paused"},
        {"state": "ended"},
        {"cancel_at_period_end": True},
    ],
)
def test_who_does_not_go_on_paying_for_a_plan_is_charged_for_none(account, change):
    wish(account)
    account.subscriptions.update(**change)

    pass_time(NOW)

    assert auto_top_ups.due(NOW) == []
    assert not TopUp.objects.exists()


def test_a_suspended_account_is_charged_for_none(account):
    wish(account)
    Entitlement.objects.update(suspended=True)

    pass_time(NOW)

    assert not TopUp.objects.exists()


def test_who_has_no_provider_or_takes_no_credits_can_not_switch_it_on():
    free = subscribed(prepaid_version(kind=Plan.Kind.FREE), provider="none").account
    pro = subscribed(make_plans()["pro"]).account

    for account in (free, make_account()):
        with pytest.raises(auto_top_ups.NotPaidHere):
            wish(account)
    with pytest.raises(topups.NothingTakesCredits):
        wish(pro)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"seen_minor": 9_99}, topups.NotForSale),
        ({"most_per_month": 0}, ValidationError),
        ({"most_per_month": 101}, ValidationError),
        ({"below": -1}, ValidationError),
    ],
)
def test_what_was_not_agreed_or_is_out_of_bounds_is_refused(account, fields, error):
    with pytest.raises(error):
        wish(account, **fields)

    assert not AutoTopUp.objects.exists()


def test_switched_off_buys_nothing(account):
    wish(account)
    auto_top_ups.switch_off(account)

    pass_time(NOW)

    assert not TopUp.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_eight_workers_at_once_buy_one(transactional_db):
    subscription = subscribed(prepaid_version())
    at_the_sandbox(subscription)
    wish(subscription.account)
    now = timezone.now()

    def work(_):
        pass_time(now)
        connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))

    assert TopUp.objects.count() == 1
    assert SandboxPayment.objects.count() == 1
    assert allowances.balance(subscription.account_id, now) == 1000
