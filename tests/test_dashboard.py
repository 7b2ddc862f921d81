"""The overview: every stage of a customer, live within one poll, nothing sent twice."""

import json
from datetime import datetime, timedelta

import pytest
from allauth.account.models import EmailAddress
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from billing import free_plan, subscriptions
from gateway import ledger, partitions
from keys import issuance, records
from keys.models import Entitlement
from portal import dashboard
from portal.dashboard import Situation
from tests.factories import make_account, make_api, make_member, make_plans, make_user
from tests.markup import Page, faults
from tests.test_ledger import add, entry

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_clean")]

HTMX = {"HX-Request": "true"}


@pytest.fixture
def account():
    make_api()
    make_plans()
    owner = make_user()
    EmailAddress.objects.create(user=owner, email=owner.email, verified=True)
    return make_account(owner)


@pytest.fixture
def browser(account):
    client = Client()
    client.force_login(account.members.get(), backend="django.contrib.auth.backends.ModelBackend")
    return client


def start_free(account):
    return free_plan.start(account, account.members.get(), timezone.now())


def claim_first(account):
    key = account.keys.get(origin="first")
    issuance.claim(key.pk, account, actor=None, address=None, now=timezone.now())
    key.refresh_from_db()
    return key


@pytest.fixture
def key(account):
    """The claimed first key of the account, which is on Free."""
    start_free(account)
    return claim_first(account)


def call(account, key, *, at=None, **end):
    """One call, settled by the gateway and drained into the ledger."""
    at = at or timezone.now()
    fields = entry(account=account.pk, key=key.pk, at=at, **end)
    opened = fields["open"].split("\t")
    opened[3] = str(Entitlement.objects.get(account=account).periods[0])
    add(fields | {"open": "\t".join(opened)})
    partitions.ensure([at])
    ledger.drain(0, timezone.now)


def refuse(account, key, code="rate_limited"):
    now_ms = int(timezone.now().timestamp() * 1000)
    refusal = {"at_ms": now_ms, "key": str(key.pk), "api": "holidays", "op": "GET /v1/countries"}
    records.connection().lpush(
        records.refusals_name(0, account.pk),
        json.dumps(refusal | {"code": code, "status": 429}),
    )


def shown(browser, page="overview"):
    return browser.get(reverse(page)).content.decode()


def poll_of(html):
    return Page(html).by_id("live").attributes["hx-get"]


def changed_parts(answer):
    page = Page(answer.content.decode())
    return {e.attributes["id"] for e in page.elements if "hx-swap-oob" in e.attributes}


# ------------------------------------------------------------------ before the first call


def test_a_new_account_is_led_to_the_plans(account, browser):
    html = shown(browser)

    assert dashboard.situation_of(account) == Situation.NO_PLAN
    assert Page(html).one("form", action="/buy/free/")
    assert Page(html).one("form", action="/buy/pro/")


def test_a_member_who_may_not_buy_is_told_who_may(account):
    viewer = Client()
    viewer.force_login(
        make_member(account, "viewer"), backend="django.contrib.auth.backends.ModelBackend"
    )

    html = shown(viewer)

    assert "An owner, admin or billing member can buy it." in html
    assert Page(html).all("form", action="/buy/pro/") == []


def test_a_plan_with_an_unseen_key_offers_to_show_it(account, browser):
    start_free(account)

    html = shown(browser)

    key = account.keys.get(origin="first")
    assert Page(html).one("form", action=reverse("key_claim", args=[key.pk]))


def test_a_key_without_calls_gets_a_command_to_paste(account, browser, key):
    html = shown(browser)

    assert "$KEYSTILE_KEY" in html
    assert "curl" in html


def test_a_plan_whose_keys_are_all_gone_offers_a_new_one(account, browser, key):
    issuance.revoke(key.pk, account, actor=None, address=None, now=timezone.now())

    html = shown(browser)

    assert "situation=no_key" in html
    assert Page(html).all("a", href=reverse("key_create"))


def test_the_waiting_page_becomes_the_dashboard_with_the_first_call(account, browser, key):
    html = shown(browser)
    (poller,) = [e for e in Page(html).elements if "hx-get" in e.attributes]
    poll = poller.attributes["hx-get"]

    before = browser.get(poll, headers=HTMX)
    call(account, key)
    after = browser.get(poll, headers=HTMX)

    assert before.status_code == 204
    assert after["HX-Refresh"] == "true"
    assert "Recent calls" in shown(browser)


def test_a_refused_first_call_counts_as_having_called(account, browser, key):
    refuse(account, key)

    assert dashboard.situation_of(account) == Situation.RUNNING
    assert "429" in shown(browser)


# ------------------------------------------------------------------ running


