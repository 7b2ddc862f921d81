"""The sandbox behaves like a provider: its page, its cards, its webhooks, its place."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import requests
from django.db import connection
from django.utils import timezone
from psycopg import sql

from billing import catalogue
from billing.providers import Order, sandbox
from billing.sandbox import cards, deliveries, orders
from billing.sandbox.models import SandboxDelivery, SandboxOrder
from tests.factories import make_account

ROOT = Path(__file__).resolve().parent.parent


def page_of(row, query=""):
    return requests.get(f"{row.url}{query}", timeout=10)


def test_the_hosted_page_says_what_is_bought_and_that_no_money_moves(shop):
    account = make_account()
    row = shop.start(account)

    page = page_of(row)

    assert page.status_code == 200
    assert "Test mode: no money moves" in page.text
    assert "Pay $50.00" in page.text
    assert account.billing_email in page.text
    assert f'href="{shop.site}/buy/basic/"' in page.text
    assert "no-store" in page.headers["Cache-Control"]
    for card in cards.CARDS:
        assert card.grouped in page.text


def test_the_hosted_page_keeps_to_the_strict_content_policy(shop):
    page = page_of(shop.start(make_account()))

    assert " style=" not in page.text
    assert "onclick" not in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]


@pytest.mark.parametrize("card", cards.CARDS, ids=lambda card: card.name)
def test_one_click_fills_in_a_test_card(shop, card):
    page = page_of(shop.start(make_account()), f"?card={card.name}")

    assert f'value="{card.grouped}"' in page.text


@pytest.mark.parametrize(
    "number", ["4242 4242 4242 4242", "4242-4242-4242-4242", " 4242424242424242 "]
)
def test_a_number_may_be_grouped_in_any_way(shop, number):
    row = shop.start(make_account())

    assert shop.pay(row, number).status_code == 302
    assert shop.order(row).state == SandboxOrder.State.ACTIVE


@pytest.mark.parametrize("number", ["4111 1111 1111 1111", "", "4242", "<script>"])
def test_no_card_but_a_test_card_is_taken(shop, number):
    row = shop.start(make_account())

    answer = shop.pay(row, number)

    assert answer.status_code == 200
    assert "aria-invalid" in answer.text
    assert "<script>4" not in answer.text
    assert shop.order(row).state == SandboxOrder.State.OPEN
    assert SandboxDelivery.objects.count() == 0


def test_a_paid_order_cannot_be_paid_again(shop):
    row = shop.start(make_account())
    shop.pay(row)
    before = shop.order(row)

    orders.pay(before.pk, cards.CARDS[0], timezone.now())

    assert shop.order(row).subscription_id == before.subscription_id
    assert SandboxDelivery.objects.count() == 1
    assert "This order is paid" in page_of(row).text


def test_an_expired_order_cannot_be_paid(shop):
    row = shop.start(make_account())
    SandboxOrder.objects.update(created_at=timezone.now() - timedelta(hours=25))

    orders.pay(row.provider_session_id, cards.CARDS[0], timezone.now())

    assert shop.order(row).state == SandboxOrder.State.OPEN


def test_asking_twice_for_the_same_checkout_gives_the_same_order(shop):
    row = shop.start(make_account())
    order = shop.order(row)

    again = sandbox.create_checkout(
        Order(
            reference=str(row.pk),
            items=(catalogue.item_of(row.version),),
            currency=order.currency,
            interval="month",
            customer_email=order.customer_email,
            return_url=order.return_url,
            cancel_url=order.cancel_url,
        )
    )

    assert again.id == row.provider_session_id
    assert SandboxOrder.objects.count() == 1


def test_no_card_number_is_stored_anywhere(shop):
    row = shop.start(make_account())
    for card in ("decline", "success"):
        shop.pay(row, card)
    shop.settle()

    with connection.cursor() as cursor:
        tables = connection.introspection.table_names(cursor)
        for table in tables:
            text_of_rows = sql.SQL("SELECT string_agg(t::text, ' ') FROM {} t")
            cursor.execute(text_of_rows.format(sql.Identifier(table)))
            (everything,) = cursor.fetchone()
            for card in cards.CARDS:
                assert card.number not in (everything or "")
                assert card.grouped not in (everything or "")


def test_the_page_of_no_order_and_of_a_sandbox_not_in_use_is_not_found(shop, settings):
    row = shop.start(make_account())

    unknown = requests.get(f"{shop.site}/sandbox/checkout/co_test_0/", timeout=10)
    settings.PAYMENT_PROVIDER = "stripe"

    assert unknown.status_code == 404
    assert page_of(row).status_code == 404
    assert requests.post(row.url, timeout=10).status_code in (403, 404)


def test_a_form_without_its_token_is_refused(shop):
    row = shop.start(make_account())

    answer = requests.post(row.url, data={"number": cards.CARDS[0].number}, timeout=10)

    assert answer.status_code == 403
    assert shop.order(row).state == SandboxOrder.State.OPEN


def test_a_webhook_carries_ids_and_the_state_at_its_delivery(shop):
    row = shop.start(make_account())
    shop.pay(row, "decline")
    told = SandboxDelivery.objects.select_related("order").get()
    shop.pay(row, "success")
    told.order.refresh_from_db()

    body = json.loads(deliveries.body_of(told, timezone.now()))

    assert body["type"] == "payment.failed"
    assert body["data"]["reference"] == str(row.pk)
    assert body["data"]["status"] == "active"
    assert body["data"]["subscription_id"] == told.order.subscription_id


def test_a_delivery_is_given_up_after_its_last_attempt(shop, settings):
    settings.SITE_URL = "http://127.0.0.1:9"
    row = shop.start(make_account())
    orders.pay(row.provider_session_id, cards.CARDS[0], timezone.now())
    delivery, waits = SandboxDelivery.objects.get(), []

    while delivery.next_attempt_at:
        now = delivery.next_attempt_at
        deliveries.send(delivery.pk, now)
        delivery.refresh_from_db()
        if delivery.next_attempt_at:
            waits.append((delivery.next_attempt_at - now).total_seconds())

    assert waits == [2, 10, 60, 300, 1800, 7200, 18000]
    assert delivery.attempts == 8
    assert delivery.delivered_at is None


def test_two_senders_at_once_make_one_attempt(shop):
    shop.pay(shop.start(make_account()))
    delivery = SandboxDelivery.objects.get()
    now = timezone.now()

    deliveries.send(delivery.pk, now)
    deliveries.send(delivery.pk, now)

    delivery.refresh_from_db()
    assert delivery.attempts == 1


def test_off_loopback_the_product_refuses_to_start_with_the_sandbox():
    def start(**variables):
        return subprocess.run(
            [sys.executable, "-c", "import portal.settings"],
            cwd=ROOT,
            env={**os.environ, "SITE_URL": "https://shop.example.com", **variables},
            capture_output=True,
            text=True,
        )

    refused, allowed = start(ALLOW_SANDBOX="0"), start(ALLOW_SANDBOX="1")

    assert refused.returncode != 0
    assert "gives everything away" in refused.stderr
    assert allowed.returncode == 0, allowed.stderr
