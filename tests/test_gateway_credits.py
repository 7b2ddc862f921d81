"""Prepaid credits and spend caps: not one unit more, and what isn't billed comes back."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import allowances, caps, rating
from billing.models import Subscription
from gateway import ledger, refill, usage
from gateway.models import CreditUse, UsageEvent
from keys import records
from keys.entitlements import Grant, MeterTerms
from keys.spend import Earlier, SpendCap
from tests import traffic
from tests.doors import assert_refused
from tests.factories import calls
from tests.prepaid import prepaid_version, subscribed
from tests.test_gateway_limits import admit_by_hand, call_from_many
from tests.traffic import NOW, Customer, ask, committed, entitle, make_customer, put_on_sale, terms

pytestmark = pytest.mark.django_db

EXPIRED = int(NOW.timestamp()) - 1
SOON = int(NOW.timestamp()) + 86400


@pytest.fixture(scope="module")
def running():
    with traffic.gateway(processes=2) as running:
        yield running


@pytest.fixture
def port(running, redis_clean) -> int:
    return running.port


def paying_with_credits(*grants: Grant, included: int = 0, price: int = 1, **meters) -> Customer:
    calls = MeterTerms(included, "credits", None, price)
    return make_customer(replace(terms(calls=calls, **meters), grants=grants))


def drawn(*grants: int) -> list[int]:
    connection = records.connection()
    return [int(connection.get(records.drawn_name(0, grant)) or 0) for grant in grants]


# ------------------------------------------------------------------ credits


def test_credits_let_exactly_as_much_through_over_two_processes(port, backend):
    put_on_sale(backend.url)
    customer = paying_with_credits(Grant(1, 100, None), Grant(2, 51, SOON), included=20, price=3)

    statuses = call_from_many(port, customer, "/gateway/demo/echo", calls=150, connections=64)

    # 20 are included; 151 credits pay for 50 more, one is left.
    assert statuses == {200: 70, 402: 80}
    assert len(traffic.entries()) == 70
    assert sum(drawn(1, 2)) == 150
    refused = ask(port, "GET", "/gateway/demo/echo", customer.bearer)
    assert_refused(refused, "credits_exhausted")
    assert refused.json["billing"].endswith("/dashboard/billing/")


def test_grants_are_used_in_order_and_never_after_their_end(port, backend):
    put_on_sale(backend.url)
    grants = (Grant(3, 100, EXPIRED), Grant(1, 3, SOON), Grant(2, 5, None))
    customer = paying_with_credits(*grants, price=2)

    call_from_many(port, customer, "/gateway/demo/echo", calls=2, connections=1)
    traffic.entries()

    assert drawn(1, 2, 3) == [3, 1, 0]
    (last,) = [entry for entry in _stored() if entry.credits != {"1": 2}]
    assert last.credits == {"1": 1, "2": 1}


def _stored() -> list[UsageEvent]:
    ledger.drain(0, lambda: NOW)
    return list(UsageEvent.objects.all())


def test_an_expiry_in_the_middle_of_things_holds_from_the_next_call_on(port, backend):
    put_on_sale(backend.url)
    ends = time.time() + 2
    customer = paying_with_credits(Grant(1, 100, int(ends)), Grant(2, 2, None))
    before = call_from_many(port, customer, "/gateway/demo/echo", calls=3, connections=3)

    time.sleep(max(int(ends) - time.time() + 0.05, 0))
    after = call_from_many(port, customer, "/gateway/demo/echo", calls=5, connections=5)

    assert (before, after) == ({200: 3}, {200: 2, 402: 3})
    assert drawn(1, 2) == [3, 2]


def test_a_trial_draws_its_own_credits_and_no_more(port, backend):
    put_on_sale(backend.url)
    now = datetime.now(UTC)
    with committed():
        subscription = subscribed(
            prepaid_version(trial_credits=5, monthly_credits=100, per_unit=2),
            state=Subscription.State.TRIALING,
            period_start=now,
            period_end=now + timedelta(days=14),
            trial_ends_at=now + timedelta(days=14),
        )
    customer = Customer(subscription.account, *traffic.make_key(subscription.account))

    statuses = call_from_many(port, customer, "/gateway/demo/echo", calls=20, connections=20)

    # A call takes two; the fifth credit pays for none.
    assert statuses == {200: 2, 402: 18}
    (grant,) = subscription.account.credit_grants.all()
    assert (grant.source, drawn(grant.pk)) == ("trial", [4])
    told = ask(port, "GET", "/gateway/demo/.limits", customer.bearer).json["credits"]
    ledger.drain(0, lambda: datetime.now(UTC))
    assert told["balance"] == allowances.balance(subscription.account_id, now) == 1


def test_what_is_not_billed_gives_its_credits_back_to_the_grants_they_came_from(port, backend):
    put_on_sale(backend.url)
    customer = paying_with_credits(Grant(1, 1, None), Grant(2, 9, None), price=2)

    failed = call_from_many(port, customer, "/gateway/demo/status/500", calls=9, connections=3)
    traffic.entries()
    assert (drawn(1, 2), set(failed)) == ([0, 0], {500})
    done = call_from_many(port, customer, "/gateway/demo/echo", calls=9, connections=3)
    traffic.entries()

    assert done == {200: 5, 402: 4}
    assert drawn(1, 2) == [1, 9]
    assert sum(sum((event.credits or {}).values()) for event in _stored()) == 10
    assert dict(CreditUse.objects.values_list("grant_id", "credits")) == {1: 1, 2: 9}
    ((_, by_day),) = usage.credits_by_day(customer.account.pk, 9)
    assert by_day == 10


def test_variable_units_reserve_their_maximum_and_draw_what_was_used(port, backend):
    put_on_sale(backend.url, {"GET /units": {"max_units": {"rows": 100}}})
    rows = MeterTerms(30, "credits", None, 2)
    customer = make_customer(
        replace(terms(rows=rows), grants=(Grant(1, 100, None), Grant(2, 40, None)))
    )
    target = "/gateway/demo/units?units=rows%3D"

    # 70 past the included ones, 140 credits, are reserved; 20 and 40 are used.
    answers = []
    for units in (50, 20, 1):
        answers.append(ask(port, "GET", f"{target}{units}", customer.bearer).status)
        traffic.entries()

    # 50 used: 20 past them, 40 credits. The next would reserve 100 more: 200 credits.
    assert answers == [200, 402, 402]
    assert drawn(1, 2) == [40, 0]
    (event,) = _stored()
    assert event.credits == {"1": 40}


def test_test_calls_draw_no_credits(port, backend):
    put_on_sale(backend.url)
    customer = paying_with_credits()
    _, secret = traffic.make_key(customer.account, "test")

    assert ask(port, "GET", "/gateway/demo/echo", {"X-API-Key": secret}).status == 200
    refused = ask(port, "GET", "/gateway/demo/echo", customer.bearer)

    assert_refused(refused, "credits_exhausted")


def test_all_or_nothing_over_meters_and_limits(port, backend):
    put_on_sale(backend.url, {"GET /echo": {"weights": {"calls": 1, "rows": 5}}})
    customer = paying_with_credits(
        Grant(1, 7, None), rows=MeterTerms(0, "credits", None, 1), price=1
    )

    answers = [ask(port, "GET", "/gateway/demo/echo", customer.bearer).status for _ in range(2)]

    # One call and its five rows cost 6; what is left would pay for the call alone.
    assert answers == [200, 402]
    assert drawn(1) == [6]
    assert (traffic.used(customer), traffic.used(customer, "rows")) == (1, 5)


def test_credits_come_back_with_a_refilled_redis(port, backend, redis_clean):
    put_on_sale(backend.url)
    customer = paying_with_credits(Grant(1, 3, None))
    call_from_many(port, customer, "/gateway/demo/echo", calls=2, connections=1)
    traffic.entries()
    _stored()
    redis_clean.flushdb()

    refill.refill(0, NOW)

    statuses = call_from_many(port, customer, "/gateway/demo/echo", calls=3, connections=1)
    assert statuses == {200: 1, 402: 2}


# ------------------------------------------------------------------ spend caps


def tier(up_to, price, per=1):
    return {"up_to": up_to, "price": price, "per": per}


def priced(mode, *tiers, included=0, meter="calls", currency="USD") -> rating.Price:
    parsed = rating.parse_tiers(list(tiers), mode)
    return rating.Price(currency, 0, (rating.MeterPrice(meter, included, mode, parsed),))


def capped(cap: SpendCap) -> Customer:
    meters = {cost.meter: MeterTerms(cost.included, "bill", None) for cost in cap.costs}
    return make_customer(replace(terms(**meters), spend_cap=cap))


def test_a_spend_cap_is_exact_over_two_processes(port, backend):
    put_on_sale(backend.url)
    price = priced("graduated", tier(50, "0.03"), tier(None, "0.02"), included=10)
    customer = capped(caps.compile_cap(200, price))

    statuses = call_from_many(port, customer, "/gateway/demo/echo", calls=150, connections=64)

    # 10 included, 50 for $1.50, 25 more for $0.50.
    assert statuses == {200: 85, 402: 65}
    traffic.entries()
    assert rating.rate(price, [calls(traffic.used(customer))])[1].amount_minor == 200
    refused = ask(port, "GET", "/gateway/demo/echo", customer.bearer)
    assert_refused(refused, "spend_cap_reached")


def test_a_cap_counts_all_meters_together_and_what_is_refunded_lets_one_more_through(port, backend):
    operations = {"GET /status/{code}": {"weights": {"calls": 1, "rows": 2}}}
    put_on_sale(backend.url, operations)
    price, rows = (
        priced("graduated", tier(None, "1.00")),
        priced("package", tier(None, "3.00", 4), meter="rows"),
    )
    customer = capped(caps.compile_cap(1000, replace(price, meters=price.meters + rows.meters)))
    target = "/gateway/demo/status/"

    failed = call_from_many(port, customer, f"{target}500", calls=8, connections=2)
    traffic.entries()
    statuses = call_from_many(port, customer, f"{target}200", calls=8, connections=2)

    # A call is $1 and two rows, every other call starts a package of $3: 1+3, 1, 1+3, 1 → $10.
    assert failed == {500: 8}
    assert statuses == {200: 4, 402: 4}


def test_what_was_spent_under_earlier_terms_holds_in_its_period_only(port, backend):
    put_on_sale(backend.url)
    cap = caps.compile_cap(500, priced("graduated", tier(None, "1.00"), included=1))
    started = int((NOW - timedelta(days=1)).timestamp())
    customer = capped(replace(cap, earlier=Earlier(started, 300, {"calls": 2})))
    other = capped(replace(cap, earlier=Earlier(started - 1, 300, {"calls": 2})))

    statuses = [
        call_from_many(port, one, "/gateway/demo/echo", calls=8, connections=1)
        for one in (customer, other)
    ]

    # $2 are left, after 2 calls of before and one that is included; or $5, after that one.
    assert statuses == [{200: 5, 402: 3}, {200: 6, 402: 2}]
    told = ask(port, "GET", "/gateway/demo/.limits", customer.bearer).json["spend_cap"]
    assert told == {"cap_minor": 500, "spent_minor": 500, "currency": "USD"}


def test_a_cap_goes_on_where_earlier_terms_had_used_up_what_is_included(port, backend):
    put_on_sale(backend.url)
    started = int((NOW - timedelta(days=1)).timestamp())
    earlier = Earlier(started, 200, {"calls": 2}, included={"calls": 1}, past={"calls": 1})
    price = priced("graduated", tier(1, "2.00"), tier(None, "1.00"), included=5)
    customer = capped(caps.compile_cap(500, price, earlier))

    statuses = call_from_many(port, customer, "/gateway/demo/echo", calls=8, connections=1)

    # $2 are spent, for the first one past; 2 calls were before and one is included: 3 for $1 each.
    assert statuses == {200: 6, 402: 2}
    told = ask(port, "GET", "/gateway/demo/.limits", customer.bearer).json["spend_cap"]
    assert told == {"cap_minor": 500, "spent_minor": 500, "currency": "USD"}


def test_a_lowered_cap_still_lets_through_what_costs_nothing(port, backend):
    put_on_sale(backend.url)
    customer = capped(caps.compile_cap(0, priced("graduated", tier(None, "1.00"), included=2)))

    statuses = call_from_many(port, customer, "/gateway/demo/echo", calls=4, connections=1)

    assert statuses == {200: 2, 402: 2}


prices = st.decimals("0", "50", places=4).map(str)


@st.composite
def price_lists(draw) -> rating.Price:
    mode = draw(st.sampled_from(rating.TIER_MODES))
    ends, floor = [], 0
    per = draw(st.sampled_from([1, 3, 10, 1000]))
    for _ in range(draw(st.integers(0, 3))):
        floor += per * draw(st.integers(1, 30))
        ends.append(floor)
    tiers = [tier(end, draw(prices), per) for end in [*ends, None]]
    currency = draw(st.sampled_from(["USD", "JPY", "KWD"]))
    return priced(mode, *tiers, included=draw(st.integers(0, 50)), currency=currency)


@given(price_lists(), st.integers(0, 5000))
def test_a_compiled_price_is_the_bills_line(price, quantity):
    (cost,) = caps.compile_cap(10**6, price).costs
    billed = rating.rate(price, [calls(quantity)])[1].amount_minor

    if price.meters[0].tier_mode == "volume":
        assert cost.minor(quantity) >= billed
    else:
        assert cost.minor(quantity) == billed


@given(price_lists(), st.integers(0, 300))
def test_a_volume_price_is_capped_by_the_most_that_it_may_still_become(price, quantity):
    (cost,) = caps.compile_cap(10**6, replace(price)).costs
    lines = (rating.rate(price, [calls(used)])[1] for used in range(quantity + 1))

    assert cost.minor(quantity) == max(line.amount_minor for line in lines)


@given(st.data(), price_lists())
def test_a_cap_never_lets_more_through_than_special_prices_cost(data, price):
    (meter,) = price.meters
    models = "abc"[: data.draw(st.integers(1, 3))]
    others = [data.draw(price_lists()).meters[0] for _ in models]
    special = tuple(
        rating.SpecialPrice(rating.Filter(dimensions=(("model", model),)), other.tiers)
        for model, other in zip(models, others, strict=True)
        if other.tier_mode == meter.tier_mode
    )
    price = replace(price, meters=(replace(meter, special=special),))
    used = [calls(data.draw(st.integers(0, 2000)), model=model) for model in (*models, "other")]

    (cost,) = caps.compile_cap(10**6, price).costs
    billed = sum(line.amount_minor for line in rating.rate(price, used))

    assert cost.minor(sum(quantity.units for quantity in used)) >= billed


@given(price_lists(), st.integers(0, 10**9), st.integers(0, 10**11))
def test_a_price_too_fine_for_exact_arithmetic_is_rounded_up(price, quantity, cap_minor):
    fine = replace(price.meters[0], tiers=tuple(
        replace(one, price=one.price + Decimal("0.000000013"), per=one.per * 7)
        for one in price.meters[0].tiers
    ), tier_mode="graduated")  # fmt: skip
    price = replace(price, meters=(fine,))

    (cost,) = caps.compile_cap(cap_minor, price).costs

    assert cost.minor(quantity) >= rating.rate(price, [calls(quantity)])[1].amount_minor


def test_the_script_counts_as_the_compiled_price_does(redis_clean, backend):
    put_on_sale(backend.url)
    customer = make_customer()
    used = records.used_name(0, customer.account.pk, "live", NOW - timedelta(days=1), "calls")

    @settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
    @given(price_lists(), st.integers(0, 10**9), st.integers(-2, 2))
    def agrees(price, quantity, off):
        (cost,) = caps.compile_cap(10**6, price).costs
        cap = caps.compile_cap(max(cost.minor(quantity + 1) + off, 0), price)
        (cost,) = cap.costs
        calls = MeterTerms(cost.included, "bill", None)
        entitle(customer.account, replace(terms(calls=calls), spend_cap=cap))
        redis_clean.set(used, quantity)

        said = admit_by_hand(redis_clean, customer)

        before, after = cost.minor(quantity), cost.minor(quantity + 1)
        is_refused = after > cap.cap_minor and after > before
        assert said == (b"spend_cap_reached" if is_refused else b"")

    agrees()
