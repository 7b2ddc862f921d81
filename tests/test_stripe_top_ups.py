"""Credits bought at Stripe: one payment, one grant, wherever it is heard of."""

import requests
from django.utils import timezone

from billing import topups
from tests.factories import make_account
from tests.prepaid import make_pack, prepaid_version


def test_a_top_up_at_stripe_gives_its_credits_once(stripe_shop):
    account = make_account()
    stripe_shop.plans["prepaid"] = prepaid_version()
    stripe_shop.buy(account, "prepaid")
    pack = make_pack(1000, 2500)
    buyer = account.members.first()
    row = topups.start(account, pack, 1000, seen_minor=2500, user=buyer, now=timezone.now())

    requests.post(row.url, data={"card": "success"}, allow_redirects=False, timeout=10)
    statuses = stripe_shop.deliver(times=3, seed=1)
    stripe_shop.process()

    row.refresh_from_db()
    assert set(statuses) == {200}
    assert row.state == "completed"
    assert account.payments.get(kind="sale").amount_minor == 2500
    assert account.credit_grants.get().amount == 1000
