"""Our shop and Dodo Payments' side of it, whose deliveries a test sends."""

from dataclasses import dataclass

import pytest
import requests

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
