"""The credits page: what a customer has, what became of the rest, and how more are bought."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from billing import allowances, topups
from billing.models import AutoTopUp, CreditGrant, CreditPack, Plan, TopUp
from billing.sandbox import orders
from billing.sandbox.cards import of_name
from gateway.models import CreditDay
from tests.factories import make_account, make_member, make_plans, make_user
from tests.markup import Page, faults
from tests.prepaid import draw, make_pack, prepaid_version, subscribed
from tests.test_invoices import api

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_clean")]

HTMX = {"HX-Request": "true"}


def signed_in(user) -> Client:
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def account(db):
    now = timezone.now().replace(microsecond=0)
    return subscribed(
        prepaid_version(), period_start=now, period_end=now + timedelta(days=30)
    ).account


@pytest.fixture
def browser(account):
    return signed_in(account.members.get())


def shown(browser, page="credits", *args) -> str:
    answer = browser.get(reverse(page, args=args))
    html = answer.content.decode()
    assert answer.status_code == 200
    assert faults(html) == []
    return html


def bought(browser, pack, amount=None, price_minor=None):
    fields = {"credits": amount or pack.credits, "price_minor": price_minor or pack.price_minor}
    return browser.post(reverse("credits_buy", args=[pack.pk]), fields)


# ------------------------------------------------------------------ what there is


def test_grants_are_shown_in_the_order_of_use_with_what_is_left(account, browser):
    now = timezone.now()
    first = allowances.grant(
        account, 1000, reason="Spring", by=None, now=now, expires_at=now + timedelta(days=9)
    )
    allowances.grant(account, 500, reason="Endless", by=None, now=now)
    draw(account, first.pk, 250)

    html = shown(browser)

    assert "1,250 left" in html
    assert html.index("Spring") < html.index("Endless")
    assert "750" in html


def test_what_became_of_credits_is_told_by_day(account, browser):
    given, used, over = (timezone.now() - timedelta(days=ago) for ago in (40, 9, 2))
    old = allowances.grant(account, 90, reason="Old", by=None, now=given, expires_at=over)
    draw(account, old.pk, 30)
    CreditDay.objects.create(account_id=account.pk, day=used.date(), credits=30)

    html = shown(browser)

    turns = [html.index(text) for text in ("Expired: Old", "Drawn by calls", "+90")]
    assert turns == sorted(turns)
    assert "-60" in html
    assert "No prepaid credits are left." in html


def test_an_account_without_a_plan_is_sent_to_the_plans():
    browser = signed_in(make_account().members.get())
    make_pack(name="Small pack")

    html = shown(browser)

    assert Page(html).one("a", class_="btn primary", href=reverse("pricing"))
    assert "Small pack" not in html


def test_a_plan_that_takes_none_is_sold_none():
    account = subscribed(make_plans()["pro"]).account
    pack = make_pack(name="Small pack")
    browser = signed_in(account.members.get())

    html = shown(browser)

    assert "Your plan takes no credits" in html
    assert bought(browser, pack).url == reverse("credits")
    assert not TopUp.objects.exists()


def test_who_may_not_buy_sees_what_is_left_and_no_button(account):
    make_pack(name="Small pack")
    viewer = signed_in(make_member(account, "viewer"))

    html = shown(viewer)

    assert "Small pack" not in html
    assert "billing member of this account can buy them" in html
    assert bought(viewer, CreditPack.objects.get()).status_code == 403


def test_the_billing_page_leads_to_them(account, browser):
    allowances.grant(account, 1234, reason="gift", by=None, now=timezone.now())

    html = shown(browser, "billing")

    assert "1,234" in html
    assert Page(html).all("a", href=reverse("credits"))


# ------------------------------------------------------------------ buying


def test_buying_leads_to_the_providers_page_and_back_to_what_was_bought(account, browser):
    pack = make_pack(1000, 10_00)

    answer = bought(browser, pack)

    row = account.top_ups.get()
    assert (answer.status_code, answer.url) == (303, row.url)
    assert "takes a few seconds" in shown(browser, "top_up", row.pk)
    orders.pay(row.provider_session_id, of_name("success"), timezone.now())
    topups.sync(row.pk, timezone.now())
    html = shown(browser, "top_up", row.pk)
    assert "1,000 credits are yours" in html
    assert "hx-get" not in html


@pytest.mark.parametrize(
    ("card", "told"),
    [("decline", "still open"), ("delay", "on its way"), ("late-decline", "on its way")],
)
def test_the_page_says_how_far_the_payment_is(account, browser, card, told):
    bought(browser, make_pack())
    row = account.top_ups.get()
    orders.pay(row.provider_session_id, of_name(card), timezone.now())
    topups.sync(row.pk, timezone.now())

    assert told in shown(browser, "top_up", row.pk)


def test_a_page_that_shows_this_stage_already_is_told_nothing(account, browser):
    bought(browser, make_pack())
    address = reverse("top_up", args=[account.top_ups.get().pk])

    assert browser.get(f"{address}?seen=waiting", headers=HTMX).status_code == 204
    assert browser.get(f"{address}?seen=pending", headers=HTMX).status_code == 200


def test_any_amount_shows_its_price_before_it_is_bought(account, browser):
    pack = make_pack(300, 1_00, any_amount=True)
    address = reverse("credits_buy", args=[pack.pk])

    html = browser.get(address, {"credits": "100000"}).content.decode()
    answer = bought(browser, pack, 100_000, 333_33)

    assert "$333.33" in html
    assert answer.status_code == 303
    row = account.top_ups.get()
    assert (row.credits, row.amount_minor) == (100_000, 333_33)


@pytest.mark.parametrize("amount", ["299", "-1", "", "x", "1e9", "9" * 40])
def test_an_amount_that_is_not_sold_is_said_so(account, browser, amount):
    pack = make_pack(300, 1_00, any_amount=True)
    address = reverse("credits_buy", args=[pack.pk])

    looked = browser.get(address, {"credits": amount})
    sent = browser.post(address, {"credits": amount, "price_minor": "100"})

    assert looked.status_code == sent.status_code == 422
    assert not TopUp.objects.exists()


def test_a_price_that_has_changed_is_shown_anew(account, browser):
    pack = make_pack(1000, 10_00)
    CreditPack.objects.update(price_minor=12_00)

    answer = bought(browser, pack, price_minor=10_00)

    assert answer.status_code == 409
    assert "$12.00" in answer.content.decode()
    assert not TopUp.objects.exists()


@pytest.mark.parametrize("price", ["", "x", "٣", "-1", "9" * 500])
def test_a_price_that_nobody_was_shown_buys_nothing(account, browser, price):
    address = reverse("credits_buy", args=[make_pack().pk])

    answer = browser.post(address, {"credits": "1000", "price_minor": price})

    assert answer.status_code in (409, 422)
    assert not TopUp.objects.exists()


def test_an_outsider_gets_404(account, browser):
    bought(browser, make_pack())
    row = account.top_ups.get()
    outsider = signed_in(make_account(make_user()).members.get())

    assert outsider.get(reverse("top_up", args=[row.pk])).status_code == 404
    unlisted = make_pack(listed=False)
    assert browser.get(reverse("credits_buy", args=[unlisted.pk])).status_code == 404


# ------------------------------------------------------------------ by themselves


def switched_on(browser, offered, **fields):
    choice = f"{offered.pk}-{offered.credits}-{offered.price_minor}"
    given = {"pack": choice, "below": "100", "most_per_month": "3"} | fields
    return browser.post(reverse("credits_auto"), given)


def test_credits_can_be_had_by_themselves_and_no_more(account, browser):
    pack = make_pack(1000, 10_00)
    offered = shown(browser)

    switched_on(browser, pack)
    html = shown(browser)
    wish = AutoTopUp.objects.get()
    browser.post(reverse("credits_auto_off"))

    assert Page(offered).one("form", action=reverse("credits_auto"))
    assert (wish.credits, wish.amount_minor, wish.below, wish.most_per_month) == (
        1000, 10_00, 100, 3,
    )  # fmt: skip
    assert wish.set_by == account.members.get()
    assert "1,000 credits for $10.00" in html
    assert "0 of 3 at most" in html
    assert not AutoTopUp.objects.exists()


def test_a_pause_says_why_and_ends_with_a_click(account, browser):
    switched_on(browser, make_pack())
    AutoTopUp.objects.update(paused_because="Your card was declined.")

    html = shown(browser)
    browser.post(reverse("credits_auto_resume"))

    assert "Your card was declined." in html
    assert Page(html).one("form", action=reverse("credits_auto_resume"))
    assert AutoTopUp.objects.get().paused_because == ""


@pytest.mark.parametrize(
    "fields", [{"below": "0"}, {"below": ""}, {"most_per_month": "101"}, {"pack": "1-2-3"}]
)
def test_a_wish_that_makes_no_sense_is_not_taken(account, browser, fields):
    answer = switched_on(browser, make_pack(), **fields)

    assert answer.status_code == 422
    assert faults(answer.content.decode()) == []
    assert not AutoTopUp.objects.exists()


def test_a_price_that_has_changed_is_not_agreed_to(account, browser):
    pack = make_pack(1000, 10_00)
    CreditPack.objects.update(price_minor=12_00)

    answer = switched_on(browser, pack)

    assert "The price list has changed" in answer.content.decode()
    assert not AutoTopUp.objects.exists()


def test_only_who_pays_may_have_them_bought_by_themselves(account):
    pack = make_pack()
    developer = signed_in(make_member(account, "developer"))

    assert switched_on(developer, pack).status_code == 403
    assert developer.post(reverse("credits_auto_resume")).status_code == 403
    assert developer.post(reverse("credits_auto_off")).status_code == 403


def test_on_free_they_wait_for_a_paid_plan():
    account = subscribed(prepaid_version(kind=Plan.Kind.FREE), provider="none").account
    browser = signed_in(account.members.get())
    pack = make_pack()

    html = shown(browser)
    switched_on(browser, pack)

    assert "With a paid plan" in html
    assert not AutoTopUp.objects.exists()


def test_the_api_gives_what_is_left_to_whom_it_belongs(account):
    now = timezone.now()
    grant = allowances.grant(account, 100, reason="gift", by=None, now=now)
    used = allowances.grant(account, 7, reason="gift", by=None, now=now)
    draw(account, grant.pk, 30)
    draw(account, used.pk, 7)

    answer = api(account, "/api/v1/credits", scope="usage:read")

    assert answer.json() == {
        "balance": 70,
        "grants": [
            {
                "id": grant.pk,
                "source": "staff",
                "given": 100,
                "left": 70,
                "expires_at": None,
            }
        ],
    }
    assert api(account, "/api/v1/credits", scope="keys:read").status_code == 403
    other = subscribed(prepaid_version()).account
    assert api(other, "/api/v1/credits", scope="usage:read").json()["balance"] == 0


def test_what_expires_soon_is_told_unless_it_comes_again(account, browser):
    now = timezone.now()
    soon = now + timedelta(days=5)
    allowances.grant(account, 400, reason="gift", by=None, now=now, expires_at=soon)
    allowances.grant(account, 9, reason="later", by=None, now=now)

    told = shown(browser)
    CreditGrant.objects.filter(amount=400).update(source="plan")

    assert "400 credits expire on" in told
    assert "credits expire on" not in shown(browser)
