"""Plans and add-ons changed by the customer: what is paid when, and what holds when."""

from datetime import UTC, datetime, timedelta

import pytest

from billing import plan_changes, subscriptions, wishes
from billing.plan_changes import Hindered, OutOfDate
from billing.providers import ProviderUnavailable
from billing.sandbox import orders
from billing.sandbox.models import SandboxFaults, SandboxOrder, SandboxPayment
from billing.wishes import NotOffered, Obstacle
from keys.models import Entitlement
from tests.factories import make_account, make_add_on, make_version

BOUGHT = datetime(2026, 4, 1, 12, 0, tzinfo=UTC)
HALFWAY = datetime(2026, 4, 16, 12, 0, tzinfo=UTC)
RENEWAL = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def account(quiet_shop):
    return make_account()


@pytest.fixture
def basic(account, quiet_shop):
    return quiet_shop.buy(account, "basic", at=BOUGHT)


@pytest.fixture
def pro(account, quiet_shop):
    return quiet_shop.buy(account, "pro", at=BOUGHT)


def kinds(account):
    return [event.kind for event in account.billing_events.order_by("id")]


def entitlement(account):
    return Entitlement.objects.get(account=account)


def change_now(account, wish, now=HALFWAY):
    return plan_changes.change_now(account, wish, now, now)


def renew(subscription, at=RENEWAL):
    orders.advance(at)
    subscriptions.sync(subscription.pk, at)
    subscription.refresh_from_db()


# ------------------------------------------------------------------ up


def test_an_upgrade_takes_what_was_shown_and_holds_at_once(account, basic, quiet_shop):
    pro = quiet_shop.plans["pro"]
    wish = wishes.choice(basic, pro.pk)
    quote = plan_changes.quote(basic, wish, HALFWAY)

    later = HALFWAY + timedelta(minutes=10)
    outcome = plan_changes.change_now(account, wish, quote.as_of, later)

    assert outcome.kind == "done"
    # Half of the period is left: half of 200 less half of 50.
    assert quote.due_now_minor == 75_00
    assert quote.wish.then_minor == 200_00
    taken = SandboxPayment.objects.get(kind="change")
    assert (taken.amount_minor, taken.state) == (75_00, "paid")
    basic.refresh_from_db()
    assert basic.version == pro
    assert (basic.period_start, basic.period_end) == (BOUGHT, RENEWAL)
    assert entitlement(account).plan_name == "Pro"
    assert kinds(account) == ["started", "plan_changed"]
    told = account.billing_events.get(kind="plan_changed")
    assert told.data["previous_plan"] == "Basic"
    assert told.data["direction"] == "up"
    assert told.mrr_minor == 200_00


def test_unpaid_means_not_upgraded(account, basic, quiet_shop):
    wish = wishes.choice(basic, quiet_shop.plans["pro"].pk)
    SandboxOrder.objects.update(declines=True)

    outcome = change_now(account, wish)

    basic.refresh_from_db()
    assert (outcome.kind, outcome.reason) == ("unpaid", "Your card was declined.")
    assert basic.version == quiet_shop.plans["basic"]
    assert entitlement(account).plan_name == "Basic"
    assert "plan_changed" not in kinds(account)


def test_the_same_quote_sent_twice_is_paid_once(account, basic, quiet_shop):
    wish = wishes.choice(basic, quiet_shop.plans["pro"].pk)

    outcomes = [change_now(account, wish).kind for _ in range(2)]

    assert outcomes == ["done", "done"]
    assert SandboxPayment.objects.filter(kind="change").count() == 1
    assert kinds(account).count("plan_changed") == 1


def test_an_upgrade_of_which_nothing_was_heard_is_asked_about(account, basic, quiet_shop):
    """The provider did it and its answer was lost: beat finds out."""
    wish = wishes.choice(basic, quiet_shop.plans["pro"].pk)
    SandboxFaults.objects.create(unanswered=100)

    with pytest.raises(ProviderUnavailable):
        change_now(account, wish)
    SandboxFaults.objects.update(unanswered=0)
    due = list(subscriptions.due_for_sync(HALFWAY))
    for row in due:
        subscriptions.sync(row.pk, HALFWAY)

    assert due == [basic]
    assert entitlement(account).plan_name == "Pro"
    assert SandboxPayment.objects.filter(kind="change").count() == 1
    assert not subscriptions.due_for_sync(HALFWAY).exists()


