import json
import os
import random
import socket
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from django.db import OperationalError, ProgrammingError, connection, transaction
from hypothesis import given
from hypothesis import strategies as st

from gateway import entries, ledger, partitions, recording
from gateway.models import (
    CreditUse,
    LatencyRollup,
    Meter,
    QuarantinedEntry,
    RefusalRollup,
    UsageEvent,
    UsageRollup,
)
from keys import issuance, records
from tests.factories import make_account

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_clean")]

NOW = datetime(2026, 5, 10, 12, 7, 30, 123456, tzinfo=UTC)
PERIOD = datetime(2026, 5, 1, tzinfo=UTC)
ACCOUNT, KEY = uuid.uuid4(), uuid.uuid4()
STREAM = records.usage_stream(0)


def microseconds(moment):
    return (moment - entries.EPOCH) // timedelta(microseconds=1)


def entry(*, event_id=None, account=ACCOUNT, key=KEY, at=NOW, mode="live", api="holidays", **end):
    """The fields of one stream entry, as the gateway's scripts write them."""
    opened = (account, key, mode, int(PERIOD.timestamp()), "version:3", microseconds(at), api)
    ended = {
        "outcome": "completed",
        "status": 200,
        "code": "",
        "billable": mode == "live",
        "units": {"calls": 1},
        "meta": {},
        "latency_us": 1500,
        "upstream_us": 1200,
        "in": 10,
        "out": 200,
    }
    return {
        "id": str(event_id or uuid.uuid4()),
        "open": "\t".join(map(str, opened)) + '\tGET /v1/next/{country}\t{"calls":1}',
        "end": json.dumps(ended | end),
    }


def drawing(**drawn):
    """An entry that drew credits of these grants: drawing(g1=5)."""
    return entry() | {"credits": json.dumps({name[1:]: part for name, part in drawn.items()})}


def add(*fields):
    for one in fields:
        records.connection().xadd(STREAM, one)


def drain():
    return ledger.drain(0, lambda: NOW)


def waiting():
    return records.connection().xlen(STREAM)


def rolled(**filters):
    rows = UsageRollup.objects.filter(**filters)
    return {
        row["meter"]: (row["calls"], row["units"], row["billable_units"])
        for row in rows.values("meter", "calls", "units", "billable_units")
    }


# ------------------------------------------------------------------ entries


def encoded(fields):
    return {name.encode(): value.encode() for name, value in fields.items()}


def test_an_entry_is_read_to_the_microsecond():
    event_id = uuid.uuid4()

    read = entries.parse(
        encoded(entry(event_id=event_id, units={"calls": 1, "rows": 3}, meta={"model": "large"}))
    )

    assert read == entries.Entry(
        id=event_id,
        admitted_at=NOW,
        account_id=ACCOUNT,
        key_id=KEY,
        api="holidays",
        operation="GET /v1/next/{country}",
        mode="live",
        outcome="completed",
        status=200,
        code="",
        billable=True,
        units={"calls": 1, "rows": 3},
        metadata={"model": "large"},
        latency_us=1500,
        upstream_us=1200,
        request_bytes=10,
        response_bytes=200,
        period_start=PERIOD,
        terms_id="version:3",
        credits=None,
        client="",
    )


def test_a_test_call_is_never_billable_whatever_its_entry_says():
    assert not entries.parse(encoded(entry(mode="test", billable=True))).billable


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
END_FIELDS = list(json.loads(entry()["end"]))


@given(st.dictionaries(st.sampled_from([b"id", b"open", b"end", b"x"]), st.binary()))
def test_any_fields_are_an_entry_or_a_value_error(fields):
    with pytest.raises(ValueError):  # noqa: PT011 - the kind is the guarantee
        entries.parse(fields)


