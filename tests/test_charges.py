"""What a period's usage cost is charged once; what is paid back has its credit note."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection, transaction

from billing import (
    accounts,
    charges,
    checkout,
    collecting,
    contracts,
    payments,
    refunds,
    subscriptions,
    tickets,
)
from billing.models import (
    BillingEvent,
    BuyerDetails,
    Charge,
    Contract,
    Invoice,
    Payment,
    Refund,
    Subscription,
)
from billing.providers import PaymentState, ProviderUnavailable
from billing.sandbox import cards, orders
from billing.sandbox import payments as sandbox_payments
from billing.sandbox.models import SandboxOrder, SandboxPayment
from keys.models import Entitlement
from tests.factories import make_account, make_plans
from tests.ledger_world import DAY, HOUR, close, closed, lines, month, use

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_clean")]

MARCH, APRIL, MAY = month(3), month(4), month(5)


@pytest.fixture
def plans():
    return make_plans()


@pytest.fixture
def account(plans):
    return make_account()


def buy(account, version, at=MARCH):
    row = checkout.start(account, version, user=account.members.first(), now=at)
    orders.pay(row.provider_session_id, cards.CARDS[0], at)
    checkout.sync(row.pk, at)
    return Subscription.objects.get(account=account)


def pass_to(account, now):
    """The sandbox's time and ours, without webhooks."""
    orders.advance(now)
    for subscription in account.subscriptions.exclude(state="ended"):
        subscriptions.sync(subscription.pk, now)
    close(now)


def collect(now):
    for charge in collecting.due_charges(now):
        collecting.send_charge(charge.pk, now)
    for refund in collecting.due_refunds(now):
        collecting.send_refund(refund.pk, now)


def declines(account, does=True):
    subscription = account.subscriptions.first()
    SandboxOrder.objects.filter(subscription_id=subscription.provider_subscription_id).update(
        declines=does
    )


def told(account):
    events = BillingEvent.objects.filter(account=account).order_by("at", "id")
    return [event.kind for event in events]


def access(account):
    return Entitlement.objects.get(account=account).state


# ------------------------------------------------------------------ charging


def test_a_month_ends_with_an_invoice_whose_usage_is_charged_and_paid(account, plans):
    buy(account, plans["basic"])
    use(account, MARCH + DAY, 12_300)

    pass_to(account, APRIL + 2 * HOUR)
    collect(APRIL + 2 * HOUR)

    (invoice,) = closed(account)
    assert invoice.total_minor == 63_80
    charge = invoice.charge
    assert (charge.state, charge.amount_minor, charge.currency) == ("paid", 13_80, "USD")
    assert charge.lines == [{"text": "2,300 calls past 10,000", "amount_minor": 13_80}]
    taken = Payment.objects.filter(account=account).order_by("at", "kind")
    assert [(one.kind, one.amount_minor, one.state) for one in taken] == [
        ("subscription", 50_00, "paid"),
        ("subscription", 50_00, "paid"),
        ("charge", 13_80, "paid"),
    ]
    assert told(account)[-1] == "charged"


def test_nothing_used_past_what_is_included_is_no_charge(account, plans):
    buy(account, plans["basic"])
    use(account, MARCH + DAY, 100)

    pass_to(account, APRIL + 2 * HOUR)

    assert closed(account)[0].number == 1
    assert not Charge.objects.exists()


def test_usage_that_the_provider_charges_is_no_charge_of_ours(account, plans):
    buy(account, plans["basic"])
    Subscription.objects.update(charged_by="provider")
    use(account, MARCH + DAY, 12_300)

    pass_to(account, APRIL + 2 * HOUR)

    assert closed(account)[0].total_minor == 63_80
    assert not Charge.objects.exists()


