"""Credits that are bought: paid once, given once, whatever becomes of webhooks and workers."""

from __future__ import annotations

from datetime import timedelta
from fractions import Fraction

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from billing import allowances, collecting, refunds, topups
from billing.models import CreditGrant, CreditPack, Payment, Plan, ProviderEvent, TopUp
from billing.models.allowances import MAX_CREDITS
from billing.sandbox import orders
from billing.sandbox import payments as sandbox_payments
from billing.sandbox.cards import of_name
from billing.sandbox.models import SandboxDelivery, SandboxOrder, SandboxPayment
from billing.topups import NotForSale, NothingTakesCredits
from tests.factories import make_account, make_plans
from tests.prepaid import START, draw, granted, make_pack, prepaid_version, subscribed
from tests.shop import published

State = TopUp.State
NOW = START + timedelta(days=1)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_clean")]


@pytest.fixture
def account(db):
    return subscribed(prepaid_version()).account


def order(account, pack=None, amount=None, *, now=NOW) -> TopUp:
    pack = pack or make_pack()
    amount = amount or pack.credits
    return topups.start(
        account,
        pack,
        amount,
        seen_minor=topups.price_minor(pack, amount),
        user=account.members.get(),
        now=now,
    )


def pay(row: TopUp, card="success", *, now=NOW) -> None:
    orders.pay(row.provider_session_id, of_name(card), now)


def balance(account, now=NOW) -> int | None:
    return allowances.balance(account.pk, now)


# ------------------------------------------------------------------ what is bought


def test_a_paid_top_up_gives_its_credits_and_tells_of_it(account):
    row = order(account, make_pack(1000, 25_00, expires_after_days=30))
    pay(row)

    row = topups.sync(row.pk, NOW)

    assert row.state == State.COMPLETED
    grant = account.credit_grants.get()
    assert (grant.source, grant.amount, grant.priority) == ("bought", 1000, 100)
    assert grant.expires_at == NOW + timedelta(days=30)
    assert grant.cause == f"topup:{row.pk}"
    assert granted(account.pk) == [(grant.pk, 1000)]
    event = account.billing_events.get()
    assert event.kind == "topped_up"
    assert event.data["credits"] == 1000
    assert event.data["amount_minor"] == 25_00
    assert event.data["expires_on"] == "10 June 2026"


def test_the_sale_is_the_subscriptions_customers_and_paid_once(account):
    row = order(account)
    pay(row)

    sold = SandboxOrder.objects.get(pk=row.provider_session_id)
    orders.advance(NOW + timedelta(days=400))

    assert sold.customer_id == account.subscriptions.get().provider_customer_id
    assert (sold.interval, sold.amount_minor) == ("", 10_00)
    assert sold.payments.get().kind == "sale"


@pytest.mark.parametrize(("listed", "currency"), [(False, "USD"), (True, "EUR")])
def test_what_is_not_on_the_accounts_list_is_not_sold(account, listed, currency):
    with pytest.raises(NotForSale):
        order(account, make_pack(listed=listed, currency=currency))


def test_a_price_that_has_changed_since_it_was_seen_is_not_charged(account):
    pack = make_pack(1000, 10_00)
    CreditPack.objects.update(price_minor=12_00)
    pack.refresh_from_db()

    with pytest.raises(NotForSale):
        topups.start(
            account, pack, 1000, seen_minor=10_00, user=account.members.get(), now=NOW
        )  # fmt: skip

    assert not TopUp.objects.exists()


def test_who_has_no_plan_that_takes_credits_is_sold_none(redis_clean):
    stranger = make_account()
    on_free = subscribed(make_plans()["free"], provider="none").account

    for account in (stranger, on_free):
        with pytest.raises(NothingTakesCredits):
            order(account)


def test_who_is_on_a_free_plan_that_takes_credits_pays_at_the_sites_provider():
    account = subscribed(prepaid_version(kind=Plan.Kind.FREE), provider="none").account
    row = order(account)
    pay(row)
    topups.sync(row.pk, NOW)

    assert row.provider == "sandbox"
    assert balance(account) == 1000


# ------------------------------------------------------------------ any amount


def test_any_amount_costs_the_packs_rate_rounded_once():
    pack = make_pack(300, 1_00, any_amount=True)

    prices = {amount: topups.price_minor(pack, amount) for amount in (300, 301, 302, 450, 451)}

    assert prices == {300: 100, 301: 100, 302: 101, 450: 150, 451: 150}


@given(
    st.integers(1, 10**6),
    st.integers(1, 10**6),
    st.integers(0, 10**7),
    st.integers(0, 1000),
)
def test_a_price_is_within_half_a_unit_of_exact_and_never_falls(pack_credits, price, more, step):
    pack = CreditPack(credits=pack_credits, price_minor=price, any_amount=True)
    amount = pack_credits + more
    exact = Fraction(price * amount, pack_credits)
    if exact > topups.MAX_SALE_MINOR - price - 1:
        return

    cost = topups.price_minor(pack, amount)

    assert -Fraction(1, 2) < cost - exact <= Fraction(1, 2)
    try:
        assert topups.price_minor(pack, amount + step) >= cost
    except NotForSale:
        assert Fraction(price * (amount + step), pack_credits) > topups.MAX_SALE_MINOR - 1


