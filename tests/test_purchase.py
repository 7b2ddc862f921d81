"""From “Buy” to the key, and the billing page: what a customer is told, and when."""

import re
from datetime import timedelta

import pytest
from allauth.account.models import EmailAddress
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from billing import free_plan, subscriptions
from billing.models import Checkout, Contract, Plan, Subscription
from keys import issuance, tokens
from keys.models import ApiKey
from tests.factories import make_account, make_api
from tests.markup import Page, faults

HTMX = {"HX-Request": "true"}
SECRET = re.compile(r"ks_live_[0-9]{2}[0-9A-Za-z]{46}")


@pytest.fixture
def account(shop):
    make_api()
    return make_account()


@pytest.fixture
def browser(account):
    client = Client()
    client.force_login(account.members.get(), backend="django.contrib.auth.backends.ModelBackend")
    return client


def verify(account):
    user = account.members.get()
    EmailAddress.objects.create(user=user, email=user.email, verified=True)


def text_of(answer):
    return answer.content.decode()


def return_page(row):
    return reverse("checkout_return", args=[row.pk])


# ------------------------------------------------------------------ what is bought


def test_the_page_says_what_is_bought_for_which_price(account, browser):
    html = text_of(browser.get("/buy/pro/"))

    assert "$200 a month" in html
    assert "100,000 calls a month" in html
    assert faults(html) == []


def test_buying_leads_to_the_provider_s_page(account, browser):
    answer = browser.post("/buy/pro/")

    row = account.checkouts.get()
    assert answer.status_code == 303
    assert answer.url == row.url
    assert row.version.plan.slug == "pro"
    assert row.started_by == account.members.get()


def test_looking_at_a_plan_buys_nothing(account, browser):
    browser.get("/buy/pro/")

    assert not account.checkouts.exists()


@pytest.mark.parametrize("slug", ["nothing", "unlisted"])
def test_a_plan_that_isn_t_on_the_list_is_404(account, browser, slug):
    Plan.objects.create(slug="unlisted", name="Secret", listed=False)

    assert browser.get(f"/buy/{slug}/").status_code == 404
    assert browser.post(f"/buy/{slug}/").status_code == 404


def test_a_listed_plan_without_a_price_is_not_for_sale(account, browser):
    Plan.objects.create(slug="coming", name="Coming soon")

    answer = browser.get("/buy/coming/")

    assert answer.status_code == 404
    assert "not on sale" in text_of(answer)


def test_enterprise_is_a_form(account, browser):
    assert browser.get("/buy/enterprise/").url == reverse("enterprise")


def test_free_asks_for_a_verified_address_first(account, browser):
    page = browser.get("/buy/free/")
    answer = browser.post("/buy/free/")

    verify_page = "/verify/?next=%2Fbuy%2Ffree%2F"
    assert Page(text_of(page)).one("a", href=verify_page)
    assert answer.url == verify_page
    assert not account.keys.exists()


def test_free_starts_at_once_with_a_verified_address(account, browser):
    verify(account)

    answer = browser.post("/buy/free/", follow=True)

    key = account.keys.get()
    assert Page(text_of(answer)).one("form", action=reverse("key_claim", args=[key.pk]))


def test_a_second_free_account_of_a_person_is_refused_with_a_reason(account, browser):
    verify(account)
    user = account.members.get()
    other = make_account()
    other.memberships.create(user=user, role="admin")
    free_plan.start(other, user, timezone.now())

    answer = browser.post("/buy/free/")

    assert answer.status_code == 409
    assert "one Free plan per person" in text_of(answer)


def test_who_has_a_paid_plan_is_sold_no_second_one(account, browser, shop):
    shop.buy(account, "basic", at=timezone.now())

    looked, bought = browser.get("/buy/pro/"), browser.post("/buy/pro/")

    assert "on Basic already" in text_of(looked)
    assert not Page(text_of(looked)).all("button", class_="btn primary large")
    assert bought.status_code == 409
    assert account.checkouts.count() == 1


def test_who_is_on_free_may_buy_and_keeps_the_keys(account, browser, shop):
    verify(account)
    browser.post("/buy/free/")
    key = account.keys.get()

    html = text_of(browser.get("/buy/basic/"))
    shop.buy(account, "basic", at=timezone.now())

    assert "takes the place of Free" in html
    assert account.keys.get() == key


# ------------------------------------------------------------------ the success page


