"""Money at Stripe beyond the first purchase: changes, charges, refunds, disputes, sales, prices."""

from datetime import UTC, datetime, timedelta

import pytest

from billing import providers
from billing.providers import (
    Change,
    ChargeLine,
    ChargeOrder,
    Declined,
    Item,
    Offer,
    Order,
    ProviderUnavailable,
    Sale,
    stripe,
)
from tests.doubles.server import serving
from tests.doubles.stripe_payments import StripePayments

BASIC = Item("version:1", "Basic plan", 5000)
PRO = Item("version:2", "Pro plan", 20000)
EXTRA = Item("addon:1", "Extra calls", 8000)
DAY = timedelta(days=1)
BEGUN = datetime(2031, 3, 1, tzinfo=UTC)


@pytest.fixture
def world(settings):
    """Stripe's double alone: the adapter asks no database."""
    with serving(StripePayments()) as double:
        settings.STRIPE_API_BASE = double.url
        settings.STRIPE_SECRET_KEY = double.key
        yield double
    assert not double.violations


def buy(world, *items, card="success", **fields):
    """A paid subscription, as Stripe has it."""
    given = {
        "reference": f"0198-{len(world.objects)}",
        "items": items or (BASIC,),
        "currency": "USD",
        "interval": "month",
        "customer_email": "ada@example.com",
        "return_url": "http://127.0.0.1/checkout/1/",
        "cancel_url": "http://127.0.0.1/buy/basic/",
    }
    session = stripe.create_checkout(Order(**given | fields))
    world.pay(session.id, card)
    state = stripe.fetch_checkout(session.id)
    assert state.status == "paid", state
    return state.subscription


def to(*items, at="now", interval="month"):
    return Change("r1", items, "USD", interval, at)


def half_a_period_later(world, state):
    world.now = state.period_start + (state.period_end - state.period_start) / 2


def order_of(state, *amounts, reference="c1"):
    lines = tuple(ChargeLine(f"Calls {n}", amount) for n, amount in enumerate(amounts))
    return ChargeOrder(reference, state.id, state.customer_id, "Usage in March", lines, "USD")


def payments_of(state, kind):
    payments = stripe.fetch_subscription(state.id).payments
    return [payment for payment in payments if payment.kind == kind]


# ------------------------------------------------------------------ checkouts


def test_a_subscription_says_what_it_consists_of_and_how_it_is_paid(world):
    state = buy(world, BASIC, EXTRA)

    assert state.items == ("version:1", "addon:1")
    assert state.method == "Visa ending in 4242"
    (payment,) = state.payments
    assert (payment.kind, payment.status, payment.amount_minor) == ("subscription", "paid", 13000)
    assert payment.number.startswith("D-")
    assert payment.pdf_url.endswith("/pdf")
    assert payment.buyer == {
        "name": "Ada Lovelace",
        "address": ["Unter den Linden 1", "10117 Berlin", "DE"],
        "tax_id": "DE123456789",
    }


@pytest.mark.parametrize("older", [False, True])
def test_tax_is_told_line_by_line_as_stripe_reckoned_it(world, settings, older):
    settings.STRIPE_TAX = "automatic"
    world.tax_percent, world.older = 19, older

    (payment,) = buy(world).payments

    assert (payment.amount_minor, payment.tax_minor) == (5950, 950)
    assert payment.tax_lines == (("VAT 19 % (DE)", 950),)


def test_a_trial_takes_nothing_before_it_is_over(world):
    world.now = BEGUN
    state = buy(world, trial_days=14)
    world.renew(state.id)
    later = stripe.fetch_subscription(state.id)

    assert (state.status, state.trial_ends_at, state.payments) == (
        "trialing", BEGUN + 14 * DAY, (),
    )  # fmt: skip
    assert (later.status, later.period_start) == ("active", BEGUN + 14 * DAY)
    assert [payment.amount_minor for payment in later.payments] == [5000]


@pytest.mark.parametrize(("days", "status"), [(20, "trialing"), (1, "active")])
def test_a_first_payment_that_is_due_later_is_taken_then(world, days, status):
    due = (datetime.now(UTC) + days * DAY).replace(microsecond=0)

    state = buy(world, starts_at=due)

    assert (state.status, state.period_end, state.payments) == (status, due, ())


