"""Our shop and Dodo Payments' side of it, whose deliveries a test sends."""

from dataclasses import dataclass

import pytest
import requests
from django.utils import timezone

from billing import catalogue
from billing.models import AddOn, PlanMeter, PlanVersion
from billing.providers import Order
from gateway.models import Meter
from tests.doubles.dodo_shop import DodoShop
from tests.doubles.server import serving
from tests.shop import Shop


@dataclass
class Trade:
    """Our shop and Dodo's side of it."""

    shop: Shop
    dodo: DodoShop

    def start(self, account, slug="basic"):
        return self.shop.start(account, slug)

    def pay(self, row, card="success"):
        return requests.post(row.url, data={"card": card}, allow_redirects=False, timeout=10)

    def settle(self):
        assert set(self.dodo.deliver(self.shop.site)) <= {200}
        self.shop.process()

    def buy(self, account, slug="basic"):
        row = self.start(account, slug)
        self.pay(row)
        self.settle()
        return account.subscriptions.get(version__plan__slug=slug)

    def subscription_of(self, row):
        payment = self.dodo.payments[self.dodo.sessions[row.provider_session_id]["payment_id"]]
        return self.dodo.subscriptions[payment["subscription_id"]]


@pytest.fixture
def trade(shop, settings):
    with serving(DodoShop()) as double:
        settings.PAYMENT_PROVIDER = "dodo"
        settings.DODO_PAYMENTS_BASE_URL = double.url
        settings.DODO_PAYMENTS_API_KEY = double.key
        settings.DODO_PAYMENTS_WEBHOOK_KEY = double.secret
        yield Trade(shop, double)
    assert not double.violations


def order(version: PlanVersion, **how) -> Order:
    """For a plan alone, as its buyer's checkout asks for it."""
    return Order(
        reference="r",
        items=(catalogue.item_of(version),),
        currency="USD",
        interval="month",
        customer_email="buyer@example.com",
        return_url="http://127.0.0.1/",
        cancel_url="http://127.0.0.1/",
        **how,
    )


def make_add_on(slug: str = "more", **how) -> AddOn:
    """On sale for $10 a month."""
    add_on = AddOn.objects.create(
        slug=slug, name="More of it", price_minor=10_00, published_at=None, **how
    )
    AddOn.objects.filter(pk=add_on.pk).update(published_at=timezone.now())
    add_on.refresh_from_db()
    return add_on


def pay_as_you_go(trade) -> PlanVersion:
    """A plan without a base price, whose calls cost $0.01 each."""
    version = PlanVersion.objects.create(plan=trade.shop.plans["basic"].plan, number=99)
    PlanMeter.objects.create(
        version=version,
        meter=Meter.objects.get(name="calls"),
        included_units=0,
        past_included="bill",
        tiers=[{"up_to": None, "price": "0.01", "per": 1}],
    )
    PlanVersion.objects.filter(pk=version.pk).update(published_at=version.created_at)
    trade.shop.plans["payg"] = version
    return version
