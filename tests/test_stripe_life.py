"""A life at Stripe through the whole product: changed, charged, paid back, disputed."""

import requests
from django.utils import timezone

from billing import (
    charges,
    collecting,
    plan_changes,
    refunds,
    subscriptions,
    wishes,
)
from billing.models import Charge, Payment, ProviderEvent
from billing.providers import ChargeLine, stripe
from tests.factories import make_account
from tests.stripe_shop import kinds


def bought(shop, account, slug="basic"):
    subscription = shop.buy(account, slug)
    subscriptions.sync(subscription.pk, timezone.now())
    return subscription


def control(shop, deed, **fields):
    answer = requests.post(f"{shop.stripe.url}/control/{deed}", data=fields, timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.json()


def charged(account, subscription):
    """A charge of ours, asked for as beat does."""
    now = timezone.now()
    lines = [ChargeLine("1,500 calls", 900)]
    charge = charges.create(account.pk, subscription, lines, "Usage", now)
    collecting.send_charge(charge.pk, now)
    return Charge.objects.get(pk=charge.pk)


def test_an_upgrade_is_paid_and_holds_at_once(stripe_shop):
    account = make_account()
    subscription = bought(stripe_shop, account)
    key = account.keys.get().pk
    now = timezone.now()
    wish = wishes.to_version(subscription, stripe_shop.plans["pro"])

    quote = plan_changes.quote(subscription, wish, now)
    changed = plan_changes.change_now(account, wish, quote.as_of, timezone.now())
    stripe_shop.settle()

    subscription.refresh_from_db()
    assert changed.kind == "done"
    assert subscription.version == stripe_shop.plans["pro"]
    assert account.payments.get(kind=Payment.Kind.CHANGE).amount_minor == quote.due_now_minor
    assert account.keys.get().pk == key


def test_an_upgrade_that_is_not_paid_changes_nothing(stripe_shop):
    account = make_account()
    row = stripe_shop.start(account)
    stripe_shop.pay(row, "decline_later")
    stripe_shop.settle()
    subscription = account.subscriptions.get()
    wish = wishes.to_version(subscription, stripe_shop.plans["pro"])
    quote = plan_changes.quote(subscription, wish, timezone.now())

    changed = plan_changes.change_now(account, wish, quote.as_of, timezone.now())
    stripe_shop.settle()

    subscription.refresh_from_db()
    assert (changed.kind, changed.reason) == ("unpaid", "Your card was declined.")
    assert (subscription.version, subscription.state) == (stripe_shop.plans["basic"], "active")


def test_a_downgrade_holds_from_the_renewal_on(stripe_shop):
    account = make_account()
    subscription = bought(stripe_shop, account, "pro")
    name = subscription.provider_subscription_id

    plan_changes.plan(account, stripe_shop.plans["basic"], timezone.now())
    stripe_shop.settle()
    subscription.refresh_from_db()
    before = subscription.version
    control(stripe_shop, "renew", subscription=name)
    stripe_shop.settle()

    subscription.refresh_from_db()
    assert (before, subscription.version) == (stripe_shop.plans["pro"], stripe_shop.plans["basic"])
    assert subscription.next_version is None
    amounts = account.payments.values_list("amount_minor", flat=True)
    assert sorted(amounts) == [50_00, 200_00]


def test_a_charge_is_taken_once_and_becomes_a_payment(stripe_shop):
    account = make_account()
    charge = charged(account, bought(stripe_shop, account))
    collecting.send_charge(charge.pk, timezone.now())
    stripe_shop.settle()

    payment = account.payments.get(kind=Payment.Kind.CHARGE)
    assert charge.state == Charge.State.PAID
    assert (payment.reference, payment.amount_minor) == (str(charge.pk), 900)
    assert len(stripe_shop.stripe.all_of("charge", status="succeeded")) == 2


def test_a_refund_by_staff_reaches_stripe_once(stripe_shop):
    account = make_account()
    bought(stripe_shop, account)
    payment = account.payments.get()
    now = timezone.now()

    refund = refunds.ask(payment.pk, 1000, "It was slow.", now)
    for _ in range(2):
        collecting.send_refund(refund.pk, now)
    stripe_shop.settle()

    payment.refresh_from_db()
    assert payment.refunded_minor == 1000
    assert [one["amount"] for one in stripe_shop.stripe.all_of("refund")] == [1000]
    assert "refunded" in kinds(account)


def test_a_dispute_that_stripe_tells_of_is_followed_to_its_end(stripe_shop):
    account = make_account()
    bought(stripe_shop, account)
    payment = account.payments.get()

    dispute = control(stripe_shop, "dispute", payment=payment.provider_payment_id)["id"]
    stripe_shop.settle()
    payment.refresh_from_db()
    during = payment.dispute
    control(stripe_shop, "close_dispute", dispute=dispute, won="false")
    stripe_shop.settle()

    payment.refresh_from_db()
    assert (during, payment.dispute) == ("open", "lost")
    assert kinds(account)[-2:] == ["disputed", "dispute_lost"]


def test_a_dispute_of_a_payment_that_is_not_ours_is_ignored(stripe_shop):
    account = make_account()
    bought(stripe_shop, account)
    elsewhere = account.payments.get().provider_payment_id
    account.payments.all().delete()
    stripe_shop.stripe.requests.clear()

    control(stripe_shop, "dispute", payment=elsewhere)
    stripe_shop.settle()

    assert ProviderEvent.objects.get(type="charge.dispute.created").ignored
    assert [one.path for one in stripe_shop.stripe.requests] == ["/control/dispute"]


def test_what_is_told_of_a_customer_leads_to_its_subscription(stripe_shop):
    account = make_account()
    customer = bought(stripe_shop, account).provider_customer_id
    stripe_shop.stripe.use_card(customer, "success")

    statuses = stripe_shop.deliver()
    stripe_shop.process()

    assert set(statuses) == {200}
    about = ProviderEvent.objects.filter(type__in=["customer.updated", "payment_method.attached"])
    assert list(about.values_list("ignored", flat=True)) == [False, False]


def test_another_card_is_heard_of(stripe_shop):
    account = make_account()
    subscription = bought(stripe_shop, account)

    control(
        stripe_shop, "use_card", customer=subscription.provider_customer_id, card="decline_later"
    )
    stripe_shop.settle()

    assert kinds(account)[-1] == "method_updated"


def test_stripes_portal_takes_another_card_and_pays_what_is_open(stripe_shop):
    account = make_account()
    subscription = bought(stripe_shop, account)
    name, customer = subscription.provider_subscription_id, subscription.provider_customer_id
    stripe_shop.stripe.use_card(customer, "decline_later")
    control(stripe_shop, "renew", subscription=name)
    stripe_shop.settle()
    subscription.refresh_from_db()
    failing = subscription.state
    portal = stripe.portal(customer, f"{stripe_shop.site}/dashboard/billing/")

    answer = requests.post(portal, data={"card": "success"}, allow_redirects=False, timeout=10)
    stripe_shop.settle()

    subscription.refresh_from_db()
    assert answer.headers["Location"] == f"{stripe_shop.site}/dashboard/billing/"
    assert (failing, subscription.state) == ("past_due", "active")
    assert {"payment_failed", "payment_recovered", "method_updated"} <= set(kinds(account))