def test_a_charge_that_is_declined_is_paid_with_a_new_card(account, plans):
    buy(account, plans["basic"])
    use(account, MARCH + DAY, 12_300)
    pass_to(account, APRIL + 2 * HOUR)
    declines(account)

    collect(APRIL + 2 * HOUR)
    failed = Charge.objects.get()
    assert (failed.state, failed.reason) == ("failed", cards.DECLINE_REASON)
    assert failed.next_attempt_at == APRIL + 2 * HOUR + DAY
    assert told(account)[-1] == "charge_failed"
    declines(account, False)
    assert charges.ask_again(account.pk, APRIL + 3 * HOUR) == 1
    collect(APRIL + 3 * HOUR)

    charge = Charge.objects.get()
    assert (charge.state, charge.failed_since, charge.next_attempt_at) == ("paid", None, None)
    assert Payment.objects.get(kind="charge").state == "paid"
    assert SandboxPayment.objects.filter(kind="charge").count() == 1


def test_an_invoice_unpaid_for_the_grace_stops_the_traffic_until_it_is_paid(account, plans):
    buy(account, plans["basic"])
    use(account, MARCH + DAY, 12_300)
    pass_to(account, APRIL + 2 * HOUR)
    declines(account)
    first = APRIL + 2 * HOUR
    tries = []
    for day in range(9):
        now = first + day * DAY
        collect(now)
        for account_id in charges.due_to_advance(now):
            charges.advance(account_id, now)
        tries.append((Charge.objects.get().attempts, access(account)))

    assert tries == [
        (1, "active"),
        (2, "active"),
        (2, "active"),
        (3, "active"),
        (3, "active"),
        (4, "active"),
        (4, "active"),
        (4, "payment_required"),
        (4, "payment_required"),
    ]
    assert told(account).count("payment_required") == 1
    declines(account, False)
    charges.ask_again(account.pk, first + 9 * DAY)
    collect(first + 9 * DAY)
    assert access(account) == "active"


def test_killed_between_asking_and_hearing_there_is_one_payment(account, plans):
    buy(account, plans["basic"])
    use(account, MARCH + DAY, 12_300)
    pass_to(account, APRIL + 2 * HOUR)
    charge = collecting._begin_charge(Charge.objects.get().pk, APRIL + 2 * HOUR)
    order = SandboxOrder.objects.get()
    sandbox_payments.charge(order, collecting._order(charge), APRIL + 2 * HOUR)

    assert Charge.objects.get().state == "unknown"
    collect(APRIL + 2 * HOUR)
    assert Charge.objects.get().state == "unknown"
    collect(APRIL + 3 * HOUR)

    assert Charge.objects.get().state == "paid"
    assert SandboxPayment.objects.filter(kind="charge").count() == 1
    assert told(account).count("charged") == 1


@pytest.mark.django_db(transaction=True)
def test_many_workers_at_once_ask_for_a_charge_once(account, plans):
    buy(account, plans["basic"])
    use(account, MARCH + DAY, 12_300)
    pass_to(account, APRIL + 2 * HOUR)
    charge = Charge.objects.get()

    def ask(_):
        try:
            collecting.send_charge(charge.pk, APRIL + 2 * HOUR)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(8)))

    charge.refresh_from_db()
    assert (charge.state, charge.attempts) == ("paid", 1)
    assert told(account).count("charged") == 1


def test_a_provider_that_is_away_leaves_the_charge_to_be_asked_for_again(account, plans):
    buy(account, plans["basic"])
    use(account, MARCH + DAY, 12_300)
    pass_to(account, APRIL + 2 * HOUR)
    Subscription.objects.update(provider_subscription_id="sub_of_nobody")

    with pytest.raises(ProviderUnavailable):
        collect(APRIL + 2 * HOUR)

    charge = Charge.objects.get()
    assert charge.state == "unknown"
    assert charge.next_attempt_at > APRIL + 2 * HOUR


def test_cancelled_now_the_usage_till_then_is_charged_as_soon_as_its_hours_are_closed(
    account, plans
):
    buy(account, plans["basic"])
    use(account, MARCH + DAY, 11_000)
    ended = MARCH + 10 * DAY + HOUR / 2
    orders.cancel(SandboxOrder.objects.get().pk, False, ended)

    pass_to(account, ended)
    close(ended + 2 * HOUR)
    collect(ended + 2 * HOUR)

    (invoice,) = closed(account)
    assert invoice.period_end == ended
    assert lines(invoice) == [("1,000 calls past 10,000", 6_00)]
    assert invoice.charge.state == "paid"