def test_a_call_is_on_the_page_with_what_it_used_and_left(account, browser, key):
    call(account, key)
    call(account, key, status=502, billable=False, units={"calls": 0})

    html = shown(browser)

    assert "499 left of 500" in html
    assert "GET /v1/next/{country}" in html
    assert "1 of 2 calls this period" in html
    assert 'class="tag bad"' in html


def test_a_poll_brings_the_next_call_and_only_the_parts_that_it_changes(account, browser, key):
    call(account, key)
    poll = poll_of(shown(browser))

    nothing_new = browser.get(poll, headers=HTMX)
    call(account, key)
    news = browser.get(poll, headers=HTMX)

    assert nothing_new.status_code == 204
    assert changed_parts(news) == {
        "live-stats",
        "live-chart",
        "live-figures",
        "live-operations",
        "live-recent",
    }
    assert "498 left of 500" in news.content.decode()
    assert browser.get(poll_of(news.content.decode()), headers=HTMX).status_code == 204


def test_operations_tell_how_long_their_calls_take(account, browser, key):
    for latency_us in (2_000, 3_000, 4_000, 90_000):
        call(account, key, latency_us=latency_us)
    call(account, key, status=0, outcome="abandoned", billable=False, api="slow")

    html = shown(browser)

    first, second = html.split('id="live-operations"')[1].split("<tr><td>")[1:3]
    assert [cell.split("<")[0] for cell in first.split('">')[1:]] == [
        "holidays",
        "4",
        "0",
        "3 ms",
        "99 ms",
        "102 ms",
    ]
    assert [cell.split("<")[0] for cell in second.split('">')[1:7]] == [
        "slow",
        "1",
        "1",
        "–",
        "–",
        "–",
    ]


def test_relative_times_alone_are_no_news(account, browser, key):
    call(account, key, at=timezone.now() - timedelta(seconds=58))
    html = shown(browser)

    later = html.replace("58 s ago", "1 min ago")

    assert later != html
    assert browser.get(poll_of(html), headers=HTMX).status_code == 204


@pytest.mark.parametrize(
    ("span", "bars", "title"),
    [("24h", 24, "Calls per hour"), ("7d", 7, "Calls per day"), ("30d", 30, "Calls per day")],
)
def test_the_chart_has_a_bar_per_step_and_its_table_the_same_figures(
    account, browser, key, span, bars, title
):
    call(account, key)

    page = Page(browser.get(f"/dashboard/?range={span}").content.decode())

    chart = [e for e in page.elements if e.attributes.get("id", "").startswith("bar-")]
    assert len(chart) == bars
    assert [bar.attributes["tabindex"] for bar in chart] == ["-1"] * (bars - 1) + ["0"]
    assert "1 call, 0 errors" in chart[-1].text
    assert page.one("svg", class_="chart").attributes["aria-label"] == title
    rows = page.by_id("live-figures").text
    assert rows.count("\n") >= bars


def test_an_unknown_range_is_the_usual_one(account, browser, key):
    call(account, key)

    page = Page(browser.get("/dashboard/?range=9y").content.decode())

    assert page.one("a", href="?range=30d").attributes["aria-current"] == "true"


def test_an_ended_plan_keeps_its_dashboard_and_says_what_to_do(account, browser, key):
    call(account, key)
    subscriptions.cancel(account, at_period_end=False, now=timezone.now())

    html = shown(browser)

    assert "Free has ended." in html
    assert "Recent calls" in html


def test_test_calls_are_marked_and_use_nothing(account, browser, key):
    call(account, key, mode="test")

    html = shown(browser)

    assert '<span class="tag plain">test</span>' in html
    assert "500 left of 500" in html


def test_the_overview_asks_few_questions_however_many_calls_there_are(account, browser, key):
    for _ in range(30):
        call(account, key)

    with CaptureQueriesContext(connection) as queries:
        browser.get(reverse("overview"))

    assert len(queries) <= 21


def test_the_pages_are_sound(account, browser):
    assert faults(shown(browser)) == []
    start_free(account)
    assert faults(shown(browser)) == []
    key = claim_first(account)
    assert faults(shown(browser)) == []
    call(account, key)
    assert faults(shown(browser)) == []


def test_days_are_those_of_utc():
    span = dashboard.SPANS["7d"]
    now = datetime.fromisoformat("2026-11-23T00:30:00+00:00")

    assert span.start(now) == datetime.fromisoformat("2026-11-17T00:00:00+00:00")
    assert dashboard.SPANS["24h"].start(now) == datetime.fromisoformat("2026-11-22T01:00:00+00:00")


def test_another_account_s_calls_never_show(account, browser, key):
    call(account, key)
    poll = poll_of(shown(browser))
    stranger = make_user()
    EmailAddress.objects.create(user=stranger, email=stranger.email, verified=True)
    other = make_account(stranger)
    start_free(other)

    call(other, claim_first(other), status=418)

    assert browser.get(poll, headers=HTMX).status_code == 204
    assert ">418<" not in shown(browser)