@given(st.sampled_from(END_FIELDS), json_values)
def test_any_value_at_the_end_is_read_or_a_value_error(name, value):
    fields = encoded(entry() | {"end": json.dumps(json.loads(entry()["end"]) | {name: value})})
    try:
        read = entries.parse(fields)
    except ValueError:
        return
    assert isinstance(read.units, dict)
    assert "\0" not in json.dumps(read.metadata, ensure_ascii=False)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"units": {"calls": -1}}, "units of calls"),
        ({"units": {"calls": True}}, "units of calls"),
        ({"units": {"c" * 41: 1}}, "meter"),
        ({"meta": {"model": "a\0b"}}, "NUL"),
        ({"code": "\ud800"}, "surrogates"),
        ({"status": 70000}, "status"),
        ({"outcome": "lost"}, "outcome"),
        ({"at": datetime(1971, 1, 1, tzinfo=UTC)}, "1971"),
        ({"mode": "free"}, "mode"),
        ({"api": "a" * 41}, "api"),
    ],
)
def test_a_refused_entry_says_what_is_wrong(wrong, reason):
    with pytest.raises(ValueError, match=reason):
        entries.parse(encoded(entry(**wrong)))


# ------------------------------------------------------------------ drain


def test_a_call_becomes_one_row_and_its_meters_one_sum_each():
    event_id = uuid.uuid4()
    add(entry(event_id=event_id, units={"calls": 1, "rows": 3}))

    assert drain() == 1

    event = UsageEvent.objects.get(id=event_id)
    assert (event.admitted_at, event.recorded_at) == (NOW, NOW)
    assert event.units == {"calls": 1, "rows": 3}
    assert rolled() == {"calls": (1, 1, 1), "rows": (0, 3, 3)}
    row = UsageRollup.objects.get(meter="calls")
    assert row.quarter == datetime(2026, 5, 10, 12, 0, tzinfo=UTC)
    assert (row.latency_us_sum, row.response_bytes_sum, row.status_class) == (1500, 200, 2)
    assert (row.period_start, row.terms_id, row.mode) == (PERIOD, "version:3", "live")
    assert waiting() == 0


def test_entries_drained_twice_count_once():
    """As after a kill between commit and deletion, which delivers the whole batch again."""
    batch = [entry(units={"calls": 1, "rows": 2}) for _ in range(50)]
    add(*batch)
    assert drain() == 50

    add(*batch, entry())
    assert drain() == 1

    assert UsageEvent.objects.count() == 51
    assert rolled() == {"calls": (51, 51, 51), "rows": (0, 100, 100)}
    assert waiting() == 0


def test_an_entry_twice_in_one_batch_counts_once():
    twice = entry()
    add(twice, twice)

    assert drain() == 1
    assert rolled() == {"calls": (1, 1, 1)}


def test_nothing_is_deleted_from_the_stream_that_was_not_committed():
    add(entry())

    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE gateway_usagerollup RENAME COLUMN units TO broken")
        with pytest.raises(ProgrammingError, match="units"), transaction.atomic():
            ledger.drain_batch(0, NOW)
        transaction.set_rollback(True)

    assert waiting() == 1
    assert not UsageEvent.objects.exists()
    assert not QuarantinedEntry.objects.exists()


def test_more_than_a_batch_is_drained_in_one_go():
    pipeline = records.connection().pipeline()
    for _ in range(ledger.BATCH * 2 + 5):
        pipeline.xadd(STREAM, entry())
    pipeline.execute()

    assert drain() == ledger.BATCH * 2 + 5
    assert rolled()["calls"][0] == ledger.BATCH * 2 + 5


def test_two_drains_at_once_store_every_call_once():
    add(*[entry() for _ in range(300)])

    def one(_):
        try:
            return drain()
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        stored = sum(pool.map(one, range(4)))

    assert stored + drain() == 300
    assert UsageEvent.objects.count() == 300
    assert rolled() == {"calls": (300, 300, 300)}


