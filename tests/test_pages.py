"""What a visitor meets: prices, landing, forms, and the pages for when something is wrong."""

import json
from datetime import UTC, datetime

import pytest
import time_machine
from django.template.loader import render_to_string
from django.test import Client
from django.utils import timezone

from billing.models import EnterpriseRequest, Plan, PlanVersion
from portal import announcements
from tests.factories import make_account, make_api, make_plans, make_user
from tests.markup import Page, faults

pytestmark = pytest.mark.django_db

PUBLIC = [
    "/",
    "/pricing",
    "/enterprise/",
    "/enterprise/sent/",
    "/signup/",
    "/login/",
    "/password/reset/",
    "/password/reset/done/",
    "/password/reset/key/1-abc/",
    "/password/reset/key/done/",
    "/docs/",
    "/docs/authentication",
    "/docs/limits",
    "/docs/errors",
    "/docs/api/holidays/",
    "/demo/mail/",
    "/no/such/page",
]
NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
WISH = {
    "name": "Ada",
    "email": "ada@northwind.example",
    "company": "Northwind",
    "calls_per_month": "5 million",
    "message": "We need 500 calls a second.",
}


@pytest.fixture
def on_sale(db, redis_clean):
    make_plans()
    return make_api()


@pytest.mark.parametrize("path", PUBLIC)
def test_a_page_has_one_heading_labelled_fields_and_nothing_inline(client, on_sale, path):
    response = client.get(path)

    assert response.status_code == (404 if path == "/no/such/page" else 200)
    assert faults(response.content.decode()) == []
    assert "unsafe" not in response["Content-Security-Policy"]


def test_the_price_list_shows_every_published_plan_and_no_draft(client, on_sale):
    plan = Plan.objects.create(slug="secret", name="Secret", position=9)
    PlanVersion.objects.create(plan=plan, number=1, base_price_minor=999_00)

    page = client.get("/pricing").content.decode()

    cards = Page(page).all("li", class_="card plan") + Page(page).all("li", class_="card plan best")
    assert len(cards) == 4
    assert all(text in page for text in ("$0", "$50", "$200", "Custom", "10,000 calls a month"))
    assert "Taxes are worked out at checkout. Prices in US dollars." in " ".join(page.split())
    assert "Secret" not in page


def test_prices_appear_only_once_something_is_on_sale(client, db):
    assert "Nothing is on sale yet" in client.get("/pricing").content.decode()
    assert client.get("/").status_code == 200


def test_a_visitor_who_buys_is_led_through_sign_up_to_the_purchase(client, on_sale):
    page = Page(client.get("/pricing").content.decode())

    link = next(element for element in page.all("a") if element.text == "Buy Pro")

    assert link.attributes["href"] == "/signup/?next=/buy/pro/"


def test_a_customer_buys_with_one_click(client, on_sale):
    client.force_login(make_account().members.get())

    page = Page(client.get("/pricing").content.decode())

    assert page.one("form", action="/buy/pro/").attributes["method"] == "post"


def test_the_landing_page_shows_a_call_of_what_is_on_sale(client, on_sale):
    on_sale.document = {
        "openapi": "3.1.0",
        "info": {"title": "T", "version": "1", "summary": "All holidays."},
        "paths": {
            "/v1/next/{country}": {
                "get": {
                    "parameters": [
                        {"name": "country", "in": "path", "required": True, "example": "DE"}
                    ],
                    "responses": {
                        "200": {
                            "description": "Found",
                            "content": {"application/json": {"example": {"name": "New Year"}}},
                        }
                    },
                }
            }
        },
    }
    on_sale.save(update_fields=["document"])

    page = Page(client.get("/").content.decode())

    assert page.one("h1").text == "All holidays"
    command, answer = (element.text for element in page.all("pre"))
    assert "/gateway/holidays/v1/next/DE" in command
    assert "$KEYSTILE_KEY" in command
    assert json.loads(answer) == {"name": "New Year"}


def test_an_enterprise_request_reaches_the_staff(client, on_sale, mailoutbox, settings):
    settings.STAFF_EMAIL = "staff@keystile.example"
    account = make_account()
    client.force_login(account.members.get())

    response = client.post("/enterprise/", WISH)

    assert response.url == "/enterprise/sent/"
    wish = EnterpriseRequest.objects.get()
    assert (wish.company, wish.account) == ("Northwind", account)
    announcements.send_waiting(timezone.now())
    (mail,) = mailoutbox
    assert mail.to == ["staff@keystile.example"]
    assert "500 calls a second" in mail.body


def test_an_error_in_a_form_is_tied_to_its_field(client, on_sale):
    response = client.post("/enterprise/", {**WISH, "email": "nobody"})

    page = Page(response.content.decode())
    field = page.by_id("id_email")
    assert field.attributes["aria-invalid"] == "true"
    told = [page.by_id(name).text for name in field.attributes["aria-describedby"].split()]
    assert "Enter a valid email address." in told[-1]
    assert faults(response.content.decode()) == []
    assert not EnterpriseRequest.objects.exists()


@time_machine.travel(NOON, tick=False)
def test_a_form_sent_too_often_rests_and_says_how_long(client, on_sale):
    for _ in range(10):
        assert client.post("/enterprise/", WISH).status_code == 302

    response = client.post("/enterprise/", WISH)

    assert response.status_code == 429
    assert 0 < int(response["Retry-After"]) <= 3600
    assert faults(response.content.decode()) == []
    assert EnterpriseRequest.objects.count() == 10
    assert client.get("/enterprise/").status_code == 200


def test_forms_stay_open_with_redis_away(client, db, settings):
    settings.CACHES = {
        "default": {
            **settings.CACHES["default"],
            "LOCATION": "redis://127.0.0.1:9/0",
        }
    }

    assert client.post("/enterprise/", WISH).status_code == 302


def test_a_form_without_its_token_gets_a_page_that_says_what_to_do(db):
    response = Client(enforce_csrf_checks=True).post("/enterprise/", WISH)

    assert response.status_code == 403
    assert "Please send it again" in response.content.decode()


def test_a_broken_page_still_looks_like_the_site(db, on_sale):
    assert faults(render_to_string("500.html")) == []


def test_probes_answer(client, db):
    assert client.get("/healthz").content == b"ok\n"
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (200, True)


def test_security_txt_says_whom_to_tell_and_is_not_expired(client, db, settings):
    settings.STAFF_EMAIL = "staff@keystile.example"

    fields = dict(
        line.split(": ", 1)
        for line in client.get("/.well-known/security.txt").content.decode().splitlines()
    )

    assert fields["Contact"] == "mailto:staff@keystile.example"
    assert fields["Expires"] > timezone.now().isoformat()


def test_machines_find_prices_docs_and_what_is_private(client, on_sale):
    brief = client.get("/llms.txt").content.decode()
    robots = client.get("/robots.txt").content.decode()

    assert "Pro: $200 a month" in brief
    assert "/docs/api/holidays/" in brief
    assert "Disallow: /dashboard/" in robots


def test_a_signed_in_visitor_finds_the_dashboard_and_the_way_out(client, on_sale):
    client.force_login(make_user())

    page = Page(client.get("/pricing").content.decode())

    assert "Dashboard" in [element.text for element in page.all("a")]
    assert page.one("form", action="/logout/").attributes["method"] == "post"
