"""Quotas and credits follow the books: ledger, stream, quarantine and open calls."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, transaction

from gateway import counters, ledger, partitions, quarantine, recording, refill
from gateway.entries import parse
from gateway.models import CounterCorrection, CreditUse, QuarantinedEntry, UsageEvent
from keys import records
from keys.entitlements import Grant, MeterTerms
from tests import traffic
from tests.test_gateway_limits import admit_by_hand, call_from_many
from tests.test_key_restrictions import restrict
from tests.test_ledger import entry
from tests.traffic import NOW, Customer, entitle, make_customer, put_on_sale, terms

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_clean")]

PERIOD = (NOW - timedelta(days=1)).replace(microsecond=0)
TODAY = NOW.replace(hour=0, minute=0, second=0, microsecond=0)


@pytest.fixture(scope="module")
def running():
    with traffic.gateway(processes=2) as running:
        yield running


@pytest.fixture
def customer(backend) -> Customer:
    put_on_sale(backend.url)
    return make_customer(terms(limit=1000))


def name_of(customer: Customer, meter: str = "calls", mode: str = "live", start=PERIOD) -> str:
    return records.used_name(0, customer.account.pk, mode, start, meter)


def held(name: str) -> int:
    return int(records.connection().get(name) or 0)


def settled(customer: Customer, *, mode="live", start=PERIOD, at=NOW, **end) -> dict[str, str]:
    """The stream entry of a call of the customer's."""
    fields = entry(account=customer.account.pk, key=customer.key.pk, mode=mode, at=at, **end)
    parts = fields["open"].split("\t")
    parts[3] = str(int(start.timestamp()))
    return fields | {"open": "\t".join(parts)}


def counted(customer: Customer, calls: int, **given) -> None:
    """Calls that were charged and are in the ledger."""
    for _ in range(calls):
        records.connection().xadd(records.usage_stream(0), settled(customer, **given))
    ledger.drain(0, lambda: NOW)
    name = name_of(customer, mode=given.get("mode", "live"), start=given.get("start", PERIOD))
    records.connection().incrby(name, calls)


def check(now: datetime = NOW) -> counters.Check:
    return counters.check(0, now)


def found(checked: counters.Check) -> dict[str, int]:
    return {each.counter: each.missing for each in checked.sighted}


# ------------------------------------------------------------------ seen twice


@pytest.mark.parametrize("wrong", [7, -3, -10])
def test_a_difference_seen_twice_is_corrected_by_what_is_missing(customer, wrong):
    counted(customer, 10)
    name = name_of(customer)
    records.connection().incrby(name, wrong)

    first = check()
    assert (found(first), first.corrected, held(name)) == ({name: -wrong}, [], 10 + wrong)
    records.connection().incrby(name, 1)  # charged between the two
    records.connection().xadd(records.usage_stream(0), settled(customer))
    second = check()

    assert (found(second), held(name)) == ({}, 11)
    (correction,) = CounterCorrection.objects.all()
    assert (correction.account_id, correction.counter) == (customer.account.pk, name)
    assert (correction.counted, correction.booked) == (11 + wrong, 11)
    assert found(check()) == {}


def test_a_difference_that_changes_is_only_sighted_again(customer):
    name = name_of(customer)
    for wrong in (5, 6, 7):
        records.connection().set(name, wrong)
        checked = check()
        assert (found(checked), checked.corrected) == ({name: -wrong}, [])

    assert held(name) == 7
    assert counters.sightings(0) == {name: -7}


def test_a_difference_that_went_away_is_forgotten(customer):
    name = name_of(customer)
    records.connection().set(name, 5)
    check()
    records.connection().delete(name)
    check()
    records.connection().set(name, 5)

    assert check().corrected == []


def test_a_counter_that_is_gone_comes_back_and_outlives_its_period_as_others_do(customer):
    counted(customer, 4)
    name = name_of(customer)
    records.connection().delete(name)

    check()
    check()

    assert held(name) == 4
    until = PERIOD + timedelta(days=30 + 40) - NOW
    lifetime = timedelta(seconds=records.connection().ttl(name))
    assert abs(until - lifetime) < timedelta(minutes=1)


def test_of_two_that_found_a_difference_one_corrects_it(customer):
    name = name_of(customer)
    records.connection().set(name, 5)
    check()
    records.connection().hset(records.sightings_name(0), name, -5)

    results = []

    def one() -> None:
        try:
            results.append(len(check().corrected))
        finally:
            connection.close()

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert held(name) == 0
    assert sum(results) == 1


# ------------------------------------------------------------------ the books


