"""Changing the plan, its add-ons and the payment method: what is said before it is done."""

import re
from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from billing import plan_changes, wishes
from billing.models import Subscription
from billing.sandbox.models import SandboxOrder, SandboxPayment
from portal.models import Membership
from tests.factories import make_account, make_add_on, make_member
from tests.markup import Page, faults

BACKEND = "django.contrib.auth.backends.ModelBackend"


def browser_of(user):
    client = Client()
    client.force_login(user, backend=BACKEND)
    return client


@pytest.fixture
def account(quiet_shop):
    return make_account()


@pytest.fixture
def browser(account):
    return browser_of(account.members.get())


@pytest.fixture
def basic(account, quiet_shop):
    return quiet_shop.buy(account, "basic", at=timezone.now() - timedelta(days=10))


@pytest.fixture
def pro(account, quiet_shop):
    return quiet_shop.buy(account, "pro", at=timezone.now() - timedelta(days=10))


def text_of(answer):
    html = answer.content.decode()
    assert faults(html) == []
    return html


def fields(html):
    page = Page(html)
    return {e.attributes["name"]: e.attributes["value"] for e in page.all("input", type="hidden")}


def test_the_choices_say_what_each_costs_and_when_it_holds(browser, basic):
    html = text_of(browser.get("/dashboard/billing/change/"))

    assert "You are on Basic, $50 a month" in html
    assert "Change to Pro" in html
    assert "holds at once" in html
    assert "Free" not in [heading.text for heading in Page(html).all("h2")]


def test_an_upgrade_is_confirmed_at_the_price_that_was_shown(browser, account, basic, quiet_shop):
    address = reverse("change_to", args=[quiet_shop.plans["pro"].pk])

    asked = text_of(browser.get(address))
    answer = browser.post(address, {"as_of": fields(asked)["as_of"]}, follow=True)

    (shown,) = re.findall(r"<button[^>]*>Pay \$([0-9.]+)</button>", asked)
    assert "$200.00 a month" in asked
    assert SandboxPayment.objects.get(kind="change").amount_minor == int(shown.replace(".", ""))
    assert "You are on Pro now." in text_of(answer)


def test_a_declined_upgrade_says_that_nothing_has_changed(browser, account, basic, quiet_shop):
    SandboxOrder.objects.update(declines=True)
    address = reverse("change_to", args=[quiet_shop.plans["pro"].pk])
    asked = text_of(browser.get(address))

    answer = browser.post(address, {"as_of": fields(asked)["as_of"]})

    assert answer.status_code == 402
    assert "Your card was declined. Nothing was taken and nothing has changed." in text_of(answer)
    assert account.subscriptions.get().version == quiet_shop.plans["basic"]


@pytest.mark.parametrize("as_of", ["", "1000", "99999999999999999999", "soon"])
def test_a_price_of_another_time_is_shown_anew(browser, basic, quiet_shop, as_of):
    address = reverse("change_to", args=[quiet_shop.plans["pro"].pk])

    answer = browser.post(address, {"as_of": as_of})

    assert answer.status_code == 409
    assert "Here it is anew" in text_of(answer)
    assert not SandboxPayment.objects.filter(kind="change").exists()


def test_a_downgrade_costs_nothing_now_and_can_be_withdrawn(browser, account, pro, quiet_shop):
    basic = quiet_shop.plans["basic"]
    address = reverse("change_to", args=[basic.pk])

    asked = text_of(browser.get(address))
    planned = text_of(browser.post(address, follow=True))
    pro.refresh_from_db()
    next_version = pro.next_version
    kept = text_of(browser.post(reverse("change_withdraw"), follow=True))

    pro.refresh_from_db()
    assert "<dd>nothing</dd>" in asked
    assert next_version == basic
    assert "Basic takes its place on" in planned
    assert "Pro goes on" in kept
    assert pro.next_version is None


def test_what_a_plan_can_t_have_is_said_before(browser, account, pro, quiet_shop):
    add_on = make_add_on("history")
    add_on.plans.add(quiet_shop.plans["pro"].plan)
    now = timezone.now()
    plan_changes.change_now(account, wishes.with_add_on(pro, add_on.pk), now, now)

    html = text_of(browser.get(reverse("change_to", args=[quiet_shop.plans["basic"].pk])))

    assert "History ends with it" in html


