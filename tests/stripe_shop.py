"""A seller's site that sells at Stripe, whose double is on loopback; moved step by step.

Deliveries are sent when `deliver` is called: repeated and shuffled as told, or lost by `lose`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random

import pytest
import requests
from django.utils import timezone

from billing import checkout, inbox
from billing.models import Checkout, PlanVersion, Subscription
from portal.models import Account
from tests.doubles.server import serving
from tests.doubles.stripe_payments import StripePayments
from tests.factories import make_plans


@dataclass
class StripeShop:
    site: str
    plans: dict[str, PlanVersion]
    stripe: StripePayments

    def start(self, account: Account, slug: str = "basic", *, now: datetime | None = None):
        """An open checkout, as the Buy button makes it."""
        buyer = account.members.first()
        return checkout.start(account, self.plans[slug], user=buyer, now=now or timezone.now())

    def pay(self, row: Checkout, card: str = "success") -> requests.Response:
        """Presses a button of the hosted page."""
        assert "<form" in requests.get(row.url, timeout=10).text
        return requests.post(row.url, data={"card": card}, allow_redirects=False, timeout=10)

    def buy(self, account: Account, slug: str = "basic") -> Subscription:
        """A purchase that has been told of and dealt with."""
        self.pay(self.start(account, slug))
        self.settle()
        return account.subscriptions.exclude(state="ended").get()

    def deliver(self, *, times: int = 1, seed: int | None = None) -> list[int]:
        """Sends what Stripe has to tell; the statuses that it was answered with."""
        events = self.stripe.outbox * times
        self.stripe.outbox.clear()
        if seed is not None:
            Random(seed).shuffle(events)  # noqa: S311 - an order, not a secret
        return [self.webhook(*self.stripe.signed(event)).status_code for event in events]

    def lose(self) -> None:
        """Stripe's deliveries up to now never arrive."""
        self.stripe.outbox.clear()

    def process(self, now: datetime | None = None) -> None:
        """Lets the inbox do its work, as a worker would that lost no message."""
        soon = (now or timezone.now()) + timedelta(seconds=6)
        for event_id in inbox.waiting(soon).values_list("pk", flat=True):
            inbox.process(event_id, soon)

    def settle(self) -> None:
        """Delivers and processes until nothing is left to tell."""
        while self.deliver():
            self.process()

    def webhook(self, body: bytes, headers: dict[str, str]) -> requests.Response:
        return requests.post(f"{self.site}/webhooks/stripe", data=body, headers=headers, timeout=10)


@pytest.fixture
def stripe_shop(transactional_db, live_server, settings, redis_clean) -> Iterator[StripeShop]:
    with serving(StripePayments()) as double:
        settings.SITE_URL = live_server.url
        settings.PAYMENT_PROVIDER = "stripe"
        settings.STRIPE_API_BASE = double.url
        settings.STRIPE_SECRET_KEY = double.key
        settings.STRIPE_WEBHOOK_SECRET = double.secret
        yield StripeShop(live_server.url, make_plans(), double)
    assert not double.violations


def kinds(account: Account) -> list[str]:
    """What happened to the account, in the order of its happening."""
    return [event.kind for event in account.billing_events.order_by("id")]