def test_open_calls_are_charged_until_they_are_settled(customer, redis_clean):
    assert admit_by_hand(redis_clean, customer) == b""
    opens = redis_clean.hgetall(records.open_name(0))
    (event_id,) = opens
    parts = opens[event_id].split(b"\t")
    redis_clean.hset(
        records.open_name(0), event_id, b"\t".join([*parts[:8], b'{"calls":1}', *parts[9:]])
    )

    assert held(name_of(customer)) == 1
    assert found(check()) == {}


def test_entries_in_the_stream_count_once_whether_the_ledger_has_them_or_not(customer):
    fields = [settled(customer) for _ in range(3)]
    for one in fields:
        records.connection().xadd(records.usage_stream(0), one)
    records.connection().set(name_of(customer), 3)
    assert found(check()) == {}

    ledger.drain(0, lambda: NOW)
    assert found(check()) == {}
    for one in fields:  # a drain that was killed before it could delete them
        records.connection().xadd(records.usage_stream(0), one)
    assert found(check()) == {}


def test_a_quarantined_call_stays_charged_until_it_is_given_up(customer):
    fields = settled(customer)
    QuarantinedEntry.objects.create(
        stream_id="1-1", payload=json.dumps(fields).encode(), error="out of range"
    )
    QuarantinedEntry.objects.create(stream_id="1-2", payload=b'{"id": "?"}', error="missing")
    records.connection().set(name_of(customer), 1)

    assert found(check()) == {}
    quarantine.discard(QuarantinedEntry.objects.get(stream_id="1-1"), "never made", NOW)
    assert found(check()) == {name_of(customer): -1}


def test_a_replayed_call_is_charged_once(customer):
    fields = settled(customer)
    kept = QuarantinedEntry.objects.create(
        stream_id="1-1", payload=json.dumps(fields).encode(), error="out of range"
    )
    records.connection().set(name_of(customer), 1)

    quarantine.replay(kept, NOW)
    quarantine.replay(kept, NOW)
    assert found(check()) == {}
    ledger.drain(0, lambda: NOW)

    assert found(check()) == {}
    assert UsageEvent.objects.count() == 1


def test_a_key_that_is_given_a_quota_in_mid_period_has_used_what_the_ledger_says(customer):
    counted(customer, 6)
    restrict(customer.key, monthly_quota=10)

    check()
    check()

    assert held(records.used_name(0, customer.key.pk, "live", PERIOD, "calls")) == 6


def test_credits_that_differ_are_corrected(customer):
    fields = settled(customer) | {"credits": json.dumps({"7": 5})}
    records.connection().xadd(records.usage_stream(0), fields)
    ledger.drain(0, lambda: NOW)
    records.connection().set(name_of(customer), 1)
    records.connection().set(records.drawn_name(0, 7), 2)

    check()
    check()

    assert held(records.drawn_name(0, 7)) == 5


def test_what_is_not_billed_is_in_no_counter(customer):
    for end in ({"status": 502, "billable": False}, {"outcome": "abandoned", "billable": False}):
        records.connection().xadd(records.usage_stream(0), settled(customer, **end))
    assert found(check()) == {}

    ledger.drain(0, lambda: NOW)
    assert found(check()) == {}


def test_only_the_running_period_is_compared(customer):
    counted(customer, 2)
    records.connection().set(name_of(customer), 7)

    later = PERIOD + timedelta(days=30, minutes=5)
    assert found(check(later)) == {}
    name = name_of(customer, start=PERIOD + timedelta(days=30))
    records.connection().set(name, 1)
    entitle(
        customer.account,
        terms(limit=1000),
        periods=[PERIOD + timedelta(days=30 * n) for n in range(3)],
    )

    assert found(check(later)) == {name: -1}


def test_a_call_over_the_change_of_periods_stays_in_the_one_it_was_admitted_in(customer):
    periods = [PERIOD - timedelta(days=30), PERIOD, PERIOD + timedelta(days=30)]
    entitle(customer.account, terms(limit=1000), periods=periods)

    records.connection().xadd(
        records.usage_stream(0),
        settled(customer, start=periods[0], at=PERIOD - timedelta(seconds=1)),
    )

    assert found(check()) == {}


def test_test_calls_count_by_the_day_as_they_were_charged(customer):
    now = TODAY + timedelta(hours=12)
    kept = ({}, {"status": 404}, {"status": 200, "code": "truncated"})
    not_kept = (
        {"status": 408},
        {"status": 499},
        {"status": 400, "code": "bad_request"},
        {"status": 503},
        {"outcome": "abandoned", "status": 0},
    )
    for end in (*kept, *not_kept):
        for at in (now, now - timedelta(days=1)):
            records.connection().xadd(
                records.usage_stream(0),
                settled(customer, mode="test", start=at.replace(hour=0), at=at, **end),
            )
    name = name_of(customer, mode="test", start=TODAY)
    records.connection().set(name, len(kept))

    assert found(check(now)) == {}
    ledger.drain(0, lambda: NOW)
    assert found(check(now)) == {}
    records.connection().flushdb()
    refill.refill(0, now)
    assert held(name) == len(kept)