def test_a_drain_leaves_the_work_to_the_one_that_is_at_it():
    add(entry())

    def drain_elsewhere():
        try:
            return drain()
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as elsewhere, transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [recording.LOCK])
        assert elsewhere.submit(drain_elsewhere).result() == 0

    assert waiting() == 1
    assert drain() == 1


def test_what_cannot_be_read_goes_to_quarantine_and_blocks_nothing():
    add(entry(), {"id": "nonsense"}, entry(), entry(meta={"model": "\0"}), entry())

    assert drain() == 3

    assert UsageEvent.objects.count() == 3
    first, second = QuarantinedEntry.objects.order_by("pk")
    assert json.loads(bytes(first.payload)) == {"id": "nonsense"}
    assert first.error == "“open” is missing"
    assert "NUL" in second.error
    assert waiting() == 0


def test_what_postgres_refuses_is_found_by_bisection():
    """Sums that don't fit are the one thing that the reader of entries can't foresee."""
    add(*[entry() for _ in range(7)])
    drain()
    UsageRollup.objects.filter(meter="calls").update(latency_us_sum=2**63 - 10**6)
    good = [entry(latency_us=0) for _ in range(20)]
    poison = entry(latency_us=10**9)

    add(*good[:11], poison, *good[11:])

    assert drain() == 20
    assert UsageEvent.objects.count() == 27
    assert rolled() == {"calls": (27, 27, 27)}
    quarantined = QuarantinedEntry.objects.get()
    assert json.loads(bytes(quarantined.payload))["id"] == poison["id"]
    assert "out of range" in quarantined.error
    assert waiting() == 0


def test_an_entry_too_large_for_an_index_is_quarantined_too():
    """Which Postgres tells as an OperationalError, as it does when it is away."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE INDEX too_small ON gateway_usageevent (metadata)")
    try:
        add(entry(), entry(meta={"note": noise(1000)}), entry())

        assert drain() == 2
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP INDEX too_small")

    assert "index row" in QuarantinedEntry.objects.get().error
    assert waiting() == 0


def test_a_database_that_cannot_work_is_nobodys_fault():
    add(entry())

    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = '50ms'")
        with ThreadPoolExecutor(1) as elsewhere:
            elsewhere.submit(lock_the_rollup_for, 0.5)
            time.sleep(0.2)
            with pytest.raises(OperationalError, match="timeout"):
                drain()
        cursor.execute("SET statement_timeout = 0")

    assert waiting() == 1
    assert not QuarantinedEntry.objects.exists()
    assert drain() == 1


def test_a_connection_lost_while_storing_is_nobodys_fault():
    add(entry())
    connection.ensure_connection()
    line = socket.socket(fileno=os.dup(connection.connection.fileno()))

    with line, ThreadPoolExecutor(2) as elsewhere:
        elsewhere.submit(lock_the_rollup_for, 1.0)
        time.sleep(0.2)
        elsewhere.submit(lambda: (time.sleep(0.4), line.shutdown(socket.SHUT_RDWR)))
        with pytest.raises(OperationalError):
            drain()
    connection.close()

    assert waiting() == 1
    assert not QuarantinedEntry.objects.exists()
    assert drain() == 1


def lock_the_rollup_for(seconds):
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("LOCK TABLE gateway_usagerollup")
            time.sleep(seconds)
    finally:
        connection.close()


def noise(characters):
    """Text of 4-byte characters that doesn't compress."""
    draw = random.Random(characters)  # noqa: S311 - the same each time
    return "".join(chr(draw.randrange(0x10000, 0x110000)) for _ in range(characters))