def test_what_is_recorded_late_after_the_end_is_charged_on_a_further_invoice(account, plans):
    buy(account, plans["basic"])
    use(account, MARCH + DAY, 11_000)
    ended = MARCH + 10 * DAY
    orders.cancel(SandboxOrder.objects.get().pk, False, ended)
    pass_to(account, ended)
    close(ended + 2 * HOUR)

    use(account, MARCH + 2 * DAY, 1_000, recorded_at=ended + DAY, period_start=MARCH)
    close(ended + 45 * DAY)

    first, late = closed(account)
    assert (first.charge.amount_minor, late.charge.amount_minor) == (6_00, 6_00)


def test_a_contract_without_a_provider_is_paid_by_transfer(account):
    contracts_terms(account)
    pass_to(account, APRIL + 2 * HOUR)

    charge = Charge.objects.get()
    assert (charge.provider, charge.state, charge.amount_minor) == ("none", "due", 1_000_00)
    collect(APRIL + 90 * DAY)
    assert Charge.objects.get().state == "due"
    assert charges.paid_by_transfer(charge.pk, APRIL + 20 * DAY)
    assert not charges.paid_by_transfer(charge.pk, APRIL + 20 * DAY)

    assert Charge.objects.get().state == "paid"
    assert Invoice.objects.get(charge=charge).number == 1


def contracts_terms(account):
    contract = Contract.objects.create(
        account=account,
        title="Own terms",
        currency="USD",
        base_price_minor=1_000_00,
        included_calls=1_000_000,
        rate_per_second=100,
        burst=100,
        starts_at=MARCH,
    )
    contracts.advance(account.pk, MARCH)
    return contract


# ------------------------------------------------------------------ refunds


@pytest.fixture
def payment(account, plans):
    buy(account, plans["basic"])
    return Payment.objects.get()


def test_a_refund_is_paid_back_once_and_has_a_credit_note_without_a_gap(account, payment):
    declined = refunds.ask(payment.pk, 1_00, "by mistake", MARCH + DAY)
    refunds.failed(declined.pk, "No.", MARCH + DAY)
    first = refunds.ask(payment.pk, 20_00, "goodwill", MARCH + DAY, by=account.members.first())
    second = refunds.ask(payment.pk, 30_00, "the rest", MARCH + DAY)

    collect(MARCH + DAY)
    collect(MARCH + 2 * DAY)
    pass_to(account, MARCH + 2 * DAY)

    first.refresh_from_db(), second.refresh_from_db()
    assert [(one.state, one.number) for one in (first, second)] == [("done", 1), ("done", 2)]
    payment.refresh_from_db()
    assert payment.refunded_minor == 50_00
    assert told(account).count("refunded") == 2
    assert access(account) == "active"
    assert Refund.objects.count() == 3


@pytest.mark.parametrize("amount", [0, -1, 50_01])
def test_no_more_can_be_paid_back_than_was_paid(payment, amount):
    with pytest.raises(refunds.TooMuch):
        refunds.ask(payment.pk, amount, "", MARCH + DAY)
    assert not Refund.objects.exists()


def test_two_refunds_at_once_do_not_pay_back_more_than_was_paid(payment):
    refunds.ask(payment.pk, 30_00, "", MARCH + DAY)

    with pytest.raises(refunds.TooMuch):
        refunds.ask(payment.pk, 30_00, "", MARCH + DAY)


def test_a_refund_may_end_the_subscription(account, payment):
    refunds.ask(payment.pk, 50_00, "", MARCH + DAY, ends_subscription=True)

    collect(MARCH + DAY)

    assert access(account) == "ended"
    assert SandboxOrder.objects.get().state == "ended"


def test_what_is_paid_back_at_the_provider_gets_its_credit_note_too(account, payment):
    with transaction.atomic():
        sandbox_payments.refund(SandboxPayment.objects.get(), 10_00, "elsewhere", MARCH + DAY)

    pass_to(account, MARCH + DAY)
    pass_to(account, MARCH + DAY)

    refund = Refund.objects.get()
    assert (refund.state, refund.number, refund.amount_minor) == ("done", 1, 10_00)
    assert told(account).count("refunded") == 1


