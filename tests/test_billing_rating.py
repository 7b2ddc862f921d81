"""Rating is exact: no unit without a price, none priced twice, one rounding per line."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import money, rating
from billing.rating import EVERYTHING, Filter, MeterPrice, Price, SpecialPrice, Tier
from gateway.usage import PricedUnits
from tests.factories import calls

units = st.integers(0, 10**9)
prices = st.decimals(0, 1000, places=6)


@st.composite
def tier_lists(draw, mode):
    """Valid tiers: ends that rise, in whole packages where the mode asks for them."""
    tiers, floor = [], 0
    for _ in range(draw(st.integers(0, 4))):
        per = draw(st.integers(1, 5000))
        width = draw(st.integers(1, 1000)) * (per if mode == "package" else 1)
        floor += width
        tiers.append(Tier(floor, draw(prices), per))
    return (*tiers, Tier(None, draw(prices), draw(st.integers(1, 5000))))


def price_of(tiers, mode="graduated", included=0, currency="USD", base=0):
    return Price(currency, base, (MeterPrice("calls", included, mode, tuple(tiers)),))


def usage_minor(price, used):
    return rating.rate(price, [calls(used)])[1].amount_minor


@pytest.mark.parametrize(
    ("slug_price", "included", "used", "expected_minor"),
    [
        ("6.00", 10_000, 10_000, 0),
        ("6.00", 10_000, 10_001, 1),
        ("6.00", 10_000, 12_300, 13_80),
        ("2.00", 100_000, 250_000, 300_00),
    ],
)
def test_the_demo_plans_bill_what_their_price_list_says(slug_price, included, used, expected_minor):
    price = price_of([Tier(None, Decimal(slug_price), 1000)], included=included)

    assert usage_minor(price, used) == expected_minor


def test_graduated_volume_and_package_differ_as_their_names_say():
    tiers = [Tier(100, Decimal("1.00"), 10), Tier(None, Decimal("0.50"), 10)]

    assert usage_minor(price_of(tiers, "graduated"), 155) == 10_00 + 2_75
    assert usage_minor(price_of(tiers, "volume"), 100) == 10_00
    assert usage_minor(price_of(tiers, "volume"), 155) == 7_75
    assert usage_minor(price_of(tiers, "package"), 155) == 10_00 + 6 * 50


def test_a_line_is_rounded_once_from_the_exact_sum():
    thirds = [Tier(1, Decimal("0.010"), 3), Tier(None, Decimal("0.005"), 3)]

    assert usage_minor(price_of(thirds), 2) == 1


@pytest.mark.parametrize(
    ("currency", "expected_minor"), [("JPY", 123), ("USD", 123_46), ("KWD", 123_457)]
)
def test_minor_units_are_those_of_the_currency(currency, expected_minor):
    price = price_of([Tier(None, Decimal("0.1234568"), 1)], currency=currency)

    assert usage_minor(price, 1000) == expected_minor


def test_the_base_price_comes_first_and_unpriced_meters_get_no_line():
    price = price_of([Tier(None, Decimal("6.00"), 1000)], included=10, base=50_00)

    lines = rating.rate(price, [calls(5), PricedUnits("", "", "", "rows", {}, 900), calls(5)])

    assert [(line.meter, line.units, line.amount_minor) for line in lines] == [
        ("", 1, 50_00),
        ("calls", 10, 0),
    ]


def test_negative_usage_is_refused():
    with pytest.raises(ValueError, match="never negative"):
        rating.rate(price_of([Tier(None, Decimal(1), 1)]), [calls(-1)])


@pytest.mark.parametrize("mode", ["graduated", "package"])
@given(st.data())
def test_more_usage_never_costs_less(mode, data):
    price = price_of(data.draw(tier_lists(mode)), mode, included=data.draw(units))
    fewer, more = sorted([data.draw(units), data.draw(units)])

    assert usage_minor(price, fewer) <= usage_minor(price, more)


@given(st.data())
def test_more_usage_never_costs_less_within_a_volume_tier(data):
    tiers = data.draw(tier_lists("volume"))
    fewer, more = sorted([data.draw(units), data.draw(units)])
    tier_of = [
        next(tier for tier in tiers if tier.up_to is None or used <= tier.up_to)
        for used in (fewer, more)
    ]

    if tier_of[0] is tier_of[1]:
        price = price_of(tiers, "volume")
        assert usage_minor(price, fewer) <= usage_minor(price, more)


@pytest.mark.parametrize("mode", rating.TIER_MODES)
@given(st.data())
def test_the_bill_is_the_same_however_the_usage_is_split(mode, data):
    price = price_of(data.draw(tier_lists(mode)), mode, included=data.draw(st.integers(0, 100)))
    pieces = data.draw(st.lists(st.integers(0, 10**6), max_size=8))

    split = rating.rate(price, [calls(piece) for piece in pieces])

    assert split == rating.rate(price, [calls(sum(pieces))])


@pytest.mark.parametrize("currency", ["JPY", "USD", "KWD"])
@given(st.data())
def test_graduated_tiers_meet_without_gap_or_jump(currency, data):
    tiers = data.draw(tier_lists("graduated"))
    price = price_of(tiers, currency=currency)
    dearest = max(tier.price / tier.per for tier in tiers)
    step_minor = money.to_minor(dearest, currency) + 1

    for tier in tiers[:-1]:
        for edge in (tier.up_to - 1, tier.up_to):
            step = usage_minor(price, edge + 1) - usage_minor(price, edge)
            assert 0 <= step <= step_minor


@pytest.mark.parametrize("mode", rating.TIER_MODES)
@given(st.data())
def test_a_tier_cut_in_two_at_the_same_price_changes_nothing(mode, data):
    per = data.draw(st.integers(1, 100))
    price = data.draw(prices)
    cut = data.draw(st.integers(1, 1000)) * per
    used = data.draw(st.integers(0, 10**6))

    whole = price_of([Tier(None, price, per)], mode)
    halves = price_of([Tier(cut, price, per), Tier(None, price, per)], mode)

    assert usage_minor(whole, used) == usage_minor(halves, used)


@pytest.mark.parametrize(
    ("raw", "mode", "complaint"),
    [
        ({}, "graduated", "a list"),
        ([{"up_to": None, "price": "1"}], "graduated", "exactly"),
        ([{"up_to": None, "price": 1.5, "per": 1}], "graduated", "decimal string"),
        ([{"up_to": None, "price": "NaN", "per": 1}], "graduated", "at least 0"),
        ([{"up_to": None, "price": "-1", "per": 1}], "graduated", "at least 0"),
        ([{"up_to": None, "price": "six", "per": 1}], "graduated", "not a decimal"),
        ([{"up_to": None, "price": "1", "per": 0}], "graduated", "at least 1"),
        ([{"up_to": True, "price": "1", "per": 1}], "graduated", "whole number"),
        ([{"up_to": 5, "price": "1", "per": 1}], "graduated", "no unit lacks"),
        (
            [{"up_to": 5, "price": "1", "per": 1}, {"up_to": 5, "price": "1", "per": 1}],
            "graduated",
            "no unit lacks",
        ),
        (
            [
                {"up_to": 5, "price": "1", "per": 1},
                {"up_to": 5, "price": "1", "per": 1},
                {"up_to": None, "price": "1", "per": 1},
            ],
            "graduated",
            "higher",
        ),
        (
            [{"up_to": 15, "price": "1", "per": 10}, {"up_to": None, "price": "1", "per": 10}],
            "package",
            "whole package",
        ),
        ([], "surge", "mode"),
    ],
)
def test_tiers_that_cannot_be_rated_are_refused_in_words(raw, mode, complaint):
    with pytest.raises(ValueError, match=complaint):
        rating.parse_tiers(raw, mode)


@pytest.mark.parametrize(
    ("minor", "currency", "short", "expected"),
    [
        (1204_50, "USD", False, "$1,204.50"),
        (50_00, "USD", True, "$50"),
        (50_50, "USD", True, "$50.50"),
        (-5, "USD", False, "-$0.05"),
        (1500, "JPY", False, "¥1,500"),
        (1500, "KWD", False, "KWD 1.500"),
        (5000, "CHF", False, "CHF 50.00"),
    ],
)
def test_amounts_read_as_people_write_them(minor, currency, short, expected):
    assert money.text(minor, currency, short=short) == expected


def test_a_unit_price_keeps_its_further_places():
    assert money.decimal_text(Decimal("0.0004"), "USD") == "$0.0004"
    assert money.decimal_text(Decimal("6.00"), "USD", short=True) == "$6"


# ------------------------------------------------------------------ special prices


def special(*prices, mode="graduated", included=0, currency="USD", otherwise="1.00"):
    """A price of calls: (filter, tiers) …, and what all others cost apiece."""
    specials = tuple(
        SpecialPrice(units, (Tier(None, Decimal(tiers), 1),) if isinstance(tiers, str) else tiers)
        for units, tiers in prices
    )
    tiers = (Tier(None, Decimal(otherwise), 1),)
    return Price(currency, 0, (MeterPrice("calls", included, mode, tiers, specials),))


LARGE = Filter(dimensions=(("model", "large"),))
COUNTRIES = Filter(operation="GET /v1/countries")


def test_a_unit_has_the_first_price_whose_filter_it_matches():
    price = special((LARGE, "5.00"), (COUNTRIES, "0.10"), (Filter(api="maps"), "3.00"))
    used = [
        calls(1, operation="GET /v1/countries", model="large"),
        calls(2, operation="GET /v1/countries", model="small"),
        calls(4, api="maps"),
        calls(8, api="maps", operation="GET /v1/countries"),
        calls(16, model="small"),
    ]

    lines = rating.rate(price, used)[1:]

    assert [(line.filter, line.units, line.amount_minor) for line in lines] == [
        (LARGE, 1, 5_00),
        (COUNTRIES, 2 + 8, 1_00),
        (Filter(api="maps"), 4, 12_00),
        (EVERYTHING, 16, 16_00),
    ]


def test_a_filter_matches_what_is_all_that_it_names():
    wanted = Filter("maps", "GET /v1/tiles", (("model", "large"), ("region", "eu")))
    fits = {"api": "maps", "operation": "GET /v1/tiles", "model": "large", "region": "eu"}

    assert wanted.matches(calls(1, **fits, tier="gold"))
    for name in fits:
        assert not wanted.matches(calls(1, **fits | {name: "another"}))
    assert not wanted.matches(calls(1, api="maps", operation="GET /v1/tiles", model="large"))


def test_included_units_are_used_up_in_the_order_of_the_prices():
    price = special((LARGE, "5.00"), (COUNTRIES, "0.10"), included=10)
    used = [calls(6, model="large"), calls(7, operation="GET /v1/countries"), calls(3)]

    lines = rating.rate(price, used)[1:]

    assert [(line.units, line.included_units, line.past_included) for line in lines] == [
        (6, 10, 0),
        (7, 4, 3),
        (3, 0, 3),
    ]
    assert [line.amount_minor for line in lines] == [0, 30, 3_00]


filters = st.builds(
    Filter,
    st.sampled_from(["", "maps", "holidays"]),
    st.sampled_from(["", "GET /a", "GET /b"]),
    st.sampled_from([(), (("model", "large"),), (("model", "small"), ("region", "eu"))]),
)


@st.composite
def special_prices(draw, mode):
    wanted = draw(st.lists(filters.filter(lambda one: one != EVERYTHING), max_size=4, unique=True))
    return special(
        *((one, draw(tier_lists(mode))) for one in wanted),
        mode=mode,
        included=draw(st.integers(0, 3000)),
        currency=draw(st.sampled_from(["JPY", "USD", "KWD"])),
    )


quantities = st.lists(
    st.builds(
        PricedUnits,
        st.just(""),
        st.sampled_from(["maps", "holidays"]),
        st.sampled_from(["GET /a", "GET /b", "other"]),
        st.sampled_from(["calls", "calls", "rows"]),
        st.sampled_from([{}, {"model": "large"}, {"model": "small", "region": "eu"}]),
        st.integers(0, 5000),
    ),
    max_size=12,
)


@pytest.mark.parametrize("mode", rating.TIER_MODES)
@given(st.data())
def test_every_unit_has_one_price_and_every_included_unit_is_used_once(mode, data):
    price = data.draw(special_prices(mode))
    used = data.draw(quantities)

    lines = rating.rate(price, used)[1:]

    (meter,) = price.meters
    total = sum(quantity.units for quantity in used if quantity.meter == "calls")
    assert sum(line.units for line in lines) == total
    assert sum(line.past_included for line in lines) == max(0, total - meter.included_units)
    for line in lines:
        its_own = [
            one for one in used if one.meter == "calls" and meter.filter_of(one) == line.filter
        ]
        assert line.units == sum(quantity.units for quantity in its_own)


@pytest.mark.parametrize("mode", rating.TIER_MODES)
@given(st.data())
def test_with_special_prices_too_only_sums_count(mode, data):
    price = data.draw(special_prices(mode))
    used = data.draw(quantities)
    pieces = [
        PricedUnits("", one.api, one.operation, one.meter, one.dimensions, units)
        for one in used
        for units in (one.units // 3, one.units - one.units // 3)
    ]

    assert rating.rate(price, pieces[::-1]) == rating.rate(price, used)


@pytest.mark.parametrize("mode", ["graduated", "package"])
@given(st.data())
def test_one_more_unit_never_makes_the_bill_smaller(mode, data):
    price = data.draw(special_prices(mode))
    used = data.draw(quantities)
    more = data.draw(quantities)

    def total_minor(pieces):
        return sum(line.amount_minor for line in rating.rate(price, pieces))

    assert total_minor(used) <= total_minor(used + more)


def test_special_prices_are_read_as_they_are_stored():
    tiers = [{"up_to": None, "price": "5.00", "per": 1}]
    stored = {"api": "maps", "dimensions": {"region": "eu", "model": "large"}, "tiers": tiers}

    (one,) = rating.parse_special([stored], "graduated")

    assert one.filter == Filter("maps", "", (("model", "large"), ("region", "eu")))
    assert {**rating.filter_json(one.filter), "tiers": tiers} == stored
    assert rating.parse_filter(rating.filter_json(one.filter)) == one.filter


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"api": None, "tiers": None}, "has “tiers”"),
        ({"api": None}, "says by"),
        ({"price": "1"}, "says by"),
        ({"api": ""}, "are texts"),
        ({"operation": 5}, "are texts"),
        ({"dimensions": {}}, "an object"),
        ({"dimensions": ["model"]}, "an object"),
        ({"dimensions": {"model": 1}}, "are texts"),
        ({"tiers": []}, "has tiers"),
        ({"tiers": [{"up_to": 5, "price": "1", "per": 1}]}, "The last tier"),
    ],
)
def test_special_prices_that_cannot_be_rated_are_refused_in_words(change, complaint):
    item = {"api": "maps", "tiers": [{"up_to": None, "price": "5", "per": 1}]} | change
    given_item = {name: value for name, value in item.items() if value is not None}

    with pytest.raises(ValueError, match=complaint):
        rating.parse_special([given_item], "graduated")


def test_two_prices_for_the_same_units_are_refused():
    item = {"api": "maps", "tiers": [{"up_to": None, "price": "5", "per": 1}]}

    with pytest.raises(ValueError, match="same units"):
        rating.parse_special([item, item], "graduated")
