"""The states of a subscription: which may follow which, and what each does to an account."""

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from billing import deadlines, subscriptions
from billing.models import Subscription
from billing.sandbox import cards, changes, orders
from billing.sandbox.models import SandboxOrder
from billing.states import IllegalMove, State, check
from keys.identifiers import new_id
from keys.models import Entitlement
from tests.factories import make_account

NOW = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
DAY = timedelta(days=1)

LEGAL = {
    ("trialing", "active"),
    ("trialing", "past_due"),
    ("trialing", "paused"),
    ("trialing", "ended"),
    ("active", "past_due"),
    ("active", "paused"),
    ("active", "ended"),
    ("past_due", "active"),
    ("past_due", "paused"),
    ("past_due", "ended"),
    ("paused", "trialing"),
    ("paused", "active"),
    ("paused", "past_due"),
    ("paused", "ended"),
}


def kinds(account):
    return [event.kind for event in account.billing_events.order_by("id")]


def access(account):
    return Entitlement.objects.get(account=account).state


@pytest.fixture
def account(quiet_shop):
    return make_account()


@pytest.fixture
def subscription(account, quiet_shop):
    return quiet_shop.buy(account, at=NOW)


def said(subscription, at, **fields):
    """What the provider has from now on, heard of at once."""
    SandboxOrder.objects.update(**fields)
    subscriptions.sync(subscription.pk, at)
    subscription.refresh_from_db()


@pytest.mark.parametrize(("held", "follows"), list(product(State.values, State.values)))
def test_every_move_is_legal_or_refused(held, follows):
    if held == follows or (held, follows) in LEGAL:
        check(held, follows, new_id())
    else:
        with pytest.raises(IllegalMove, match=f"{held} → {follows}"):
            check(held, follows, new_id())


def test_paused_refuses_calls_until_it_goes_on(account, subscription):
    order = SandboxOrder.objects.get()

    changes.pause(order.pk, NOW + DAY)
    subscriptions.sync(subscription.pk, NOW + DAY)
    paused = Entitlement.objects.get(account=account)
    changes.unpause(order.pk, NOW + 2 * DAY)
    subscriptions.sync(subscription.pk, NOW + 2 * DAY)

    assert (paused.state, paused.ends_at) == ("payment_required", None)
    assert access(account) == "active"
    assert kinds(account) == ["started", "paused", "unpaused"]
    assert [event.mrr_minor for event in account.billing_events.order_by("id")] == [50_00, 0, 50_00]


def test_an_overdue_payment_is_reminded_of_twice_and_then_stops_the_calls(account, subscription):
    failed_at = NOW + DAY
    said(subscription, failed_at, state="past_due")

    for hours in range(0, 24 * 9, 8):
        deadlines.advance(account.pk, failed_at + timedelta(hours=hours))

    assert kinds(account) == [
        "started",
        "payment_failed",
        "grace_reminder",
        "grace_reminder",
        "payment_required",
    ]
    reminders = account.billing_events.filter(kind="grace_reminder").order_by("id")
    assert [(event.data["day"], event.at - failed_at) for event in reminders] == [
        (3, 3 * DAY),
        (6, 6 * DAY),
    ]
    assert access(account) == "payment_required"
    assert deadlines.due(failed_at + 30 * DAY) == set()


def test_after_a_long_standstill_only_the_latest_reminder_is_sent(account, subscription):
    failed_at = NOW + DAY
    said(subscription, failed_at, state="past_due")

    deadlines.advance(account.pk, failed_at + 6 * DAY)
    deadlines.advance(account.pk, failed_at + 6 * DAY)

    (reminder,) = account.billing_events.filter(kind="grace_reminder")
    assert reminder.data["day"] == 6


def test_a_second_failure_is_reminded_of_anew(account, subscription):
    for failed_at in (NOW + DAY, NOW + 20 * DAY):
        said(subscription, failed_at, state="past_due")
        deadlines.advance(account.pk, failed_at + 3 * DAY)
        said(subscription, failed_at + 4 * DAY, state="active")

    assert kinds(account).count("grace_reminder") == 2


def test_a_changed_payment_method_is_told_once(account, subscription):
    first = subscription.method
    order = SandboxOrder.objects.get()

    changes.choose_card(order.pk, cards.of_name("decline"), NOW + DAY)
    for _ in range(2):
        subscriptions.sync(subscription.pk, NOW + DAY)

    subscription.refresh_from_db()
    assert first == "Visa ending in 4242"
    assert subscription.method == "Visa ending in 0002"
    assert kinds(account) == ["started", "method_updated"]


def test_a_new_card_pays_what_is_past_due(account, subscription):
    order = SandboxOrder.objects.get()
    SandboxOrder.objects.update(declines=True)
    renewed_at = subscription.period_end
    orders.advance(renewed_at)
    subscriptions.sync(subscription.pk, renewed_at)
    changes.choose_card(order.pk, cards.of_name("success"), renewed_at + DAY)
    subscriptions.sync(subscription.pk, renewed_at + DAY)

    assert kinds(account) == ["started", "payment_failed", "payment_recovered"]
    assert order.payments.filter(state="paid").count() == 2


def test_the_end_of_a_trial_is_told_three_days_before_once(account, subscription):
    ends_at = NOW + 14 * DAY
    Subscription.objects.update(state="trialing", trial_ends_at=ends_at)

    for day in range(15):
        deadlines.advance(account.pk, NOW + day * DAY)

    told = account.billing_events.get(kind="trial_ending")
    assert told.at == ends_at - 3 * DAY


def test_a_trial_of_three_days_needs_no_reminder(account, subscription):
    Subscription.objects.update(state="trialing", trial_ends_at=subscription.started_at + 3 * DAY)

    deadlines.advance(account.pk, NOW + DAY)

    assert not account.billing_events.filter(kind="trial_ending").exists()


def test_a_trial_that_its_provider_made_longer_ends_later(account, subscription):
    Subscription.objects.update(state="trialing", trial_ends_at=NOW + 3 * DAY)

    said(subscription, NOW + DAY, state="trialing", period_end=NOW + 20 * DAY)

    assert (subscription.state, subscription.trial_ends_at) == ("trialing", NOW + 20 * DAY)


def test_a_provider_that_waits_for_its_first_payment_counts_as_active(account, subscription):
    """A subscription that was moved from another provider: its period is paid already."""
    period = (subscription.period_start, subscription.period_end)

    said(subscription, NOW + DAY, state="trialing", period_start=NOW + DAY)

    assert subscription.state == "active"
    assert (subscription.period_start, subscription.period_end) == period
    assert kinds(account) == ["started"]


def test_an_ended_subscription_has_nothing_planned_any_more(account, subscription, quiet_shop):
    Subscription.objects.update(next_version=quiet_shop.plans["pro"])

    said(subscription, NOW + DAY, state="ended", ended_at=NOW + DAY)

    assert subscription.next_version is None
    assert access(account) == "ended"