def test_the_longest_names_fit_into_every_index():
    longest = noise(entries.MAX_NAME_CHARACTERS)
    Meter.objects.create(name=longest, label="m", dimensions=[longest, "a", "b"])
    fields = entry(
        api=longest,
        units={"calls": 1, longest: 5},
        meta={longest: noise(150), "b": "x" * 10, "c": noise(1000)},
        code=longest,
    )
    account, key, mode, period, _, *rest = fields["open"].split("\t")
    rest[2] = noise(entries.MAX_OPERATION_CHARACTERS)
    add(fields | {"open": "\t".join([account, key, mode, period, longest, *rest])})

    assert drain() == 1

    row = UsageRollup.objects.get(meter=longest)
    assert json.loads(row.dimensions) == {longest: noise(150), "b": "x" * 10}
    assert 700 < len(row.dimensions.encode()) <= entries.MAX_DIMENSIONS_BYTES


def test_dimensions_are_what_is_declared_in_one_spelling():
    said = {"region": "eu", "model": "große", "note": "x"}

    assert entries.dimensions(said, ["region", "model"]) == '{"model":"große","region":"eu"}'
    assert entries.dimensions(said, ["model", "region", "speed"]) == (
        '{"model":"große","region":"eu"}'
    )
    assert entries.dimensions(said, ["speed"]) == entries.dimensions({}, ["model"]) == ""
    assert entries.dimensions({"model": "x" * 800}, ["model"]) == ""


def test_usage_is_summed_by_the_dimensions_of_each_meter():
    Meter.objects.create(name="tokens", label="Tokens", dimensions=["model"])
    large = {"meta": {"model": "large", "region": "eu"}}
    add(
        entry(units={"calls": 1, "tokens": 5, "rows": 2}, **large),
        entry(units={"calls": 1, "tokens": 6, "rows": 2}, **large),
        entry(units={"calls": 1, "tokens": 7}, meta={"model": "small"}),
        entry(units={"calls": 1, "tokens": 8}),
    )

    drain()

    summed = UsageRollup.objects.values_list("meter", "dimensions", "units")
    assert sorted(summed) == [
        ("calls", "", 4),
        ("rows", "", 4),
        ("tokens", "", 8),
        ("tokens", '{"model":"large"}', 11),
        ("tokens", '{"model":"small"}', 7),
    ]


def test_usage_reported_later_is_units_and_no_call():
    add(
        entry(units={"calls": 1, "tokens": 2}, latency_us=150, **{"in": 30}),
        entry(units={"tokens": 9, "calls": 3}, outcome="reported", status=0, latency_us=0),
        entry(units={}, outcome="reported", status=0),
    )

    assert drain() == 3

    assert rolled(status_class=2) == {"calls": (1, 1, 1), "tokens": (0, 2, 2)}
    assert rolled(status_class=0) == {"calls": (0, 3, 3), "tokens": (0, 9, 9)}
    row = UsageRollup.objects.get(meter="calls", status_class=2)
    assert (row.request_bytes_sum, row.response_bytes_sum) == (30, 200)
    assert list(LatencyRollup.objects.values_list("bucket", "calls")) == [(3, 1)]


def test_the_lag_is_how_long_the_oldest_entry_has_waited():
    assert ledger.lag(0) == ledger.Lag(0, 0.0)
    seconds, _ = records.connection().time()
    records.connection().xadd(STREAM, entry(), id=f"{(seconds - 60) * 1000}-0")
    add(entry())

    lag = ledger.lag(0)

    assert lag.entries == 2
    assert 60 <= lag.seconds < 70
    drain()
    assert ledger.lag(0) == ledger.Lag(0, 0.0)


def test_abandoned_and_unbilled_calls_are_visible_and_not_billed():
    add(
        entry(outcome="abandoned", status=0, billable=False, units={}),
        entry(status=502, billable=False),
        entry(mode="test", billable=True),
    )

    assert drain() == 3

    assert UsageEvent.objects.filter(billable=True).count() == 0
    assert rolled(status_class=0) == {"calls": (1, 0, 0)}
    assert rolled(status_class=5) == {"calls": (1, 1, 0)}
    assert rolled(mode="test") == {"calls": (1, 1, 0)}


