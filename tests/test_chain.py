"""Hours of the ledger are closed once, in order, and say what was done to them afterwards."""

import hashlib
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction

from gateway import audit, chain, cloudevents, entries, partitions, recording
from gateway.models import (
    LedgerClosing,
    LedgerHour,
    Meter,
    UsageEvent,
    UsageRollup,
)
from tests.test_ledger import encoded, entry

pytestmark = pytest.mark.django_db(transaction=True)

NINE = datetime(2026, 5, 10, 9, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
ADA, BEN = sorted((uuid.uuid4(), uuid.uuid4()))


def record(at, *given):
    """Puts entries into the ledger, recorded at this moment or the next one that is free."""
    read = [entries.parse(encoded(fields)) for fields in given]
    partitions.ensure(one.admitted_at for one in read)
    with transaction.atomic():
        recording.lock(0)
        recording.record(read, recording.tick(0, at))


def call(account=ADA, *, at=NINE, **end):
    return entry(account=account, at=at, **end)


def three_hours():
    """Two accounts, three hours of usage; closed, with a row more in the one that is open."""
    for number in range(3):
        at = NINE + number * HOUR
        record(at + MINUTE, call(at=at), call(at=at, units={"calls": 1, "rows": 7}))
        record(at + 2 * MINUTE, call(at=at, status=404, billable=False))
    record(NINE + HOUR, call(BEN, at=NINE))
    chain.close_hours(NINE + 3 * HOUR)
    record(NINE + 3 * HOUR, call(at=NINE + 3 * HOUR))


def verify(**options):
    """What the command prints, and whether it was satisfied."""
    said = StringIO()
    try:
        call_command("verify_ledger", stdout=said, stderr=StringIO(), **options)
    except CommandError as error:
        return f"{said.getvalue()}{error}", False
    return said.getvalue(), True


def faults(account=ADA, since=audit.EVERYTHING):
    """The account's, as (hour of the day or None, what)."""
    found = audit.Audit(since, lambda: None).faults(account)
    return [(fault.hour and fault.hour.hour, fault.what) for fault in found]


def execute(query, *given):
    with connection.cursor() as cursor:
        cursor.execute(query, given)
        return cursor.rowcount


# ------------------------------------------------------------------ closing


def test_an_hour_is_closed_when_it_is_over_and_not_before():
    record(NINE, call())

    assert chain.close_hours(NINE + HOUR - MINUTE) == 0
    assert not LedgerHour.objects.exists()
    assert chain.close_hours(NINE + HOUR) == 1
    assert chain.closed_until() == NINE + HOUR
    assert chain.close_hours(NINE + HOUR + MINUTE) == 0
    assert LedgerHour.objects.get().hour == NINE


def test_hours_are_chained_by_account_and_empty_ones_have_no_row():
    record(NINE, call(), call(BEN))
    record(NINE + 4 * HOUR, call())

    assert chain.close_hours(NINE + 9 * HOUR) == 2

    first, last = LedgerHour.objects.filter(account_id=ADA).order_by("hour")
    assert (first.hour, first.previous) == (NINE, "")
    assert (last.hour, last.previous) == (NINE + 4 * HOUR, first.digest)
    assert LedgerHour.objects.get(account_id=BEN).previous == ""
    assert chain.closed_until() == NINE + 9 * HOUR


def test_a_late_call_belongs_to_the_hour_in_which_it_was_recorded():
    record(NINE, call(at=NINE - 20 * HOUR))

    chain.close_hours(NINE + HOUR)

    hour = LedgerHour.objects.get()
    assert hour.hour == NINE
    assert hour.earliest_admitted_at == hour.latest_admitted_at == NINE - 20 * HOUR


def test_after_closing_nothing_is_recorded_in_the_hour_whatever_the_clock_says():
    record(NINE, call())
    chain.close_hours(NINE + HOUR)

    record(NINE + MINUTE, call())

    assert UsageEvent.objects.filter(recorded_at__lt=NINE + HOUR).count() == 1
    assert faults() == []


def test_totals_are_what_live_calls_used_by_meter_and_dimension():
    Meter.objects.create(name="tokens", label="tokens", dimensions=["model"])
    record(
        NINE,
        call(units={"calls": 1, "tokens": 500}, meta={"model": "large", "user": "x"}),
        call(units={"calls": 1, "tokens": 30}, meta={"model": "small"}),
        call(units={"calls": 1, "tokens": 4}, status=502, billable=False),
        call(units={"tokens": 2}, outcome="reported", meta={"model": "large"}),
        call(units={}, outcome="abandoned", status=0, billable=False),
        call(mode="test"),
    )

    chain.close_hours(NINE + HOUR)

    hour = LedgerHour.objects.get()
    assert hour.entries == 6
    told = [
        (total["meter"], total["dimensions"], total["events"], total["units"], total["billable"])
        for total in hour.totals
    ]
    assert told == [
        ("calls", {}, 4, 3, 2),
        ("tokens", {}, 1, 4, 0),
        ("tokens", {"model": "large"}, 2, 502, 502),
        ("tokens", {"model": "small"}, 1, 30, 30),
    ]
    assert hour.totals[0] == {
        "period": "2026-05-01T00:00:00Z",
        "terms": "version:3",
        "api": "holidays",
        "operation": "GET /v1/next/{country}",
        "meter": "calls",
        "dimensions": {},
        "split_by": [],
        "events": 4,
        "units": 3,
        "billable": 2,
    }


def test_dimensions_too_long_to_be_any_are_nothing_here_either():
    Meter.objects.create(name="tokens", label="tokens", dimensions=["model", "prompt"])
    prose = {"model": "large", "prompt": "x" * 900}
    record(
        NINE, call(units={"tokens": 5}, meta=prose), call(units={"tokens": 2}, meta={"model": "m"})
    )

    chain.close_hours(NINE + HOUR)

    totals = LedgerHour.objects.get().totals
    split = {total["units"]: total["dimensions"] for total in totals if total["meter"] == "tokens"}
    assert split == {5: {}, 2: {"model": "m"}}
    assert faults() == []


def test_totals_hold_when_a_meter_is_split_differently_later():
    meter = Meter.objects.create(name="tokens", label="tokens", dimensions=["model"])
    record(NINE, call(units={"calls": 1, "tokens": 5}, meta={"model": "large", "tier": "a"}))
    chain.close_hours(NINE + HOUR)

    Meter.objects.filter(pk=meter.pk).update(dimensions=["tier"])

    assert faults() == []


def test_digests_can_be_made_again_from_the_lines_alone():
    record(NINE, call(meta={"città": "Zürich \u2028"}), call(status=404))
    chain.close_hours(NINE + HOUR)

    hour = LedgerHour.objects.get()
    lines = [cloudevents.entry_line(row) for row in chain.stream(chain.entries_of_hour(hour))]

    assert hashlib.sha256(b"".join(lines)).hexdigest() == hour.entries_digest
    told = json.loads(cloudevents.hour_line(hour))["data"]
    assert told.pop("digest") == hour.digest
    text = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == hour.digest


def test_two_at_once_close_each_hour_once():
    for number in range(5):
        record(NINE + number * HOUR, call(at=NINE + number * HOUR))

    def close(_):
        try:
            return chain.close_hours(NINE + 9 * HOUR)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        closed = list(pool.map(close, range(4)))

    assert sum(closed) == 5
    assert LedgerHour.objects.count() == 5
    assert faults() == []


def test_closing_goes_on_where_it_was_stopped():
    for number in range(3):
        record(NINE + number * HOUR, call(at=NINE + number * HOUR))
    chain.close_hours(NINE + HOUR)
    # Something that Postgres refuses in the last hour: its row is there already.
    blocker = LedgerHour.objects.get(hour=NINE)
    blocker.pk, blocker.hour = None, NINE + 2 * HOUR
    blocker.save()
    with pytest.raises(Exception, match="ledgerhour_unique"):
        chain.close_hours(NINE + 3 * HOUR)
    assert chain.closed_until() == NINE + 2 * HOUR
    blocker.delete()

    assert chain.close_hours(NINE + 3 * HOUR) == 1

    assert chain.closed_until() == NINE + 3 * HOUR
    assert faults() == []


def test_a_year_of_empty_hours_takes_as_many_steps_as_there_are_full_ones(
    django_assert_max_num_queries,
):
    three_hours()

    with django_assert_max_num_queries(60):
        chain.close_hours(NINE + timedelta(days=365))

    assert chain.closed_until() == chain.floor(NINE + timedelta(days=365))


def test_a_ledger_without_entries_is_closed_too():
    assert chain.close_hours(NINE) == 0
    assert chain.closed_until() == NINE
    assert verify() == (
        "0 entries in 0 closed hours of 0 accounts, up to 2026-05-10T09:00Z: all right.\n",
        True,
    )


# ------------------------------------------------------------------ verifying


def test_an_untouched_ledger_is_all_right():
    three_hours()

    said, is_right = verify()

    assert is_right, said
    assert "10 entries in 4 closed hours of 2 accounts, up to 2026-05-10T12:00Z: all right." in said


A_ROW = """
id = (
    SELECT id FROM gateway_usageevent
    WHERE account_id = %s AND recorded_at >= %s ORDER BY recorded_at, id LIMIT 1
)
"""


def change(update):
    """Sets columns of Ada's first entry of the second hour."""
    query = f"UPDATE gateway_usageevent SET {update} WHERE {A_ROW}"  # noqa: S608
    return execute(query, ADA, NINE + HOUR)


@pytest.mark.parametrize(
    "update",
    [
        "status = 201",
        "billable = false",
        "units = '{\"calls\": 2}'",
        'units = \'{"calls": "many"}\'',
        "units = '[]'",
        'metadata = \'{"model": "x"}\'',
        "latency_us = latency_us + 1",
        "operation = 'GET /v1/nexT/{country}'",
        "mode = 'test'",
        "terms_id = 'version:4'",
        "period_start = period_start + interval '1 microsecond'",
        "admitted_at = admitted_at + interval '1 microsecond'",
        "recorded_at = recorded_at + interval '1 microsecond'",
        "credits = '{\"1\": 1}'",
        "key_id = account_id",
    ],
)
def test_a_changed_column_is_found_in_its_hour(update):
    three_hours()

    assert change(update) == 1

    assert {hour for hour, _ in faults() if hour is not None} == {10}
    said, is_right = verify()
    assert not is_right
    assert f"{ADA} 2026-05-10T10:00Z: " in said


def test_a_dropped_row_is_found():
    three_hours()

    execute(f"DELETE FROM gateway_usageevent WHERE {A_ROW}", ADA, NINE + HOUR)  # noqa: S608

    assert faults()[0] == (10, "it was closed with 3 entries and has 2")


def test_two_rows_that_changed_places_are_found():
    three_hours()
    first, second = UsageEvent.objects.filter(account_id=ADA).order_by("recorded_at", "id")[:2]

    for row, id_ in ((first, uuid.uuid4()), (second, first.id)):
        execute("UPDATE gateway_usageevent SET id = %s WHERE id = %s", id_, row.id)

    assert faults() == [(9, "an entry was changed, or one exchanged for another")]


@pytest.mark.parametrize("moved", [timedelta(0), timedelta(days=40)])
def test_an_inserted_row_is_found_wherever_it_says_it_was_admitted(moved):
    three_hours()
    partitions.ensure([NINE - moved])

    with transaction.atomic():
        read = entries.parse(encoded(call(at=NINE - moved)))
        recording.record([read], NINE + 5 * MINUTE)

    assert (9, "it was closed with 3 entries and has 4") in faults()


def test_a_row_in_an_hour_that_had_none_is_found():
    three_hours()

    with transaction.atomic():
        recording.record([entries.parse(encoded(call(BEN)))], NINE + 5 * MINUTE)

    assert faults(BEN) == [(9, "it has 1 entries and no closed hour")]


def test_a_row_given_to_another_account_is_found_at_both():
    three_hours()

    change(f"account_id = '{BEN}'")

    assert faults()[0][0] == faults(BEN)[0][0] == 10


def test_changed_totals_are_found():
    three_hours()
    hour = LedgerHour.objects.get(account_id=ADA, hour=NINE)
    hour.totals[0]["billable"] += 1

    LedgerHour.objects.filter(pk=hour.pk).update(totals=hour.totals)

    assert (9, "its own digest is not that of what it says") in faults()


@pytest.mark.parametrize("totals", [[], {}, [{"meter": 1}], None, "x"])
def test_changed_totals_with_a_digest_to_match_are_found(totals):
    three_hours()
    hour = LedgerHour.objects.get(account_id=ADA, hour=NINE + HOUR)
    hour.totals = totals if totals is not None else [hour.totals[0] | {"billable": 99}]
    hour.digest = cloudevents.hour_digest(hour)

    LedgerHour.objects.filter(pk=hour.pk).update(totals=hour.totals, digest=hour.digest)

    assert faults() == [
        (10, "its totals are not those of its entries"),
        (11, "it doesn't follow the hour before it: one was changed, removed or put in"),
    ]


def test_a_removed_hour_is_found_even_with_its_entries():
    three_hours()

    LedgerHour.objects.filter(account_id=ADA, hour=NINE + HOUR).delete()
    assert [hour for hour, _ in faults()] == [10, 11]

    execute(
        "DELETE FROM gateway_usageevent WHERE recorded_at >= %s AND recorded_at < %s",
        NINE + HOUR,
        NINE + 2 * HOUR,
    )
    assert faults()[0][0] == 11


def test_the_last_hour_removed_with_its_entries_is_found_by_the_rollup():
    three_hours()
    end = NINE + 2 * HOUR
    LedgerHour.objects.filter(account_id=ADA, hour=end).delete()

    execute("DELETE FROM gateway_usageevent WHERE account_id = %s AND recorded_at >= %s", ADA, end)

    assert {hour for hour, _ in faults()} == {None}


def test_a_rollup_that_differs_from_the_ledger_is_found():
    three_hours()

    UsageRollup.objects.filter(account_id=ADA, meter="rows").update(billable_units=1)

    assert faults() == [
        (
            None,
            "live holidays GET /v1/next/{country}, rows: calls/units/billable are 0/21/21 in the "
            "ledger and 0/21/3 in the rollup",
        )
    ]


def test_only_one_account_is_looked_at_and_only_since_an_hour():
    three_hours()
    UsageEvent.objects.filter(account_id=ADA, recorded_at__lt=NINE + HOUR).update(status=201)

    said, is_right = verify(account=BEN)
    assert is_right
    assert "of 1 accounts" in said
    assert faults(since=NINE + HOUR) == []
    assert not verify()[1]
    assert verify(since=NINE + HOUR)[1]
    assert not verify(since=NINE)[1]


def test_of_hours_older_than_the_ledger_links_and_totals_are_checked():
    long_ago = NINE - timedelta(days=31)
    record(long_ago, call(at=long_ago))
    three_hours()
    execute("DROP TABLE gateway_usageevent_2026_04")

    said, is_right = verify()

    assert is_right, said
    assert "1 hours have entries older than the ledger keeps" in said
    hour = LedgerHour.objects.get(hour=long_ago)
    hour.totals[0]["units"] = 0
    LedgerHour.objects.filter(pk=hour.pk).update(totals=hour.totals)
    assert not verify()[1]


def test_before_the_first_hour_is_closed_there_is_nothing_to_say():
    record(NINE, call())

    assert verify() == ("No hour is closed yet: all right.\n", True)
    assert not LedgerClosing.objects.exists()
