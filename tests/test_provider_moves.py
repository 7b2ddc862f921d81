"""A subscription moved to another payment provider: paid once, and nothing else changes."""

from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from billing import checkout, provider_moves, providers, subscriptions
from billing.models import Subscription
from billing.provider_moves import CannotMove
from billing.sandbox import cards, orders
from billing.sandbox.models import SandboxOrder
from keys.models import Entitlement
from tests.factories import make_account, make_add_on
from tests.stripe_shop import kinds


@pytest.fixture
def account():
    return make_account()


def start(account, now):
    return provider_moves.start(account, user=account.members.get(), now=now)


def pay(row, now):
    """What the customer confirms in the sandbox's checkout, and we learn of."""
    orders.pay(row.provider_session_id, cards.CARDS[0], now)
    checkout.sync(row.pk, now)
    row.refresh_from_db()


def test_a_move_keeps_keys_period_and_terms_and_ends_the_old_one(stripe_shop, settings):
    account = make_account()
    old = stripe_shop.buy(account)
    key = account.keys.get()
    before = Entitlement.objects.get(account=account)
    now = timezone.now()
    settings.PAYMENT_PROVIDER = "sandbox"

    row = start(account, now)
    pay(row, now)
    for moved in provider_moves.to_finish():
        provider_moves.finish(moved.pk, now)
    stripe_shop.settle()

    old.refresh_from_db()
    new = account.subscriptions.exclude(state="ended").get()
    assert row.state == "completed"
    assert (new.provider, new.state) == ("sandbox", "active")
    assert (new.period_start, new.period_end) == (old.period_start, old.period_end)
    assert new.version == old.version
    assert old.state == "ended"
    at_stripe = providers.get("stripe").fetch_subscription(old.provider_subscription_id)
    assert at_stripe.status == "ended"
    assert account.keys.get() == key
    after = Entitlement.objects.get(account=account)
    assert (after.state, after.terms_id, after.periods[0]) == (
        "active",
        before.terms_id,
        before.periods[0],
    )
    assert kinds(account) == ["started", "provider_changed"]
    assert not provider_moves.to_finish().exists()


def test_add_ons_go_along(quiet_shop, account):
    old = quiet_shop.buy(account, at=timezone.now())
    old.add_ons.create(add_on=make_add_on("support"), started_at=timezone.now())
    Subscription.objects.filter(pk=old.pk).update(provider="dodo")

    pay(start(account, timezone.now()), timezone.now())

    new = account.subscriptions.exclude(state="ended").get()
    subscriptions.sync(new.pk, timezone.now())
    assert [one.add_on.slug for one in new.add_ons.filter(ended_at=None)] == ["support"]
    assert "add_on_ended" not in kinds(account)


def test_a_move_that_is_paid_twice_leaves_one(quiet_shop, account):
    old = quiet_shop.buy(account, at=timezone.now())
    Subscription.objects.filter(pk=old.pk).update(provider="dodo")
    first, second = (start(account, timezone.now()) for _ in range(2))

    for row in (first, second):
        pay(row, timezone.now())

    assert (first.state, second.state) == ("completed", "superseded")
    assert account.subscriptions.exclude(state="ended").count() == 1


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "nothing to move"),
        ({"provider": "dodo", "state": "past_due"}, "paid and goes on"),
        ({"provider": "dodo", "cancel_at_period_end": True}, "paid and goes on"),
        ({"provider": "dodo", "next_told": False}, "Withdraw that"),
        ({"provider": "dodo", "period_end": timezone.now() + timedelta(days=2)}, "about to end"),
    ],
)
def test_what_can_t_move_says_why(quiet_shop, account, fields, sentence):
    quiet_shop.buy(account, at=timezone.now())
    Subscription.objects.update(**fields)

    with pytest.raises(CannotMove, match=sentence):
        start(account, timezone.now())

    assert account.checkouts.count() == 1


def test_the_billing_page_offers_the_move_and_leads_to_the_checkout(quiet_shop, account):
    quiet_shop.buy(account, at=timezone.now())
    browser = Client()
    browser.force_login(account.members.get(), backend="django.contrib.auth.backends.ModelBackend")
    unmoved = browser.get("/dashboard/billing/").content.decode()
    Subscription.objects.update(provider="dodo")

    offered = browser.get("/dashboard/billing/").content.decode()
    led = browser.post(reverse("move"))

    assert "Payments move to" not in unmoved
    assert "Payments move to Sandbox" in offered
    assert (led.status_code, led.url) == (303, account.checkouts.first().url)


def test_the_first_payment_at_the_new_provider_is_due_when_the_period_ends(
    quiet_shop, account, settings
):
    bought = timezone.now() - timedelta(days=10)
    old = quiet_shop.buy(account, at=bought)
    Subscription.objects.filter(pk=old.pk).update(provider="dodo")
    row = start(account, timezone.now())
    pay(row, timezone.now())
    new = account.subscriptions.exclude(state="ended").get()
    order = SandboxOrder.objects.get(pk=row.provider_session_id)

    subscriptions.sync(new.pk, timezone.now())
    waiting = (order.payments.count(), kinds(account))
    orders.advance(old.period_end)
    subscriptions.sync(new.pk, old.period_end)

    new.refresh_from_db()
    assert waiting == (0, ["started", "provider_changed"])
    assert (new.state, new.period_start) == ("active", old.period_end)
    assert order.payments.get().amount_minor == 50_00
    assert kinds(account) == ["started", "provider_changed", "renewed"]
