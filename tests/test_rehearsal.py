"""The demo's time played ahead: everything happens when it is due, one thing after the other."""

from __future__ import annotations

import time
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from billing import rehearsal
from billing.models import BillingEvent, Invoice, ProviderEvent
from billing.sandbox.models import SandboxDelivery, SandboxFaults
from keys import clock
from portal.models import Account
from tests.factories import make_account
from tests.shop import Shop

DAY = timedelta(days=1)


@pytest.fixture
def customer(shop: Shop, movable) -> Account:
    account = make_account()
    shop.buy(account, "basic", at=timezone.now())
    return account


def told(account: Account) -> list[str]:
    return list(account.billing_events.order_by("at", "pk").values_list("kind", flat=True))


def play(by: timedelta) -> None:
    rehearsal.set_out(by)
    assert rehearsal.travel(budget_seconds=120)


def test_a_quarter_renews_and_closes_its_invoices_one_by_one(customer):
    began = time.monotonic()

    play(100 * DAY)

    renewed = list(customer.billing_events.filter(kind="renewed").order_by("at"))
    subscription = customer.subscriptions.get()
    assert [event.at.month for event in renewed] == _months_after(subscription.started_at, 3)
    assert all(event.at.day == subscription.anchor_day for event in renewed)
    closed = customer.invoices.filter(state=Invoice.State.CLOSED).order_by("period_start")
    assert [row.total_minor for row in closed] == [5000] * 3
    assert [row.number for row in closed] == [1, 2, 3]
    assert all(timedelta() < row.closed_at - row.period_end < 2 * DAY for row in closed)
    assert subscription.period_start <= clock.now() < subscription.period_end
    assert rehearsal.waiting() == {}
    assert time.monotonic() - began < 60


def _months_after(start, count):
    return [(start.month - 1 + number) % 12 + 1 for number in range(1, count + 1)]


def test_lost_webhooks_and_lost_answers_end_in_the_same_state(customer):
    SandboxFaults.objects.create(drop=50, repeat=2, reorder=True, unanswered=20, refused=20)

    play(40 * DAY)
    SandboxFaults.objects.all().delete()
    play(DAY)

    assert told(customer).count("renewed") == 1
    assert customer.subscriptions.get().period_start > timezone.now() + 25 * DAY
    assert not ProviderEvent.objects.filter(dead_at__isnull=False).exists()


def test_a_delivery_that_is_held_up_comes_later(customer):
    SandboxFaults.objects.create(delay_seconds=3 * 86400, refused=100)
    play(customer.subscriptions.get().period_end - clock.now() + timedelta(seconds=5))
    assert SandboxDelivery.objects.get().attempts == 0

    SandboxFaults.objects.update(refused=0)
    play(3 * DAY)

    assert SandboxDelivery.objects.get().delivered_at
    assert told(customer).count("renewed") == 1


@pytest.mark.parametrize("by", [timedelta(), -DAY, 367 * DAY])
def test_nobody_sets_out_for_the_past_or_beyond_a_year(customer, by):
    with pytest.raises(ValueError, match="year"):
        rehearsal.set_out(by)

    assert rehearsal.under_way() is None


def test_where_the_clock_stands_nobody_sets_out(customer, settings):
    settings.CLOCK_CAN_MOVE = False

    with pytest.raises(clock.CannotMove):
        rehearsal.set_out(DAY)
    with pytest.raises(CommandError, match="CLOCK_CAN_MOVE"):
        call_command("sandbox_clock", days=1)


def test_a_journey_goes_on_where_it_was_left(customer):
    until = rehearsal.set_out(10 * DAY)

    assert not rehearsal.travel(budget_seconds=0)
    assert rehearsal.under_way().until == until
    assert rehearsal.set_out(2 * DAY) == until + 2 * DAY
    assert rehearsal.travel(budget_seconds=60)

    assert clock.now() >= until + 2 * DAY
    assert rehearsal.under_way() is None


def test_scripts_move_it_too(customer):
    said = StringIO()

    call_command("sandbox_clock", days=32, stdout=said)

    assert BillingEvent.objects.filter(kind="renewed").count() == 1
    assert f"It is {clock.now():%Y-%m-%d}" in said.getvalue()