def test_a_call_of_any_month_finds_its_partition():
    moments = [datetime(year, month, 1, tzinfo=UTC) for year in (2024, 2031) for month in (1, 12)]
    last_moment = datetime(2031, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    add(*[entry(at=moment) for moment in [*moments, last_moment]])

    assert drain() == 5

    with connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT tableoid::regclass::text FROM gateway_usageevent")
        tables = sorted(name for (name,) in cursor.fetchall())
    assert tables == [
        "gateway_usageevent_2024_01",
        "gateway_usageevent_2024_12",
        "gateway_usageevent_2031_01",
        "gateway_usageevent_2031_12",
    ]


def test_partitions_are_made_ahead_and_making_them_again_is_harmless():
    partitions.make_ahead(datetime(2027, 11, 30, tzinfo=UTC))
    partitions.make_ahead(datetime(2027, 11, 30, tzinfo=UTC))

    with connection.cursor() as cursor:
        for month in ("2027_11", "2027_12", "2028_01", "2028_02"):
            cursor.execute("SELECT to_regclass(%s)", [f"gateway_usageevent_{month}"])
            assert cursor.fetchone() != (None,)


def test_a_key_remembers_its_latest_use():
    key = issuance.console_key(make_account(), NOW)
    later = NOW + timedelta(seconds=5)

    add(entry(key=key.pk, at=later, client="203.0.113.7"), entry(key=key.pk, at=NOW, client="::1"))
    drain()
    add(entry(key=key.pk, at=NOW, client="::1"))
    drain()

    key.refresh_from_db()
    assert key.last_used_at == later
    assert key.last_used_address == "203.0.113.7"
    assert key.last_used_operation == "holidays GET /v1/next/{country}"


@pytest.mark.parametrize("client", ["", "unknown", "1.2.3.4.5", "' OR 1=1", 7, None])
def test_a_call_counts_wherever_it_says_that_it_came_from(client):
    key = issuance.console_key(make_account(), NOW)

    add(entry(key=key.pk, client=client))

    assert drain() == 1
    key.refresh_from_db()
    assert (key.last_used_at, key.last_used_address) == (NOW, None)


# ------------------------------------------------------------------ refusals


def refuse(minute, count, code="quota_exceeded"):
    field = f"{ACCOUNT}|{KEY}|{code}|{int(minute.timestamp())}"
    records.connection().hincrby(records.refused_name(0), field, count)


def test_refusals_are_counted_while_their_minute_runs_and_after():
    seconds, _ = records.connection().time()
    running = datetime.fromtimestamp(seconds - seconds % 60, UTC)
    over = running - timedelta(minutes=10)
    refuse(over, 3)
    refuse(running, 2)

    ledger.drain_refusals(0)
    ledger.drain_refusals(0)
    refuse(running, 5)
    ledger.drain_refusals(0)

    counted = dict(RefusalRollup.objects.values_list("minute", "count"))
    assert counted == {over: 3, running: 7}
    assert records.connection().hlen(records.refused_name(0)) == 1


def test_credits_are_kept_per_call_and_in_total_and_never_twice():
    calls = [drawing(g1=5, g2=1), drawing(g1=2), entry()]
    add(*calls, *calls)

    drain()
    add(*calls)
    drain()

    stored = sorted(UsageEvent.objects.values_list("credits", flat=True), key=str)
    assert stored == [None, {"1": 2}, {"1": 5, "2": 1}]
    assert dict(CreditUse.objects.values_list("grant_id", "credits")) == {1: 7, 2: 1}


@pytest.mark.parametrize(
    "text", ["[]", "7", '{"x": 1}', '{"1": -1}', '{"1": "1"}', '{"1": 1.5}', '{"²": 1}', "{"]
)
def test_credits_that_are_none_are_put_into_quarantine(text):
    add(entry() | {"credits": text}, entry())

    assert drain() == 1

    assert QuarantinedEntry.objects.count() == 1
