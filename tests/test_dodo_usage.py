"""Who charges usage at Dodo: its meters where they can express the price, else Keystile."""

from decimal import Decimal

import pytest
from django.utils import timezone

from billing import catalogue, rating
from billing.models import Subscription
from billing.providers import Offer, dodo
from billing.providers.dodo import usage
from gateway.models import Meter
from tests.dodo_trade import make_add_on, order
from tests.factories import make_account

ONE = rating.Tier(None, Decimal("6.00"), 1000)


def meter_price(*tiers, mode="graduated", special=()):
    return rating.MeterPrice("calls", 10_000, mode, tiers, special)


@pytest.mark.parametrize(
    ("price", "currency", "per_unit"),
    [
        (meter_price(ONE), "USD", "0.6"),
        (meter_price(ONE, mode="volume"), "USD", "0.6"),
        (meter_price(ONE), "JPY", "0.006"),
        (meter_price(ONE), "KWD", "6"),
        (meter_price(rating.Tier(None, Decimal("0.000000000001"), 1)), "USD", "0.0000000001"),
    ],
)
def test_a_price_by_the_unit_is_dodos_to_charge(price, currency, per_unit):
    assert usage.express(price, currency) == usage.Metered("calls", per_unit, 10_000)


@pytest.mark.parametrize(
    "price",
    [
        meter_price(rating.Tier(1000, Decimal(1), 1), ONE),
        meter_price(ONE, mode="package"),
        meter_price(ONE, special=(rating.SpecialPrice(rating.Filter(api="holidays"), (ONE,)),)),
        meter_price(rating.Tier(None, Decimal(1), 3)),
        meter_price(rating.Tier(None, Decimal(0), 1)),
        meter_price(rating.Tier(None, Decimal(1001), 1)),
        meter_price(),
    ],
)
def test_what_dodos_meters_cannot_say_exactly_is_ours_to_charge(price):
    assert usage.express(price, "USD") is None


def test_a_trial_and_a_later_start_leave_usage_to_us(trade):
    basic = trade.shop.plans["basic"]

    assert usage.of_order(order(basic))
    assert usage.of_order(order(basic, trial_days=14)) == ()
    assert usage.of_order(order(basic, starts_at=timezone.now())) == ()


def test_add_ons_with_further_units_leave_usage_to_us(trade):
    """Dodo's free units belong to the product, and would not grow with an add-on."""
    make_add_on(meter=Meter.objects.get(name="calls"), included_units=1000)

    assert usage.of_order(order(trade.shop.plans["basic"])) == ()


def test_a_subscription_keeps_who_charges_its_usage(trade):
    by_dodo = trade.buy(make_account())

    at_dodo = trade.dodo.subscriptions[by_dodo.provider_subscription_id]
    (meter,) = at_dodo["meters"]
    assert by_dodo.charged_by == Subscription.ChargedBy.PROVIDER
    assert (meter["price_per_unit"], meter["free_threshold"]) == ("0.6", 10_000)
    (made,) = trade.dodo.meters.values()
    assert (made["event_name"], made["aggregation"]) == (
        "keystile_calls",
        {"type": "sum", "key": "units"},
    )


def test_dodo_bills_what_its_meters_counted_past_what_is_free(trade):
    subscription = trade.buy(make_account())
    trade.dodo.events["evt_1"] = {
        "event_id": "evt_1",
        "customer_id": subscription.provider_customer_id,
        "event_name": "keystile_calls",
        "timestamp": timezone.now().isoformat(),
        "metadata": {"units": 11_000},
    }

    trade.dodo.renew(subscription.provider_subscription_id)

    assert list(trade.dodo.payments.values())[-1]["total_amount"] == 50_00 + 6_00


# ------------------------------------------------------------------ what is on sale


def test_what_is_on_sale_is_made_once_and_before_anybody_buys(trade):
    plans = trade.shop.plans
    add_on = make_add_on()
    offers = [
        Offer(catalogue.item_of(plans["basic"]), "USD", "month"),
        Offer(catalogue.item_of(plans["pro"]), "USD", "month"),
        Offer(catalogue.item_of(add_on), "USD", "month"),
    ]

    before = dodo.unlisted(offers)
    for _ in range(2):
        for offer in offers:
            dodo.list_offer(offer)
    trade.start(make_account())

    assert (before, dodo.unlisted(offers)) == (offers, [])
    assert (len(trade.dodo.products), len(trade.dodo.add_ons)) == (2, 1)