def test_a_customer_that_stripe_knows_is_used_again(world, settings):
    settings.STRIPE_TAX = "automatic"
    first = buy(world)

    second = buy(world, customer_id=first.customer_id)

    assert second.customer_id == first.customer_id
    assert len(second.payments) == 1


def sale(customer_id="", amount_minor=2500):
    return Sale(
        "t1", "10,000 credits", amount_minor, "USD", "ada@example.com",
        "http://127.0.0.1/top-ups/1/", "http://127.0.0.1/dashboard/", customer_id,
    )  # fmt: skip


@pytest.mark.parametrize("tax", ["none", "automatic", "managed"])
def test_a_sale_is_one_payment_wherever_it_is_seen(world, settings, tax):
    settings.STRIPE_TAX, settings.STRIPE_TAX_CODE = tax, "txcd_10103001"
    bought = buy(world)
    session = stripe.create_sale(sale(bought.customer_id))
    waiting = stripe.fetch_checkout(session.id).status
    world.pay(session.id)

    state = stripe.fetch_checkout(session.id)

    (seen,) = payments_of(bought, "sale")
    assert waiting == "open"
    assert (state.status, state.customer_id) == ("paid", bought.customer_id)
    assert state.payment == seen
    assert (seen.reference, seen.amount_minor, seen.status) == ("t1", 2500, "paid")


@pytest.mark.parametrize(("arrives", "outcome"), [(True, "paid"), (False, "failed")])
def test_a_sale_whose_money_takes_time_is_pending_until_it_is_there(world, arrives, outcome):
    session = stripe.create_sale(sale())
    world.pay(session.id, "later")
    waiting = stripe.fetch_checkout(session.id).status

    world.settle(session.id, paid=arrives)

    assert (waiting, stripe.fetch_checkout(session.id).status) == ("pending", outcome)


# ------------------------------------------------------------------ prices


def test_what_is_on_sale_is_listed_once(world, settings):
    offers = [Offer(BASIC, "USD", "month"), Offer(EXTRA, "USD", "month")]
    missing = stripe.unlisted(offers)
    for offer in offers * 2:
        stripe.list_offer(offer)

    assert missing == offers
    assert stripe.unlisted(offers) == []
    assert len(world.all_of("price")) == 2
    settings.SITE_URL = "https://another.example"
    assert stripe.unlisted(offers) == offers


def test_a_price_that_asks_something_else_is_replaced(world):
    stripe.list_offer(Offer(Item("version:1", "Basic plan", 4000), "USD", "month"))

    stripe.list_offer(Offer(BASIC, "USD", "month"))

    assert stripe.unlisted([Offer(BASIC, "USD", "month")]) == []
    assert [price["unit_amount"] for price in world.all_of("price")] == [4000, 5000]


def test_a_checkout_uses_the_price_that_is_listed(world):
    stripe.list_offer(Offer(BASIC, "USD", "month"))

    state = buy(world, BASIC, EXTRA)

    assert state.items == ("version:1", "addon:1")
    assert len(world.all_of("price")) == 2


# ------------------------------------------------------------------ changes


def test_an_upgrade_takes_what_its_preview_said_and_keeps_the_period(world):
    state = buy(world)
    half_a_period_later(world, state)

    shown = stripe.preview(state.id, to(PRO))
    changed = stripe.change(state.id, to(PRO))

    after = stripe.fetch_subscription(state.id)
    (payment,) = payments_of(state, "change")
    assert changed.kind == "done"
    assert shown.due_now_minor == payment.amount_minor == 7500
    assert after.items == ("version:2",)
    assert (after.period_start, after.period_end) == (state.period_start, state.period_end)


def test_an_upgrade_that_is_not_paid_changes_nothing_until_another_card_pays(world):
    state = buy(world, card="decline_later")
    half_a_period_later(world, state)

    refused = stripe.change(state.id, to(PRO))
    unchanged = stripe.fetch_subscription(state.id)
    world.use_card(state.customer_id, "success")
    paid = stripe.change(state.id, to(PRO))

    assert (refused.kind, refused.reason) == ("unpaid", "Your card was declined.")
    assert (unchanged.status, unchanged.items) == ("active", ("version:1",))
    assert paid.kind == "done"
    assert stripe.fetch_subscription(state.id).items == ("version:2",)