def test_a_refund_heard_of_only_by_the_fetch_is_not_counted_twice(account, payment):
    refund = refunds.ask(payment.pk, 10_00, "", MARCH + DAY)
    with transaction.atomic():
        sandbox_payments.refund(SandboxPayment.objects.get(), 10_00, str(refund.pk), MARCH + DAY)

    pass_to(account, MARCH + DAY)
    collect(MARCH + DAY)

    payment.refresh_from_db()
    assert Refund.objects.get().state == "done"
    assert payment.refunded_minor == 10_00
    assert told(account).count("refunded") == 1


# ------------------------------------------------------------------ disputes


def dispute(account, stage, now):
    with transaction.atomic():
        sandbox_payments.dispute(SandboxPayment.objects.get(), stage, now)
    pass_to(account, now)


def test_a_dispute_takes_nothing_until_it_is_lost(account, payment):
    dispute(account, "open", MARCH + DAY)
    assert not Entitlement.objects.get().suspended
    dispute(account, "lost", MARCH + 2 * DAY)
    pass_to(account, MARCH + 2 * DAY)

    assert Entitlement.objects.get().suspended
    assert told(account)[-2:] == ["disputed", "dispute_lost"]


def test_a_dispute_that_is_won_leaves_everything_as_it_was(account, payment):
    dispute(account, "open", MARCH + DAY)
    dispute(account, "won", MARCH + 2 * DAY)

    assert not Entitlement.objects.get().suspended
    assert told(account)[-1] == "dispute_won"


# ------------------------------------------------------------------ what is fetched


def state(amount=1_00, **changed):
    said = {"kind": "change", "status": "paid", "currency": "USD", "at": MARCH + DAY}
    return PaymentState(id="pay_1", amount_minor=amount, **(said | changed))


def hear(account, one, ticket):
    with transaction.atomic():
        payments.apply(accounts.locked(account.pk), None, "sandbox", [one], ticket, MARCH + DAY)


def test_an_older_fetch_never_overwrites_a_newer_one(account):
    older, newer = tickets.take(), tickets.take()
    hear(account, state(status="paid"), newer)
    hear(account, state(status="pending"), older)

    assert Payment.objects.get().state == "paid"


def test_a_payment_never_changes_hands(account, plans):
    other = make_account()
    hear(account, state(), tickets.take())
    hear(other, state(amount=5_00), tickets.take())

    assert (Payment.objects.get().account, Payment.objects.get().amount_minor) == (account, 1_00)


def test_a_change_paid_within_the_period_is_on_the_invoice_once(account, plans):
    buy(account, plans["basic"])
    hear(account, state(amount=11_90, tax_minor=1_90), tickets.take())
    for number in (4, 5):
        pass_to(account, month(number) + 2 * HOUR)

    first, second = closed(account)
    assert lines(first)[1] == ("Change of plan or add-ons, paid on 2 March 2026", 10_00)
    assert len(lines(second)) == 1
    assert not Charge.objects.exists()


def test_the_seller_and_the_buyer_are_frozen_onto_the_invoice(account, plans, settings):
    settings.SELLER_NAME = "Data GmbH"
    settings.SELLER_ADDRESS = "Hauptstraße 1; 10115 Berlin"
    settings.SELLER_TAX_ID = "DE1"
    details = BuyerDetails.objects.create(
        account=account, name="Acme", address="1 Road\r\nTown", country="US", tax_id="12"
    )
    buy(account, plans["basic"])
    pass_to(account, APRIL + 2 * HOUR)
    BuyerDetails.objects.filter(pk=details.pk).update(name="Other")

    (invoice,) = closed(account)
    assert invoice.seller == {
        "name": "Data GmbH",
        "address": ["Hauptstraße 1", "10115 Berlin"],
        "tax_id": "DE1",
    }
    assert invoice.buyer["name"] == "Acme"
    assert invoice.buyer["address"] == ["1 Road", "Town", "US"]