def test_the_page_waits_for_the_webhook_and_then_offers_the_key(account, browser, shop):
    row = shop.start(account)
    shop.pay(row)
    waiting = browser.get(return_page(row))
    poll = Page(text_of(waiting)).by_id("progress").attributes["hx-get"]
    unchanged = browser.get(poll, headers=HTMX)

    shop.settle()
    paid = browser.get(poll, headers=HTMX)

    key = account.keys.get()
    assert "Waiting for the payment" in text_of(waiting)
    assert 'http-equiv="refresh"' in text_of(waiting)
    assert unchanged.status_code == 204
    assert "Basic is yours" in text_of(paid)
    assert Page(text_of(paid)).one("form", action=reverse("key_claim", args=[key.pk]))
    assert "hx-get" not in Page(text_of(paid)).by_id("progress").attributes
    assert 'http-equiv="refresh"' not in text_of(browser.get(return_page(row)))


def test_the_key_is_shown_once_and_then_said_to_be_gone(account, browser, shop):
    row = shop.start(account)
    shop.pay(row)
    shop.settle()
    key = account.keys.get()

    claimed = browser.post(reverse("key_claim", args=[key.pk]))
    again = browser.get(return_page(row))

    key.refresh_from_db()
    (secret,) = set(SECRET.findall(text_of(claimed)))
    assert tokens.digest(secret) == key.digest
    assert not SECRET.search(text_of(again))
    assert Page(text_of(again)).one("a", href=reverse("key_rotate", args=[key.pk]))


def test_a_declined_card_leads_back_to_the_payment_page(account, browser, shop):
    row = shop.start(account)
    shop.pay(row, "decline")
    shop.settle()

    html = text_of(browser.get(return_page(row)))

    assert "did not go through" in html
    assert not account.keys.exists()


def test_a_delayed_payment_is_pending_until_the_money_is_there(account, browser, shop):
    row = shop.start(account)
    shop.pay(row, "delay")
    shop.settle()

    html = text_of(browser.get(return_page(row)))

    assert "Your payment is on its way" in html
    assert not account.keys.exists()
    assert "on its way" in text_of(browser.get(reverse("overview")))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (Checkout.State.FAILED, "did not go through"),
        (Checkout.State.EXPIRED, "has expired"),
        (Checkout.State.SUPERSEDED, "had a plan already"),
    ],
)
def test_a_checkout_that_failed_says_so_and_leads_on(account, browser, shop, state, words):
    row = shop.start(account)
    Checkout.objects.filter(pk=row.pk).update(state=state, error="Card <declined>")

    html = text_of(browser.get(return_page(row)))

    assert words in html
    assert "<declined>" not in html
    assert faults(html) == []


def test_who_comes_back_is_told_that_the_old_keys_work(account, browser, shop):
    long_ago = timezone.now() - timedelta(days=3)
    shop.buy(account, "basic", at=long_ago)
    key = account.keys.get()
    issuance.claim(key.pk, account, actor=None, address=None, now=long_ago)
    subscriptions.cancel(account, at_period_end=False, now=timezone.now())

    shop.buy(account, "pro", at=timezone.now())

    html = text_of(browser.get(return_page(account.checkouts.first())))
    assert "Your keys work with it" in html


# ------------------------------------------------------------------ the mail's link


@pytest.fixture
def link(account, shop):
    shop.buy(account, "basic", at=timezone.now())
    return reverse("claim_link", args=[issuance.claim_link(account.keys.get(), timezone.now())])


def test_a_link_claims_by_post_only_without_a_session(account, link):
    looked = Client().get(link)
    state_after_get = account.keys.get().state
    claimed = Client().post(link)

    key = account.keys.get()
    assert state_after_get == ApiKey.State.UNCLAIMED
    assert not SECRET.search(text_of(looked))
    assert faults(text_of(looked)) == []
    assert tokens.digest(SECRET.search(text_of(claimed))[0]) == key.digest
    assert "no-store" in claimed["Cache-Control"]


def test_a_link_works_once(link):
    Client().post(link)

    assert Client().post(link).status_code == 404
    assert Client().get(link).status_code == 404


def test_used_and_unknown_links_can_t_be_told_apart(link):
    Client().post(link)
    never_sent = reverse("claim_link", args=["x" * 43])

    used, unknown = Client().get(link), Client().get(never_sent)

    strip = re.compile(r'csrfmiddlewaretoken" value="[^"]+"|nonce="[^"]+"')
    assert strip.sub("", text_of(used)) == strip.sub("", text_of(unknown))
    assert used.status_code == unknown.status_code == 404


def test_a_link_is_dead_once_the_key_was_claimed_in_the_portal(account, browser, link):
    browser.post(reverse("key_claim", args=[account.keys.get().pk]))

    assert Client().get(link).status_code == 404
    assert Client().post(link).status_code == 404


