"""Worked examples of public documentation come out to the cent, and so do periods in two parts.

Each example names the page that its figures are from.
"""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import rating
from billing.rating import Before, MeterPrice, Price, Tier
from tests.factories import calls
from tests.test_billing_rating import tier_lists


def cost(tiers, mode, units, *, included=0, currency="USD") -> int:
    """Minor units for so much usage; tiers as (up to, price, per)."""
    parsed = tuple(Tier(up_to, Decimal(price), per) for up_to, price, per in tiers)
    price = Price(currency, 0, (MeterPrice("calls", included, mode, parsed),))
    return rating.rate(price, [calls(units)])[1].amount_minor


FONTS = [(5, "7", 1), (10, "6.5", 1), (None, "6", 1)]


@pytest.mark.parametrize(
    ("fonts", "minor"), [(1, 7_00), (5, 35_00), (6, 39_00), (20, 120_00), (25, 150_00)]
)
def test_stripe_volume(fonts, minor):
    """docs.stripe.com/subscriptions/pricing-models/tiered-pricing: fonts at $7 up to 5, $6.50 up
    to 10, $6 beyond; all of them at the price of the tier that the month ends in.
    """
    assert cost(FONTS, "volume", fonts) == minor


@pytest.mark.parametrize(
    ("fonts", "minor"), [(1, 7_00), (5, 35_00), (6, 41_50), (20, 127_50), (25, 157_50)]
)
def test_stripe_graduated(fonts, minor):
    """The same page and prices: each tier's fonts at its own price, the tiers summed."""
    assert cost(FONTS, "graduated", fonts) == minor


@pytest.mark.parametrize(
    ("users", "minor"), [(1, 10_00), (3, 10_00), (5, 10_00), (6, 20_00), (7, 20_00)]
)
def test_stripe_packages(users, minor):
    """stripe.com/docs/billing/subscriptions/quantity-transformation: $10 for every five users
    or part of five.
    """
    assert cost([(None, "10", 5)], "package", users) == minor


def test_stripe_started_hours():
    """docs.stripe.com/billing/subscriptions/usage-based/transform-quantities: a car at $10 an
    hour, 150 minutes are three.
    """
    assert cost([(None, "10", 60)], "package", 150) == 30_00


@pytest.mark.parametrize(("mode", "minor"), [("graduated", 600_00), ("volume", 150_00)])
def test_zuplo(mode, minor):
    """zuplo.com/docs/articles/monetization/pricing-models: 15,000 units at $0.10 up to 1,000,
    $0.05 up to 10,000, $0.01 beyond.
    """
    tiers = [(1_000, "0.10", 1), (10_000, "0.05", 1), (None, "0.01", 1)]

    assert cost(tiers, mode, 15_000) == minor


def test_autumn_graduated():
    """docs.useautumn.com/documentation/modelling-pricing/graduated-pricing: 15,000 requests at
    $0.01 for the first thousand, $0.008 for nine more, $0.005 beyond.
    """
    tiers = [(1_000, "0.01", 1), (10_000, "0.008", 1), (None, "0.005", 1)]

    assert cost(tiers, "graduated", 15_000) == 107_00


def test_lago_packages_after_free_units():
    """getlago.com/docs/guide/plans/charges/charge-models/package: $5 for each hundred, the first
    hundred free; 201 units are two packages.
    """
    assert cost([(None, "5", 100)], "package", 201, included=100) == 10_00


def test_lago_standard():
    """getlago.com/docs/guide/plans/charges/charge-models/standard: 1,000 calls at $0.05."""
    assert cost([(None, "0.05", 1)], "graduated", 1_000) == 50_00


@pytest.mark.parametrize(("tokens", "minor"), [(10, 1_25), (1_000_000, 1_25), (1_500_000, 2_50)])
def test_chargebee_packages(tokens, minor):
    """chargebee.com/docs/billing/2.0/product-catalog/package-pricing: $1.25 for a million tokens
    or part of it.
    """
    assert cost([(None, "1.25", 1_000_000)], "package", tokens) == minor


@pytest.mark.parametrize(
    ("currency", "price", "units", "minor"),
    [("JPY", "0.5", 3, 2), ("JPY", "12", 7, 84), ("KWD", "0.0015", 3, 5), ("KWD", "1.5", 2, 3_000)],
)
def test_currencies_without_and_with_three_places(currency, price, units, minor):
    assert cost([(None, price, 1)], "graduated", units, currency=currency) == minor


def test_by_volume_one_more_may_cost_less():
    """The exception to “more never costs less”, as Stripe's page says of volume prices."""
    tiers = [(5, "7", 1), (None, "5", 1)]

    assert cost(tiers, "volume", 6) == 30_00 < cost(tiers, "volume", 5) == 35_00


# ------------------------------------------------------------------ one period, several terms


def price_of(tiers, mode, included) -> Price:
    return Price("USD", 0, (MeterPrice("calls", included, mode, tuple(tiers)),))


@pytest.mark.parametrize("mode", rating.TIER_MODES)
@given(st.data())
def test_a_period_in_two_parts_costs_what_it_does_in_one(mode, data):
    price = price_of(data.draw(tier_lists(mode)), mode, data.draw(st.integers(0, 10**5)))
    first, second = data.draw(st.integers(0, 10**6)), data.draw(st.integers(0, 10**6))

    before = rating.rate(price, [calls(first)])[1:]
    after = rating.rate(price, [calls(second)], rating.NOTHING.then(price, before))[1:]
    whole = rating.rate(price, [calls(first + second)])[1:]

    # Each part is rounded once.
    assert abs(before[0].amount_minor + after[0].amount_minor - whole[0].amount_minor) <= 1
    assert before[0].past_included + after[0].past_included == whole[0].past_included


@given(st.data())
def test_what_further_terms_include_counts_from_the_periods_start(data):
    tiers = data.draw(tier_lists("graduated"))
    fewer, further = data.draw(st.integers(0, 10**5)), data.draw(st.integers(0, 10**5))
    first, second = data.draw(st.integers(0, 10**6)), data.draw(st.integers(0, 10**6))
    old, new = price_of(tiers, "graduated", fewer), price_of(tiers, "graduated", fewer + further)

    before = rating.rate(old, [calls(first)])[1:]
    after = rating.rate(new, [calls(second)], rating.NOTHING.then(old, before))[1]

    past = max(0, first + second - max(first, fewer + further))
    assert after.past_included == past


def test_other_prices_begin_with_their_first_tier():
    old, new = (
        price_of([Tier(10, Decimal(price), 1), Tier(None, Decimal("0.1"), 1)], "graduated", 0)
        for price in ("5", "1")
    )
    before = rating.NOTHING.then(old, rating.rate(old, [calls(50)])[1:])

    assert rating.rate(new, [calls(1)], before)[1].amount_minor == 1_00
    assert rating.rate(old, [calls(1)], before)[1].amount_minor == 10
    assert rating.rate(new, [calls(1)], Before({"rows": 9}))[1].amount_minor == 1_00