def test_add_ons_are_bought_dropped_and_kept(browser, account, basic):
    add_on = make_add_on("support", features=["Answers within a day"])
    buy, drop, keep = (
        reverse(name, args=[add_on.pk]) for name in ("add_on_buy", "add_on_drop", "add_on_keep")
    )

    listed = text_of(browser.get("/dashboard/billing/add-ons/"))
    asked = text_of(browser.get(buy))
    bought = text_of(browser.post(buy, {"as_of": fields(asked)["as_of"]}, follow=True))
    said = text_of(browser.get(drop))
    dropped = text_of(browser.post(drop, follow=True))
    kept = text_of(browser.post(keep, follow=True))

    assert "Add Support" in listed
    assert "$60.00 a month" in asked
    assert "Support is yours from now on." in bought
    assert "Answers within a day" in said
    assert "Keep Support" in dropped
    assert "Drop Support" in kept
    assert basic.add_ons.get().ends_at_period_end is False


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({"cancel_at_period_end": True}, "Keep it first"),
        ({"state": "past_due"}, "Update the payment method first"),
        ({"state": "paused"}, "is paused"),
    ],
)
def test_what_stands_in_the_way_is_said(browser, account, basic, state, sentence):
    make_add_on("support")
    Subscription.objects.update(**state)

    for page in ("/dashboard/billing/change/", "/dashboard/billing/add-ons/"):
        assert sentence in text_of(browser.get(page))


@pytest.mark.parametrize("path", ["change/", "add-ons/", "change/1/", "add-ons/1/"])
def test_without_a_paid_plan_there_is_nothing_to_change(browser, account, path):
    assert browser.get(f"/dashboard/billing/{path}").status_code == 404


def test_an_outsider_s_plan_is_not_there_and_a_developer_may_not_change_it(
    browser, account, basic, quiet_shop
):
    stranger = browser_of(make_account().members.get())
    developer = browser_of(make_member(account, Membership.Role.DEVELOPER))
    address = reverse("change_to", args=[quiet_shop.plans["pro"].pk])

    assert stranger.get(address).status_code == 404
    assert stranger.post(address).status_code == 404
    assert developer.get(address).status_code == 403
    assert developer.get(reverse("payment_method")).status_code == 403


# ------------------------------------------------------------------ the provider's page


def test_the_payment_method_is_changed_on_the_provider_s_page(browser, account, basic, settings):
    settings.SITE_URL = "http://testserver"
    order = SandboxOrder.objects.get()
    order.declines, order.state = True, "past_due"
    order.save()
    SandboxPayment.objects.update(state="failed")

    led = browser.get(reverse("payment_method"))
    stranger = Client()
    asked = text_of(stranger.get(led.url))
    declined = stranger.post(led.url, {"number": "4000 0000 0000 0002"})
    paid = stranger.post(led.url, {"number": "4242 4242 4242 4242"})

    assert led.status_code == 302
    assert "$50.00 is not paid yet." in asked
    assert "could not be taken with this card" in text_of(declined)
    assert "Saved." in text_of(paid)
    order.refresh_from_db()
    assert (order.state, order.card, order.declines) == ("active", "success", False)


def test_the_page_leads_back_to_the_site_alone(basic, settings):
    settings.SITE_URL = "http://testserver"
    order = SandboxOrder.objects.get()
    page = f"/sandbox/customer/{order.customer_id}/"

    for evil in ("https://evil.example/", "http://testserver.evil.example/", "javascript:alert(1)"):
        html = text_of(Client().get(page, {"return_url": evil}))
        assert evil not in html

    assert Client().get("/sandbox/customer/cus_test_0/").status_code == 404
    settings.PAYMENT_PROVIDER = "stripe"
    assert Client().get(page).status_code == 404


def test_no_card_number_gets_through_that_isn_t_a_test_card_s(basic):
    order = SandboxOrder.objects.get()

    answer = Client().post(f"/sandbox/customer/{order.customer_id}/", {"number": "5555 4444"})

    assert answer.status_code == 422
    assert "No test card has this number" in text_of(answer)