def test_a_reported_use_whose_count_was_lost_is_counted(customer):
    """As after a kill between the commit and the increment."""
    fields = settled(customer, outcome="reported", units={"tokens": 512})
    reported = parse({name.encode(): value.encode() for name, value in fields.items()})
    partitions.ensure([NOW])
    with transaction.atomic():
        recording.lock(0)
        recording.record([reported], recording.tick(0, NOW))

    check()
    check()

    assert held(name_of(customer, "tokens")) == 512


def test_nothing_is_compared_while_redis_is_being_filled(customer):
    records.connection().delete(records.ready_name(0))
    records.connection().set(name_of(customer), 5)

    with pytest.raises(counters.NotComparable, match="not filled"):
        check()
    with pytest.raises(CommandError, match="Nothing was compared"):
        call_command("check_counters")


def test_a_drain_that_is_far_behind_is_not_kept_waiting(customer):
    pipeline = records.connection().pipeline(transaction=False)
    for _ in range(counters.MOST_WAITING + 1):
        pipeline.xadd(records.usage_stream(0), {"x": 1})
    pipeline.execute()

    with pytest.raises(counters.NotComparable, match="wait for the ledger"):
        check()


def test_more_than_can_be_read_in_quarantine_does_not_keep_the_drain_waiting(customer):
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO gateway_quarantinedentry (stream_id, partition, payload, error, at)"
            " SELECT number || '-0', 0, '{}', '', now() FROM generate_series(0, %s) AS number",
            [counters.MOST_WAITING],
        )

    with pytest.raises(counters.NotComparable, match="in quarantine"):
        check()


def test_the_command_says_what_it_found(customer, capsys):
    name = name_of(customer)
    records.connection().set(name, 5)

    call_command("check_counters")
    call_command("check_counters")

    said = capsys.readouterr().out
    assert f"differs: {name} held 5, the books say 0" in said
    assert f"corrected: {name} held 5, the books say 0" in said
    assert held(name) == 0


# ------------------------------------------------------------------ under load


@contextmanager
def draining():
    """A worker that drains as fast as it can."""
    over = threading.Event()

    def drain() -> None:
        try:
            while not over.wait(0.01):
                ledger.drain(0, lambda: datetime.now(UTC))
        finally:
            connection.close()

    worker = threading.Thread(target=drain)
    worker.start()
    try:
        yield
    finally:
        over.set()
        worker.join()


def test_no_call_is_missed_or_seen_twice_however_many_are_made(running, backend):
    """Every kind of counter, calls that are refunded and corrected, drains and many checks."""
    put_on_sale(
        backend.url,
        {
            "GET /status/{code}": {},
            "GET /units": {"max_units": {"rows": 100}},
            "GET /echo/{what}": {},
        },
    )
    priced = MeterTerms(included=50, past="credits", limit=None, credits_per_unit=2)
    granted = replace(
        terms(calls=priced, rows=MeterTerms(0, "bill", None), test_quota=10_000),
        grants=(Grant(1, 300, None), Grant(2, 10_000, None)),
    )
    customer = make_customer(granted)
    restrict(customer.key, monthly_quota=5000)
    test = Customer(customer.account, *traffic.make_key(customer.account, "test"))
    restrict(test.key, monthly_quota=5000)
    targets = ("/echo/a", "/status/500", "/status/404", "/units?units=rows%3D7")

    def call(who: Customer, target: str) -> None:
        call_from_many(running.port, who, f"/gateway/demo{target}", calls=400, connections=4)

    callers = [
        threading.Thread(target=call, args=(who, target))
        for who in (customer, test)
        for target in targets
    ]
    with draining():
        for caller in callers:
            caller.start()
        checks = []
        while any(caller.is_alive() for caller in callers):
            checks.append(check(datetime.now(UTC)))
        for caller in callers:
            caller.join()
        traffic.entries()
    ledger.drain(0, lambda: datetime.now(UTC))

    assert len(checks) > 10
    assert [found(checked) for checked in checks if checked.sighted] == []
    assert found(check(datetime.now(UTC))) == {}
    assert UsageEvent.objects.count() == 3200
    assert held(name_of(customer)) == 1200
    assert held(name_of(customer, "rows")) == 400 * 7
    assert held(records.used_name(0, customer.key.pk, "live", PERIOD, "calls")) == 1200
    assert held(records.used_name(0, test.key.pk, "test", PERIOD, "calls")) == 1200
    drawn = dict(CreditUse.objects.values_list("grant_id", "credits"))
    assert {grant: held(records.drawn_name(0, grant)) for grant in (1, 2)} == drawn
    assert drawn[1] == 300
