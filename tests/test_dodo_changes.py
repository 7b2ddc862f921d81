"""Plans and add-ons of a subscription at Dodo change when they are paid for, and never by half."""

from uuid import uuid4

import pytest

from billing import catalogue
from billing.providers import Change, ProviderUnavailable, dodo
from billing.providers.dodo import changes
from gateway.models import Meter
from tests.dodo_trade import make_add_on, order, pay_as_you_go
from tests.factories import make_account


def change(*items, at="now", interval="month"):
    return Change(str(uuid4()), items, "USD", interval, at)


@pytest.fixture
def basic(trade):
    return catalogue.item_of(trade.shop.plans["basic"])


@pytest.fixture
def pro(trade):
    return catalogue.item_of(trade.shop.plans["pro"])


@pytest.fixture
def held(trade):
    """A subscription to Basic, by its id at Dodo."""
    return trade.buy(make_account()).provider_subscription_id


def state(subscription_id):
    return dodo.fetch_subscription(subscription_id)


def test_an_upgrade_costs_what_its_preview_said_and_keeps_the_period(trade, held, basic, pro):
    before = state(held)

    shown = dodo.preview(held, change(pro))
    done = dodo.change(held, change(pro))

    after = state(held)
    assert done.kind == "done"
    assert (before.items, after.items) == ((basic.key,), (pro.key,))
    assert (after.period_start, after.period_end) == (before.period_start, before.period_end)
    assert [one.kind for one in after.payments] == ["change", "subscription"]
    assert 149_00 < shown.due_now_minor <= 150_00
    assert abs(after.payments[0].amount_minor - shown.due_now_minor) <= 1


def test_an_upgrade_that_is_not_paid_for_does_not_happen(trade, held, basic, pro):
    trade.dodo.declining.add(state(held).customer_id)

    outcome = dodo.change(held, change(pro))

    assert (outcome.kind, outcome.reason) == ("unpaid", "The payment failed (card declined).")
    assert (state(held).items, state(held).status) == ((basic.key,), "active")


def test_an_upgrade_whose_money_takes_its_time_holds_when_it_arrives(
    trade, held, basic, pro, monkeypatch
):
    monkeypatch.setattr(changes, "_PATIENCE", ())
    trade.dodo.delaying.add(state(held).customer_id)

    first = dodo.change(held, change(pro))
    again = dodo.change(held, change(pro))
    waiting = state(held).items
    (payment_id,) = trade.dodo.waiting
    trade.dodo.arrive(payment_id, paid=True)

    assert (first.kind, again.kind, waiting) == ("unpaid", "unpaid", (basic.key,))
    assert state(held).items == (pro.key,)


@pytest.mark.parametrize("fault", ["lost answer", "500 after", "garbage", "drop", 500, 429])
def test_an_upgrade_interrupted_anywhere_is_paid_once(trade, held, pro, fault):
    asked = len(trade.dodo.requests)
    wanted = change(pro)
    dodo.preview(held, wanted)
    requests = len(trade.dodo.requests) - asked

    for position in range(requests + 3):
        trade.dodo.faults.extend([*["nothing"] * position, fault])
        try:
            outcome = dodo.change(held, wanted)
        except ProviderUnavailable:
            outcome = dodo.change(held, wanted)
        trade.dodo.faults.clear()
        assert outcome.kind == "done"

    taken = [p for p in trade.dodo.payments.values() if p["charge_type"] == "plan_change"]
    assert len(taken) == 1


def test_a_downgrade_comes_with_the_next_period_unless_it_is_withdrawn(trade, held, basic, pro):
    dodo.change(held, change(pro))
    planned = [dodo.change(held, change(basic, at="period_end")) for _ in range(2)]
    during = state(held).items
    dodo.change(held, change(pro, at="period_end"))
    withdrawn = trade.dodo.subscriptions[held]["scheduled_change"]
    dodo.change(held, change(basic, at="period_end"))
    trade.dodo.renew(held)

    assert [one.kind for one in planned] == ["done", "done"]
    assert (during, withdrawn) == ((pro.key,), None)
    assert state(held).items == (basic.key,)
    assert state(held).payments[0].amount_minor == 50_00


def test_an_add_on_is_bought_and_dropped(trade, held, basic):
    support = catalogue.item_of(make_add_on())

    bought = dodo.change(held, change(basic, support))
    has = state(held).items
    dodo.change(held, change(basic, at="period_end"))
    trade.dodo.renew(held)

    assert (bought.kind, has) == ("done", (basic.key, support.key))
    assert state(held).items == (basic.key,)


def test_what_dodos_meters_cannot_charge_is_refused_with_a_reason(trade, held, basic):
    """Its usage would be charged twice, or by nobody."""
    calls = make_add_on(meter=Meter.objects.get(name="calls"), included_units=1000)

    outcome = dodo.change(held, change(basic, catalogue.item_of(calls)))

    other = dodo.change(held, change(basic, catalogue.item_of(make_add_on(slug="support"))))
    assert (outcome.kind, other.kind) == ("unpaid", "done")
    assert "Cancel it for the end of its period" in outcome.reason
    assert catalogue.item_of(calls).key not in state(held).items


def test_a_mandate_becomes_a_plan_that_is_paid_for(trade, pro):
    pay_as_you_go(trade)
    row = trade.start(make_account(), "payg")
    trade.pay(row)
    held = trade.subscription_of(row)["subscription_id"]
    mandate = trade.dodo.subscriptions[held]["on_demand"]

    shown = dodo.preview(held, change(pro))
    outcome = dodo.change(held, change(pro))

    assert (mandate, shown.due_now_minor, outcome.kind) == (True, 200_00, "done")
    assert state(held).items == (pro.key,)
    assert state(held).payments[0].amount_minor == 200_00


def test_a_trial_changes_its_plan_unpaid_and_goes_on(trade, pro):
    held = trial(trade)

    outcome = dodo.change(held, change(pro))

    after = state(held)
    assert (outcome.kind, after.status, after.items) == ("done", "trialing", (pro.key,))
    assert after.trial_ends_at == after.period_end


def trial(trade):
    session = dodo.create_checkout(order(trade.shop.plans["basic"], trial_days=14))
    trade.dodo.pay(session.id)
    return dodo.fetch_checkout(session.id).subscription.id
