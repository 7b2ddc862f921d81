"""What the ledger keeps of months that are long over."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from django.db import OperationalError, connection, connections, transaction

from gateway import chain, ledger, partitions
from gateway.models import LedgerHour, UsageEvent, UsageRollup
from tests.test_ledger import ACCOUNT, add, entry

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_clean")]

LONG_AGO = datetime(2023, 3, 31, 23, 50, tzinfo=UTC)
MONTH_ENDED = datetime(2023, 4, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def months_gone():
    """Months outlast the tests' rows: none that is made here is left to others."""
    before = made()
    yield
    with connection.cursor() as cursor:
        for name in set(made()) - set(before):
            cursor.execute(f"DROP TABLE {name}")


def made():
    with connection.cursor() as cursor:
        cursor.execute(partitions.PARTITIONS)
        return [name for (name,) in cursor.fetchall()]


def record_long_ago():
    add(entry(at=LONG_AGO))
    ledger.drain(0, lambda: LONG_AGO)
    chain.close_hours(MONTH_ENDED)


def test_a_month_is_dropped_when_its_retention_is_over_and_not_before():
    record_long_ago()
    over = MONTH_ENDED.replace(year=2024, month=5)

    partitions.drop_old(over - timedelta(seconds=1), 13)
    assert UsageEvent.objects.count() == 1

    partitions.drop_old(over, 13)
    assert UsageEvent.objects.count() == 0
    assert "gateway_usageevent_2023_03" not in made()


def test_sums_and_hours_outlast_their_month():
    record_long_ago()

    partitions.drop_old(MONTH_ENDED.replace(year=2030), 13)

    assert UsageRollup.objects.get(account_id=ACCOUNT).calls == 1
    assert LedgerHour.objects.count() == 1


def test_the_shortest_retention_leaves_time_to_bill_and_ship():
    record_long_ago()

    partitions.drop_old(MONTH_ENDED + timedelta(days=70), 1)
    assert UsageEvent.objects.count() == 1

    partitions.drop_old(MONTH_ENDED + timedelta(days=71), 1)
    assert UsageEvent.objects.count() == 0


def test_a_late_entry_keeps_its_month_until_its_hour_is_closed():
    record_long_ago()
    late = MONTH_ENDED.replace(year=2025)
    add(entry(at=LONG_AGO))
    ledger.drain(0, lambda: late)

    partitions.drop_old(late + HOUR, 13)
    assert UsageEvent.objects.count() == 2

    chain.close_hours(late + HOUR)
    partitions.drop_old(late + HOUR, 13)
    assert UsageEvent.objects.count() == 0


def test_nothing_is_dropped_before_any_hour_was_closed():
    add(entry(at=LONG_AGO))
    ledger.drain(0, lambda: LONG_AGO)

    partitions.drop_old(MONTH_ENDED.replace(year=2030), 13)

    assert UsageEvent.objects.count() == 1


def test_a_long_reader_is_waited_for_briefly_and_the_month_stays():
    record_long_ago()
    reader = connections.create_connection("default")
    try:
        with reader.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("SELECT count(*) FROM gateway_usageevent")
            with pytest.raises(OperationalError, match="lock timeout"):
                partitions.drop_old(MONTH_ENDED.replace(year=2030), 13)
    finally:
        reader.close()

    assert UsageEvent.objects.count() == 1


def test_a_month_is_made_while_somebody_reads_the_ledger():
    partitions.ensure([LONG_AGO])
    reader = connections.create_connection("default")
    try:
        with reader.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("SELECT count(*) FROM gateway_usageevent")
            with transaction.atomic(), connection.cursor() as mine:
                mine.execute("SET LOCAL lock_timeout = '1s'")
                partitions.ensure([MONTH_ENDED])
    finally:
        reader.close()

    assert "gateway_usageevent_2023_04" in made()


def test_an_entry_of_a_dropped_month_makes_it_again():
    record_long_ago()
    partitions.drop_old(MONTH_ENDED.replace(year=2030), 13)

    add(entry(at=LONG_AGO))

    assert ledger.drain(0, lambda: MONTH_ENDED.replace(year=2030)) == 1


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", "99999"])
def test_a_retention_that_makes_no_sense_is_one_line_at_the_start(value):
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        env=os.environ | {"LEDGER_RETENTION_MONTHS": value},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode != 0
    assert "LEDGER_RETENTION_MONTHS must be a whole number from 1 to 9999." in done.stderr


def test_a_month_that_is_made_takes_new_pages_into_its_index_on_recording():
    partitions.ensure([LONG_AGO])

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT reloptions FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
            "JOIN pg_am ON pg_am.oid = relam AND amname = 'brin' "
            "WHERE indrelid = 'gateway_usageevent_2023_03'::regclass"
        )
        assert cursor.fetchall() == [(["autosummarize=on"],)]