def test_two_changes_asked_for_at_once_do_not_undo_each_other(account, basic, quiet_shop):
    upgrade = wishes.choice(basic, quiet_shop.plans["pro"].pk)
    with_support = wishes.with_add_on(basic, make_add_on("support").pk)

    change_now(account, upgrade)
    with pytest.raises(NotOffered):
        change_now(account, with_support)
    subscriptions.Subscription.objects.update(synced_at=None)
    with pytest.raises(Hindered) as hindered:
        change_now(account, upgrade)

    assert hindered.value.obstacle == Obstacle.UNDER_WAY
    assert entitlement(account).plan_name == "Pro"
    assert not basic.add_ons.exists()


def test_a_price_shown_too_long_ago_is_not_taken(account, basic, quiet_shop):
    wish = wishes.choice(basic, quiet_shop.plans["pro"].pk)

    for as_of in (HALFWAY - timedelta(minutes=16), HALFWAY + timedelta(seconds=1)):
        with pytest.raises(OutOfDate):
            plan_changes.change_now(account, wish, as_of, HALFWAY)

    assert not SandboxPayment.objects.filter(kind="change").exists()


def test_the_year_of_the_same_plan_begins_at_once(account, basic, quiet_shop):
    yearly = make_version(quiet_shop.plans["basic"], base_price_minor=500_00, interval="year")
    wish = wishes.choice(basic, yearly.pk)

    quote = plan_changes.quote(basic, wish, HALFWAY)
    change_now(account, wish)

    basic.refresh_from_db()
    assert quote.due_now_minor == 475_00
    assert (basic.period_start, basic.anchor_day) == (HALFWAY, 16)
    assert basic.period_end == datetime(2027, 4, 16, 12, 0, tzinfo=UTC)
    assert kinds(account) == ["started", "plan_changed"]


# ------------------------------------------------------------------ down


def test_a_downgrade_waits_for_the_period_and_costs_nothing_now(account, pro, quiet_shop):
    basic = quiet_shop.plans["basic"]
    wish = wishes.choice(pro, basic.pk)

    outcome = plan_changes.plan(account, basic, HALFWAY)
    subscriptions.sync(pro.pk, HALFWAY)
    before = entitlement(account).plan_name
    renew(pro)

    assert (wish.at, outcome.kind) == ("period_end", "done")
    assert before == "Pro"
    assert (pro.version, pro.next_version) == (basic, None)
    assert entitlement(account).plan_name == "Basic"
    assert [payment.amount_minor for payment in SandboxPayment.objects.order_by("at")] == [
        200_00,
        50_00,
    ]
    assert kinds(account) == ["started", "change_planned", "renewed", "plan_changed"]


def test_a_provider_that_shows_a_planned_change_at_once_changes_nothing_yet(
    account, pro, quiet_shop
):
    basic = quiet_shop.plans["basic"]
    plan_changes.plan(account, basic, HALFWAY)
    SandboxOrder.objects.update(
        items=[{"key": f"version:{basic.pk}", "description": "Basic", "amount_minor": 50_00}]
    )

    subscriptions.sync(pro.pk, HALFWAY)
    still = entitlement(account).plan_name
    renew(pro)

    assert still == "Pro"
    assert entitlement(account).plan_name == "Basic"


def test_a_planned_change_can_be_withdrawn(account, pro, quiet_shop):
    plan_changes.plan(account, quiet_shop.plans["basic"], HALFWAY)

    plan_changes.withdraw(account, HALFWAY)
    renew(pro)

    assert pro.version == quiet_shop.plans["pro"]
    assert SandboxOrder.objects.get().next_items is None
    assert kinds(account) == ["started", "change_planned", "change_withdrawn", "renewed"]


def test_what_a_provider_was_not_told_is_told_by_beat(account, pro, quiet_shop):
    SandboxFaults.objects.create(refused=100)

    with pytest.raises(ProviderUnavailable):
        plan_changes.plan(account, quiet_shop.plans["basic"], HALFWAY)
    SandboxFaults.objects.update(refused=0)
    untold = SandboxOrder.objects.get().next_items
    due = list(plan_changes.to_tell())
    plan_changes.tell(pro.pk, HALFWAY)

    assert untold is None
    assert due == [pro]
    assert not plan_changes.to_tell().exists()
    assert SandboxOrder.objects.get().next_items["items"][0]["description"] == "Basic plan"


