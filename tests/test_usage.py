import json
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from gateway import histogram, ledger, usage
from gateway.models import Meter
from keys import issuance, records
from tests.factories import make_account
from tests.test_ledger import ACCOUNT, PERIOD, add, entry
from tests.test_publish import redis_away

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_clean")]

NOON = datetime(2026, 5, 10, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def record(*fields):
    add(*fields)
    ledger.drain(0, lambda: NOON)


def calls(count, **fields):
    return [entry(**fields) for _ in range(count)]


def refuse(account_id, key_id, at, code="rate_limited"):
    refusal = {
        "at_ms": int(at.timestamp() * 1000),
        "key": str(key_id),
        "api": "holidays",
        "op": "GET /v1/countries",
        "code": code,
        "status": 429,
    }
    records.connection().lpush(records.refusals_name(0, account_id), json.dumps(refusal))


def test_a_period_counts_each_call_once_and_units_by_meter():
    record(
        *calls(2, at=NOON, units={"calls": 1, "rows": 10}),
        entry(at=NOON, status=404),
        entry(at=NOON, status=502, billable=False),
        entry(at=NOON, outcome="abandoned", status=0, billable=False, units={}),
        entry(at=NOON, mode="test"),
        entry(at=NOON, account=uuid.uuid4()),
    )

    used = usage.of_period(ACCOUNT, PERIOD)

    assert used == usage.PeriodUsage(
        calls=5,
        errors=3,
        units={"calls": 4, "rows": 20},
        billable_by_terms={"version:3": {"calls": 3, "rows": 20}},
    )
    assert used.billable_units == {"calls": 3, "rows": 20}
    assert usage.of_period(ACCOUNT, PERIOD, PERIOD + 31 * DAY) == used


def test_an_account_without_calls_has_used_nothing():
    nothing = usage.PeriodUsage(0, 0, {}, {})

    assert usage.of_period(uuid.uuid4(), PERIOD) == nothing
    assert usage.today(uuid.uuid4(), NOON) == nothing


def test_today_begins_at_midnight_utc():
    midnight = NOON.replace(hour=0)
    record(entry(at=midnight), entry(at=midnight - timedelta(microseconds=1)))

    assert usage.today(ACCOUNT, NOON).calls == 1


def test_a_series_leaves_no_step_out():
    record(*calls(3, at=NOON + MINUTE), entry(at=NOON - 2 * HOUR, status=500, billable=False))

    points = usage.series(ACCOUNT, NOON - 3 * HOUR + MINUTE, NOON + 2 * MINUTE, "hour")

    assert points == [
        usage.Point(NOON - 3 * HOUR, 0, 0),
        usage.Point(NOON - 2 * HOUR, 1, 1),
        usage.Point(NOON - HOUR, 0, 0),
        usage.Point(NOON, 3, 0),
    ]


@pytest.mark.parametrize(("step", "steps"), [("quarter", 96), ("hour", 24), ("day", 1)])
def test_a_day_has_as_many_steps_as_it_should_and_all_its_calls(step, steps):
    midnight = NOON.replace(hour=0)
    record(entry(at=midnight), entry(at=NOON), entry(at=midnight + DAY - MINUTE))

    points = usage.series(ACCOUNT, midnight, midnight + DAY, step)

    assert len(points) == steps
    assert sum(point.calls for point in points) == 3


def test_recent_calls_and_refusals_are_one_list_in_order():
    account = make_account()
    key = issuance.console_key(account, NOON)
    ours = {"account": account.pk, "key": key.pk, "mode": "test"}
    record(
        entry(at=NOON, **ours),
        entry(at=NOON + 2 * MINUTE, latency_us=2500, **ours),
        entry(at=NOON),
    )
    refuse(account.pk, key.pk, NOON + MINUTE)

    newest, refusal, oldest = usage.recent(account.pk, 10)

    assert (newest.at, newest.latency_ms, newest.status) == (NOON + 2 * MINUTE, 2.5, 200)
    assert newest.method_path == "GET /v1/next/{country}"
    assert (refusal.event_id, refusal.code, refusal.status) == (None, "rate_limited", 429)
    assert (refusal.mode, refusal.at) == ("test", NOON + MINUTE)
    assert oldest.at == NOON
    assert usage.recent(account.pk, 2) == [newest, refusal]
    assert usage.recent(account.pk, 5, key_id=uuid.uuid4()) == []


def test_recent_calls_are_shown_while_redis_is_away():
    account = make_account()
    key = issuance.console_key(account, NOON)
    record(entry(account=account.pk, key=key.pk))

    with redis_away():
        assert len(usage.recent(account.pk, 10)) == 1


def test_operations_are_told_apart_and_averaged():
    other = entry(at=NOON, api="rates", latency_us=3000)
    record(
        *calls(2, at=NOON, latency_us=1000, units={"calls": 1, "rows": 9}),
        entry(at=NOON, latency_us=4000, status=503, billable=False),
        other,
    )

    busiest, rates = usage.by_operation(ACCOUNT, NOON - HOUR, NOON + HOUR)

    assert (busiest.api, busiest.operation) == ("holidays", "GET /v1/next/{country}")
    assert (busiest.calls, busiest.errors, busiest.failures) == (3, 1, 1)
    assert (busiest.latency_ms, rates.latency_ms) == (2.0, 3.0)
    assert usage.by_operation(uuid.uuid4(), NOON - HOUR, NOON + HOUR) == []


def test_priced_units_are_told_apart_as_far_as_a_price_can():
    Meter.objects.create(name="tokens", label="Tokens", dimensions=["model"])
    large = {"units": {"calls": 1, "tokens": 5}, "meta": {"model": "large", "region": "eu"}}
    record(
        *calls(2, at=NOON, **large),
        entry(at=NOON + DAY, **large),
        entry(at=NOON, units={"calls": 1, "tokens": 7}),
        entry(at=NOON, units={"tokens": 100}, outcome="reported", status=0),
        entry(at=NOON, units={"calls": 0, "tokens": 100}, billable=False),
        entry(at=NOON, mode="test"),
        entry(at=NOON, account=uuid.uuid4()),
    )

    found = usage.priced_units(ACCOUNT, PERIOD, PERIOD + 31 * DAY)

    operation = ("version:3", "holidays", "GET /v1/next/{country}")
    assert found == [
        usage.PricedUnits(*operation, "calls", {}, 4),
        usage.PricedUnits(*operation, "tokens", {}, 107),
        usage.PricedUnits(*operation, "tokens", {"model": "large"}, 15),
    ]
    assert usage.priced_units(ACCOUNT, PERIOD - DAY, PERIOD) == []


def test_percentiles_are_known_to_a_tenth():
    record(
        *[entry(at=NOON, latency_us=1000 * number) for number in range(1, 101)],
        entry(at=NOON, latency_us=10**9, api="slow"),
        entry(at=NOON, outcome="abandoned", status=0, billable=False),
        entry(at=NOON, mode="test", latency_us=10**7),
        entry(at=NOON - DAY, latency_us=10**7),
    )

    found = usage.latencies(ACCOUNT, NOON - HOUR, NOON + HOUR)

    holidays = found.by_operation["holidays", "GET /v1/next/{country}"]
    assert holidays.calls == 100
    assert holidays.p50_ms == pytest.approx(50, rel=0.1)
    assert holidays.p95_ms == pytest.approx(95, rel=0.1)
    assert holidays.p99_ms == pytest.approx(99, rel=0.1)
    slow = found.by_operation["slow", "GET /v1/next/{country}"]
    assert slow.p50_ms == slow.p99_ms == histogram.BOUNDS_US[-1] / 1000
    assert (found.overall.calls, found.overall.p50_ms) == (101, pytest.approx(50.5, rel=0.1))
    nobodys = usage.latencies(uuid.uuid4(), NOON - HOUR, NOON + HOUR)
    assert nobodys == usage.Latencies(None, {})


def test_staff_see_the_most_called_and_the_most_failing_of_all_accounts():
    record(
        *calls(3, at=NOON, api="busy", account=uuid.uuid4()),
        *calls(2, at=NOON, api="busy", account=uuid.uuid4(), status=404),
        *calls(2, at=NOON, api="failing", status=502, billable=False),
        entry(at=NOON - 3 * HOUR, api="failing"),
    )
    span = NOON - HOUR, NOON + HOUR

    top, failing = usage.top_operations(*span, 5), usage.failing_operations(*span, 5)

    assert [(found.api, found.calls, found.errors) for found in top] == [
        ("busy", 5, 2),
        ("failing", 2, 2),
    ]
    assert [(found.api, found.failures) for found in failing] == [("failing", 2)]
    assert usage.top_operations(*span, 1) == top[:1]


def test_growth_compares_a_week_with_the_one_before():
    grown, shrunk, new = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
    record(
        *calls(5, account=grown, at=NOON - DAY),
        *calls(2, account=grown, at=NOON - 8 * DAY),
        *calls(9, account=grown, at=NOON - 15 * DAY),
        *calls(1, account=shrunk, at=NOON - DAY),
        *calls(2, account=shrunk, at=NOON - 8 * DAY),
        *calls(4, account=new, at=NOON - DAY),
        *calls(50, account=new, at=NOON - DAY, mode="test"),
    )

    assert usage.growth(NOON, 10) == [usage.Growth(new, 4, 0), usage.Growth(grown, 5, 2)]
    assert usage.growth(NOON, 1) == [usage.Growth(new, 4, 0)]


def test_pages_read_the_rollup_only():
    record(*calls(3))
    questions = [
        lambda: usage.of_period(ACCOUNT, PERIOD),
        lambda: usage.today(ACCOUNT, NOON),
        lambda: usage.series(ACCOUNT, NOON - DAY, NOON, "hour"),
        lambda: usage.by_operation(ACCOUNT, NOON - DAY, NOON),
        lambda: usage.latencies(ACCOUNT, NOON - DAY, NOON),
        lambda: usage.priced_units(ACCOUNT, PERIOD, NOON),
        lambda: usage.top_operations(NOON - DAY, NOON, 5),
        lambda: usage.failing_operations(NOON - DAY, NOON, 5),
        lambda: usage.growth(NOON, 5),
    ]

    with CaptureQueriesContext(connection) as captured:
        for ask in questions:
            ask()

    assert len(captured) == len(questions)
    assert not [query for query in captured if "gateway_usageevent" in query["sql"]]