@pytest.mark.parametrize("amount", [-5, 0, 1, 299, MAX_CREDITS + 1, 10**30])
def test_other_amounts_are_not_sold(amount):
    with pytest.raises(NotForSale):
        topups.price_minor(make_pack(300, 1_00, any_amount=True), amount)


def test_a_pack_without_any_amount_is_sold_as_it_is():
    with pytest.raises(NotForSale):
        topups.price_minor(make_pack(300), 301)


# ------------------------------------------------------------------ once, whatever happens


def test_asked_about_again_and_again_gives_once(account):
    row = order(account)
    pay(row)

    for _ in range(3):
        topups.sync(row.pk, NOW)

    assert balance(account) == 1000
    assert account.billing_events.count() == 1


def test_a_top_up_whose_webhook_never_comes_is_asked_about(account):
    row = order(account)
    pay(row)
    later = NOW + timedelta(seconds=15)

    for top_up_id in topups.due_for_sync(later):
        topups.sync(top_up_id, later)

    assert balance(account) == 1000
    assert topups.due_for_sync(later + timedelta(days=1)) == []


def test_an_older_answer_is_not_applied(account):
    row = order(account)
    older = topups.fetch(row)
    newer = topups.fetch(row)
    topups.apply(account, row.pk, newer, NOW)
    pay(row)

    topups.apply(account, row.pk, topups.Fetched(older.ticket, topups.fetch(row).state), NOW)

    assert balance(account) is None


def test_a_declined_card_leaves_it_open_for_another(account):
    row = order(account)
    pay(row, "decline")
    declined = topups.sync(row.pk, NOW)
    pay(row)

    paid = topups.sync(row.pk, NOW)

    assert (declined.state, declined.error) == (State.OPEN, "Your card was declined.")
    assert (paid.state, paid.error) == (State.COMPLETED, "")


def test_a_delayed_payment_gives_nothing_until_it_arrives(account):
    row = order(account)
    pay(row, "delay")
    waiting = topups.sync(row.pk, NOW)
    before = balance(account)
    orders.advance(NOW + timedelta(seconds=21))

    topups.sync(row.pk, NOW + timedelta(seconds=21))

    assert waiting.payment_pending
    assert (before, balance(account)) == (None, 1000)


def test_a_delayed_payment_that_fails_is_told(account):
    row = order(account)
    pay(row, "late-decline")
    topups.sync(row.pk, NOW)
    orders.advance(NOW + timedelta(seconds=21))

    row = topups.sync(row.pk, NOW + timedelta(seconds=21))

    assert row.state == State.FAILED
    assert balance(account) is None
    assert [event.kind for event in account.billing_events.all()] == ["top_up_failed"]


def test_a_page_left_open_for_too_long_expires(account):
    row = order(account)
    SandboxOrder.objects.update(created_at=timezone.now() - timedelta(hours=25))

    row = topups.sync(row.pk, NOW)

    assert row.state == State.EXPIRED
    assert not account.billing_events.exists()


def test_one_that_was_interrupted_before_it_had_a_page_fails(account):
    row = order(account)
    TopUp.objects.update(provider_session_id="")

    topups.fail_interrupted(NOW + timedelta(hours=2))

    row.refresh_from_db()
    assert row.state == State.FAILED
    assert not account.billing_events.exists()


@pytest.mark.django_db(transaction=True)
def test_eight_workers_at_once_give_once(shop):
    account = subscribed(prepaid_version()).account
    row = order(account, now=timezone.now())
    shop.pay(row)
    shop.deliver()
    shop.process_by_eight()

    grant = CreditGrant.objects.get()
    assert ProviderEvent.objects.filter(processed_at=None).count() == 0
    assert published(account)["grants"] == f"{grant.pk}:1000:"
    assert account.billing_events.count() == 1
    assert SandboxDelivery.objects.filter(delivered_at=None).count() == 0


# ------------------------------------------------------------------ taken back


def test_a_refund_takes_what_is_left_back_once(account):
    row = order(account)
    pay(row)
    topups.sync(row.pk, NOW)
    draw(account, account.credit_grants.get().pk, 300)
    other = allowances.grant(account, 50, reason="sorry", by=None, now=NOW)

    for amount_minor in (7_00, 1_00):
        asked = refunds.ask(Payment.objects.get().pk, amount_minor, "asked for", NOW)
        collecting.send_refund(asked.pk, NOW)

    taken = [
        event.data["credits_taken"] for event in account.billing_events.filter(kind="refunded")
    ]
    assert sorted(taken) == [0, 700]
    assert balance(account) == 50
    assert granted(account.pk) == [(other.pk, 50)]


def test_what_is_paid_back_at_the_provider_takes_them_too(account):
    row = order(account)
    pay(row)
    topups.sync(row.pk, NOW)
    paid = SandboxPayment.objects.get(kind="sale")
    sandbox_payments.refund(paid, 10_00, "by hand", NOW)

    topups.apply(account, row.pk, topups.fetch(row), NOW)

    assert balance(account) == 0
    assert Payment.objects.get().refunded_minor == 10_00
    assert TopUp.objects.get().state == State.COMPLETED


def test_a_sale_is_a_payment_of_the_account(account):
    row = order(account)
    pay(row)
    topups.sync(row.pk, NOW)

    payment = account.payments.get()
    assert (payment.kind, payment.reference, payment.amount_minor, payment.state) == (
        "sale", str(row.pk), 10_00, "paid",
    )  # fmt: skip