def test_a_link_of_yesterday_is_dead(account, shop):
    shop.buy(account, "basic", at=timezone.now())
    yesterday = timezone.now() - timedelta(hours=24, seconds=1)
    token = issuance.claim_link(account.keys.get(), yesterday)

    assert Client().post(reverse("claim_link", args=[token])).status_code == 404


# ------------------------------------------------------------------ the billing page


def test_the_billing_page_shows_plan_use_and_coming_bill(account, browser, shop):
    shop.buy(account, "pro", at=timezone.now())

    html = text_of(browser.get(reverse("billing")))

    assert "$200 a month" in html
    assert "of 100,000" in html
    assert "Coming bill" in html
    assert faults(html) == []


def test_an_account_without_a_plan_is_led_to_one(account, browser):
    html = text_of(browser.get(reverse("billing")))

    assert Page(html).all("a", href=reverse("pricing"))
    assert faults(html) == []


def test_a_contract_takes_the_plan_s_place(account, browser, shop):
    shop.buy(account, "basic", at=timezone.now())
    Contract.objects.create(
        account=account,
        title="Northwind agreement",
        base_price_minor=1_500_00,
        rate_per_second=500,
        burst=500,
        included_calls=5_000_000,
        sla_text="99.9 % of calls answered.",
        starts_at=timezone.now() - timedelta(days=1),
    )

    html = text_of(browser.get(reverse("billing")))

    assert "Northwind agreement" in html
    assert "$1,500 a month" in html
    assert "99.9 % of calls answered." in html
    assert faults(html) == []


def test_a_cancellation_asks_first_and_names_the_keys(account, browser, shop):
    shop.buy(account, "basic", at=timezone.now())
    key = account.keys.get()
    issuance.claim(key.pk, account, actor=None, address=None, now=timezone.now())
    key.refresh_from_db()

    html = text_of(browser.get(reverse("billing_cancel")))

    assert key.hint in html
    assert "subscription_ended" in html
    assert faults(html) == []
    assert account.subscriptions.get().state == Subscription.State.ACTIVE


def test_a_plan_cancelled_for_its_period_s_end_can_be_kept(account, browser, shop):
    shop.buy(account, "basic", at=timezone.now())

    browser.post(reverse("billing_cancel"), {"when": "period_end"})
    planned = account.subscriptions.get().cancel_at_period_end
    page = text_of(browser.get(reverse("billing")))
    browser.post(reverse("billing_resume"))

    assert planned
    assert "Basic ends on" in page
    assert not account.subscriptions.get().cancel_at_period_end


def test_a_plan_cancelled_now_has_ended(account, browser, shop):
    shop.buy(account, "basic", at=timezone.now())

    answer = browser.post(reverse("billing_cancel"), {"when": "now"}, follow=True)

    account.refresh_from_db()
    assert account.entitlement.state == "ended"
    assert "Basic has ended" in text_of(answer)


def test_a_cancellation_without_a_choice_cancels_nothing(account, browser, shop):
    shop.buy(account, "basic", at=timezone.now())

    answer = browser.post(reverse("billing_cancel"))

    assert answer.status_code == 422
    assert not account.subscriptions.get().cancel_at_period_end


@pytest.mark.parametrize("choice", ["stop", "bill"])
def test_the_choice_past_the_quota_holds_at_the_gateway(account, browser, shop, choice):
    shop.buy(account, "basic", at=timezone.now())

    browser.post(reverse("billing_overage"), {"overage": choice})

    account.refresh_from_db()
    meter = account.entitlement.terms["meters"]["calls"]
    assert account.subscriptions.get().overage == choice
    assert meter["limit"] == (10_000 if choice == "stop" else None)


def test_an_unknown_choice_changes_nothing(account, browser, shop):
    shop.buy(account, "basic", at=timezone.now())

    browser.post(reverse("billing_overage"), {"overage": "free"})

    assert account.subscriptions.get().overage == Subscription.Overage.BILL


@pytest.mark.parametrize("page", ["billing_resume", "billing_overage", "billing_cancel"])
def test_without_a_plan_nothing_can_be_changed(account, browser, page):
    answer = browser.post(reverse(page), {"overage": "stop", "when": "now"})

    assert answer.url == reverse("billing")


def test_a_failed_payment_is_said_with_its_last_day(account, browser, shop):
    subscription = shop.buy(account, "basic", at=timezone.now())
    Subscription.objects.filter(pk=subscription.pk).update(
        state=Subscription.State.PAST_DUE, past_due_since=timezone.now()
    )

    html = text_of(browser.get(reverse("billing")))

    assert "The last payment failed." in html
    assert "Calls keep working until" in html
