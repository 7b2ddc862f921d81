"""A seller's site with the sandbox as its provider, served over real HTTP.

Tests move it step by step: the sandbox sends its webhooks when `deliver` is called, and the
inbox does its work when `process` is. `working` runs a real Celery worker instead.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
import requests
from celery.contrib.testing.worker import start_worker
from django.db import connections
from django.utils import timezone

from billing import checkout, estimates, inbox, terms
from billing.models import Checkout, PlanVersion, ProviderEvent, Subscription
from billing.sandbox import cards, deliveries, orders
from billing.sandbox.models import SandboxDelivery, SandboxOrder
from gateway import usage
from keys import records
from portal.celery import app
from portal.models import Account
from tests.factories import make_plans

A_MONTH = timedelta(days=31)


@dataclass
class Shop:
    site: str
    plans: dict[str, PlanVersion]

    def start(self, account: Account, slug: str = "basic", *, now: datetime | None = None):
        """An open checkout, as the Buy button makes it."""
        buyer = account.members.first()
        return checkout.start(account, self.plans[slug], user=buyer, now=now or timezone.now())

    def pay(self, row: Checkout, card: str = "success") -> requests.Response:
        """Fills in the hosted page's form in a browser of its own and sends it."""
        card_used = cards.of_name(card)
        number = card_used.number if card_used else card
        browser = requests.Session()
        page = browser.get(row.url, timeout=10)
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
        assert token, page.text
        fields = {"csrfmiddlewaretoken": token[1], "number": number}
        return browser.post(row.url, data=fields, allow_redirects=False, timeout=10)

    def buy(self, account: Account, slug: str = "basic", *, at: datetime) -> Subscription:
        """A purchase at some moment, learned of without a webhook."""
        row = self.start(account, slug, now=at)
        orders.pay(row.provider_session_id, cards.CARDS[0], at)
        checkout.sync(row.pk, at)
        SandboxDelivery.objects.all().delete()
        return Subscription.objects.get(provider_subscription_id=self.order(row).subscription_id)

    def order(self, row: Checkout) -> SandboxOrder:
        return SandboxOrder.objects.get(pk=row.provider_session_id)

    def deliver(self) -> list[int | None]:
        """Sends what the sandbox has to tell; the statuses that it was answered with."""
        now = timezone.now()
        sent = list(deliveries.due(now))
        for delivery in sent:
            deliveries.send(delivery.pk, now)
        rows = SandboxDelivery.objects.in_bulk([delivery.pk for delivery in sent])
        return [rows[delivery.pk].last_status for delivery in sent]

    def process(self) -> None:
        """Lets the inbox do its work, as a worker would that lost no message."""
        soon = timezone.now() + timedelta(seconds=6)
        for event_id in inbox.waiting(soon).values_list("pk", flat=True):
            inbox.process(event_id, soon)

    def process_by_eight(self) -> None:
        """Lets eight workers process the one delivery that is there, and seven copies, at once."""
        delivered = ProviderEvent.objects.get()
        copies = [
            ProviderEvent.objects.create(
                provider="sandbox",
                external_id=f"copy-{serial}",
                type=delivered.type,
                payload=delivered.payload,
                received_at=delivered.received_at,
            ).pk
            for serial in range(7)
        ]
        now = timezone.now()

        def process(event_id: int) -> None:
            inbox.process(event_id, now)
            connections.close_all()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(process, [delivered.pk, *copies]))

    def settle(self) -> None:
        """Delivers and processes until nothing is left to tell."""
        while self.deliver():
            self.process()

    def webhook(self, body: bytes, headers: dict[str, str]) -> requests.Response:
        return requests.post(
            f"{self.site}/webhooks/sandbox", data=body, headers=headers, timeout=10
        )


@pytest.fixture
def shop(transactional_db, live_server, settings, redis_clean) -> Shop:
    settings.SITE_URL = live_server.url
    return Shop(live_server.url, make_plans())


@pytest.fixture
def quiet_shop(db, settings) -> Shop:
    """A shop that is asked and hears nothing by itself, in the test's own transaction: quick."""
    settings.SITE_URL = "http://127.0.0.1:9"
    return Shop(settings.SITE_URL, make_plans())


@contextmanager
def working() -> Iterator[None]:
    """A Celery worker on the real broker, in a thread."""
    with start_worker(app, pool="solo", perform_ping_check=False, loglevel="WARNING"):
        yield


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def published(account: Account) -> dict[str, str]:
    """What the data plane holds of the account: the terms of its next call."""
    record = records.connection().hgetall(records.account_name(account.partition, account.pk))
    return {name.decode(): value.decode() for name, value in record.items()}


def coming_bill(account: Account, now: datetime) -> estimates.Bill | None:
    """The bill as the account's pages ask for it."""
    has = terms.standing(account.pk, now)
    period = terms.usage_periods(has, now)[:2]
    used = usage.priced_units(account.pk, *period) if period else []
    return estimates.coming_bill(has, used, now)


def waiting_events() -> int:
    return ProviderEvent.objects.filter(processed_at=None, dead_at=None).count()