@pytest.mark.parametrize("fault", ["lost answer", "500 after", 500, "drop"])
def test_a_change_whose_answer_is_lost_is_paid_once(world, fault):
    state = buy(world)
    stripe.list_offer(Offer(PRO, "USD", "month"))
    half_a_period_later(world, state)
    world.faults.extend(["", "", fault, fault])  # subscription, prices, update, its repetition

    with pytest.raises(ProviderUnavailable):
        stripe.change(state.id, to(PRO))
    for _ in range(2):
        stripe.change(state.id, to(PRO))

    assert [payment.amount_minor for payment in payments_of(state, "change")] == [7500]


def test_a_downgrade_costs_nothing_and_holds_from_the_next_period_on(world):
    state = buy(world, PRO, EXTRA)
    shown = stripe.preview(state.id, to(BASIC, at="period_end"))
    for _ in range(2):
        stripe.change(state.id, to(BASIC, at="period_end"))
    planned = stripe.fetch_subscription(state.id)

    world.renew(state.id)

    renewed = stripe.fetch_subscription(state.id)
    assert shown.due_now_minor == 0
    assert planned.items == ("version:2", "addon:1")
    assert renewed.items == ("version:1",)
    amounts = [payment.amount_minor for payment in payments_of(state, "subscription")]
    assert sorted(amounts) == [5000, 28000]


def test_a_planned_downgrade_is_withdrawn_by_asking_for_what_there_is(world):
    state = buy(world, PRO)
    stripe.change(state.id, to(BASIC, at="period_end"))

    stripe.change(state.id, to(PRO))
    world.renew(state.id)

    assert stripe.fetch_subscription(state.id).items == ("version:2",)
    amounts = [payment.amount_minor for payment in stripe.fetch_subscription(state.id).payments]
    assert amounts == [20000, 20000]


@pytest.mark.parametrize("card", ["success", "decline_later"])
def test_what_is_bought_while_less_is_planned_is_prorated_from_what_was_paid(world, card):
    state = buy(world, PRO, card=card)
    stripe.change(state.id, to(BASIC, at="period_end"))
    half_a_period_later(world, state)

    shown = stripe.preview(state.id, to(PRO, EXTRA))
    changed = stripe.change(state.id, to(PRO, EXTRA))

    assert shown.due_now_minor == pytest.approx(4000, abs=1)
    after = stripe.fetch_subscription(state.id)
    if card == "success":
        assert changed.kind == "done"
        assert [payment.amount_minor for payment in payments_of(state, "change")] == [4000]
        assert after.items == ("version:2", "addon:1")
    else:
        world.renew(state.id, paid=True)
        assert (changed.kind, after.items) == ("unpaid", ("version:2",))
        assert stripe.fetch_subscription(state.id).items == ("version:1",)


def test_another_interval_begins_at_once_and_is_never_put_off(world):
    state = buy(world)
    yearly = Item("version:3", "Basic plan", 50000)
    half_a_period_later(world, state)

    with pytest.raises(Declined):
        stripe.change(state.id, to(yearly, at="period_end", interval="year"))
    stripe.change(state.id, to(yearly, interval="year"))

    after = stripe.fetch_subscription(state.id)
    assert after.items == ("version:3",)
    assert after.period_end - after.period_start == 365 * DAY
    assert [payment.amount_minor for payment in payments_of(state, "change")] == [47500]


def test_what_has_ended_is_not_changed(world):
    state = buy(world)
    stripe.cancel(state.id, at_period_end=False)

    with pytest.raises(Declined):
        stripe.change(state.id, to(PRO))


@pytest.mark.parametrize("collection", [True, False])
def test_a_pause_is_told_as_one(world, collection):
    state = buy(world)
    world.pause(state.id, collection=collection)
    paused = stripe.fetch_subscription(state.id).status
    world.unpause(state.id)

    assert (paused, stripe.fetch_subscription(state.id).status) == ("paused", "active")


# ------------------------------------------------------------------ charges


def test_a_charge_is_one_invoice_with_its_lines_however_often_it_is_asked_for(world):
    state = buy(world)

    first = stripe.charge(order_of(state, 1200, 300))
    world.answered.clear()  # Stripe has forgotten the idempotency keys
    again = stripe.charge(order_of(state, 1200, 300))

    assert first == again
    assert (first.status, first.amount_minor, first.reference) == ("paid", 1500, "c1")
    assert payments_of(state, "charge") == [first]
    assert [item["description"] for item in world.all_of("invoiceitem")] == ["Calls 0", "Calls 1"]