def test_what_a_provider_went_on_with_is_what_holds(account, pro, quiet_shop):
    plan_changes.plan(account, quiet_shop.plans["basic"], HALFWAY)
    SandboxOrder.objects.update(next_items=None)

    renew(pro)

    assert (pro.version, pro.next_version) == (quiet_shop.plans["pro"], None)
    assert kinds(account)[-1] == "change_withdrawn"


def test_nothing_is_bought_while_something_else_is_planned(account, pro, quiet_shop):
    dearer = make_version(quiet_shop.plans["pro"], base_price_minor=300_00)
    plan_changes.plan(account, quiet_shop.plans["basic"], HALFWAY)
    pro.refresh_from_db()

    with pytest.raises(Hindered) as hindered:
        plan_changes.quote(pro, wishes.choice(pro, dearer.pk), HALFWAY)

    assert hindered.value.obstacle == Obstacle.PLANNED


@pytest.mark.parametrize(
    ("fields", "obstacle"),
    [
        ({"provider": "none"}, Obstacle.FREE),
        ({"cancel_at_period_end": True}, Obstacle.ENDING),
        ({"state": "past_due"}, Obstacle.UNPAID),
        ({"state": "paused"}, Obstacle.PAUSED),
        ({}, None),
    ],
)
def test_what_stands_in_the_way_is_said(basic, fields, obstacle):
    for name, value in fields.items():
        setattr(basic, name, value)

    assert wishes.obstacle(basic) == obstacle


def test_only_what_is_on_sale_in_the_same_currency_can_be_chosen(account, basic, quiet_shop):
    free, pro = quiet_shop.plans["free"], quiet_shop.plans["pro"]

    assert [wish.version for wish in wishes.choices(basic)] == [pro]
    with pytest.raises(NotOffered):
        wishes.choice(basic, free.pk)


# ------------------------------------------------------------------ add-ons


def test_an_add_on_is_paid_for_the_rest_of_the_period_and_dropped_at_its_end(account, basic):
    add_on = make_add_on("support", price_minor=40_00)
    wish = wishes.with_add_on(basic, add_on.pk)
    quote = plan_changes.quote(basic, wish, HALFWAY)

    change_now(account, wish)
    bought = list(basic.add_ons.filter(ended_at=None))
    plan_changes.drop(account, add_on.pk, HALFWAY)
    subscriptions.sync(basic.pk, HALFWAY)
    kept = basic.add_ons.filter(ended_at=None).count()
    renew(basic)

    assert (quote.due_now_minor, quote.wish.then_minor) == (20_00, 90_00)
    assert [one.add_on for one in bought] == [add_on]
    assert kept == 1
    assert not basic.add_ons.filter(ended_at=None).exists()
    assert SandboxOrder.objects.get().amount_minor == 50_00
    assert kinds(account) == [
        "started",
        "add_on_started",
        "change_planned",
        "renewed",
        "add_on_ended",
    ]


def test_a_dropped_add_on_can_be_kept(account, basic):
    add_on = make_add_on("support")
    change_now(account, wishes.with_add_on(basic, add_on.pk))

    plan_changes.drop(account, add_on.pk, HALFWAY)
    plan_changes.keep(account, add_on.pk, HALFWAY)
    renew(basic)

    assert basic.add_ons.get().ended_at is None
    assert SandboxOrder.objects.get().amount_minor == 60_00


def test_an_add_on_goes_along_at_the_rhythm_of_the_new_plan_or_is_named_as_lost(
    account, basic, quiet_shop
):
    yearly = make_version(quiet_shop.plans["basic"], base_price_minor=500_00, interval="year")
    support, history = make_add_on("support"), make_add_on("history")
    supported = make_add_on("support", interval="year", price_minor=100_00)
    for add_on in (support, history):
        change_now(account, wishes.with_add_on(basic, add_on.pk))

    wish = wishes.choice(basic, yearly.pk)
    change_now(account, wish)

    assert (wish.add_ons, wish.lost) == ((supported,), (history,))
    assert [one.add_on for one in basic.add_ons.filter(ended_at=None)] == [supported]


def test_an_add_on_of_other_plans_is_not_offered(basic, quiet_shop):
    add_on = make_add_on("pro-only")
    add_on.plans.add(quiet_shop.plans["pro"].plan)

    with pytest.raises(NotOffered):
        wishes.with_add_on(basic, add_on.pk)