@pytest.mark.parametrize("fault", ["lost answer", "500 after", "drop", 429])
@pytest.mark.parametrize("step", range(10))
def test_a_charge_that_is_interrupted_anywhere_takes_the_money_once(world, step, fault):
    state = buy(world)
    world.faults.extend([""] * step + [fault] * 2)
    for _ in range(3):
        try:
            paid = stripe.charge(order_of(state, 1200, 300))
        except ProviderUnavailable:
            world.answered.clear()

    taken = [c["amount"] for c in world.all_of("charge", status="succeeded")]
    assert paid.status == "paid"
    assert taken == [5000, 1500]


def test_a_declined_charge_is_tried_once_more_when_asked_again(world):
    state = buy(world, card="decline_later")
    refused = [stripe.charge(order_of(state, 900)) for _ in range(2)]
    world.use_card(state.customer_id, "success")

    paid = stripe.charge(order_of(state, 900))

    assert [(one.status, one.failure) for one in refused] == [
        ("failed", "Your card was declined.")
    ] * 2
    assert (paid.status, paid.id) == ("paid", refused[0].id)
    assert len(world.all_of("invoice", metadata={"keystile_charge": "c1"})) == 1


def test_a_charge_by_a_way_that_takes_time_is_pending_and_not_tried_again(world):
    state = buy(world)
    world.use_card(state.customer_id, "later")

    states = [stripe.charge(order_of(state, 900)).status for _ in range(2)]

    assert states == ["pending", "pending"]


def test_a_charge_works_after_the_subscription_has_ended(world):
    state = buy(world)
    stripe.cancel(state.id, at_period_end=False)

    assert stripe.charge(order_of(state, 900)).status == "paid"


def test_a_charge_of_a_customer_that_is_gone_is_declined(world):
    state = buy(world)
    world.objects[state.customer_id]["deleted"] = True

    with pytest.raises(Declined):
        stripe.charge(order_of(state, 900))


@pytest.mark.parametrize("tax", ["automatic", "managed"])
def test_tax_on_a_charge_is_left_to_whom_the_seller_chose(world, settings, tax):
    settings.STRIPE_TAX, settings.STRIPE_TAX_CODE = tax, "txcd_10103001"
    world.tax_percent = 19
    state = buy(world)

    charged = stripe.charge(order_of(state, 1000))

    assert charged.tax_minor == (190 if tax == "automatic" else 0)


# ------------------------------------------------------------------ refunds and disputes


def test_a_refund_is_paid_once_for_each_reference_and_never_more_than_was_taken(world):
    (payment,) = buy(world).payments
    for reference in ("r1", "r1", "r2"):
        stripe.refund(payment.id, 2000, "USD", reference)
        world.answered.clear()

    with pytest.raises(Declined):
        stripe.refund(payment.id, 2000, "USD", "r3")

    assert [one["amount"] for one in world.all_of("refund")] == [2000, 2000]


@pytest.mark.parametrize("older", [False, True])
def test_what_was_paid_back_and_what_is_disputed_is_told_of_the_payment(world, older):
    world.older = older
    state = buy(world)
    (payment,) = state.payments
    stripe.refund(payment.id, 2000, "USD", "r1")
    dispute = world.dispute(payment.id)
    (disputed,) = payments_of(state, "subscription")
    world.close_dispute(dispute, won=False)
    (lost,) = payments_of(state, "subscription")

    assert (disputed.refunded_minor, disputed.dispute) == (2000, "open")
    assert lost.dispute == "lost"
    with pytest.raises(Declined):
        stripe.refund(payment.id, 1000, "USD", "r2")


def test_the_portal_is_stripes_own_page(world):
    state = buy(world)

    address = stripe.portal(state.customer_id, "http://127.0.0.1/dashboard/billing/")

    assert address.startswith(f"{world.url}/portal/bps_")


def test_stripe_answers_the_whole_protocol():
    asked = {name for name in vars(providers.Provider) if not name.startswith("_")}

    assert asked <= set(stripe.__all__)
