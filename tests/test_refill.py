import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import call_command
from django.db import connection, transaction

from gateway import ledger, recording, refill
from gateway.models import Routes
from keys import issuance, records
from tests.factories import make_account, make_api
from tests.test_entitlements import apply
from tests.test_ledger import PERIOD, add, entry

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_clean")]

NOW = datetime(2026, 5, 10, 12, tzinfo=UTC)
TODAY = NOW.replace(hour=0)
READY = records.ready_name(0)


@pytest.fixture
def account():
    """A customer with a working key and calls in the ledger, seen by no Redis."""
    make_api()
    account = make_account()
    apply(account)
    key, _ = issuance.create(account, name="server", mode="live", actor=None, address=None, now=NOW)
    ours = {"account": account.pk, "key": key.pk, "at": NOW}
    add(
        *[entry(units={"calls": 1, "rows": 10}, **ours) for _ in range(3)],
        entry(status=502, billable=False, **ours),
    )
    ledger.drain(0, lambda: NOW)
    records.connection().flushdb()
    return account


def used(account, meter, mode="live", period_start=PERIOD):
    value = records.connection().get(records.used_name(0, account.pk, mode, period_start, meter))
    return None if value is None else int(value)


def test_an_empty_redis_gets_everything_and_is_marked_ready(account):
    assert refill.refill(0, NOW)

    redis = records.connection()
    key = account.keys.get()
    assert redis.exists(READY)
    assert redis.hget(records.key_name(0, key.digest), "state") == b"active"
    assert redis.hget(records.account_name(0, account.pk), "plan") == b"Basic"
    assert (
        redis.hget(records.routes_name(0), "version") == str(Routes.objects.get().version).encode()
    )
    assert not redis.exists(records.filling_name(0))


def test_counters_come_back_with_what_is_billable_and_nothing_else(account):
    refill.refill(0, NOW)

    assert used(account, "calls") == 3
    assert used(account, "rows") == 30
    name = records.used_name(0, account.pk, "live", PERIOD, "calls")
    lifetime = timedelta(seconds=records.connection().ttl(name))
    until = datetime(2026, 6, 1, tzinfo=UTC) + timedelta(days=40) - NOW
    assert until - timedelta(minutes=1) < lifetime <= until


def test_a_counter_of_an_ended_period_does_not_come_back(account):
    june = datetime(2026, 6, 1, tzinfo=UTC)

    refill.refill(0, june)

    assert used(account, "calls") is None
    assert used(account, "calls", period_start=june) is None


def test_todays_test_calls_count_again(account):
    test = {"account": account.pk, "mode": "test", "at": NOW}
    fields = entry(**test)
    may, today = (str(int(start.timestamp())) for start in (PERIOD, TODAY))
    fields["open"] = fields["open"].replace(f"\t{may}\t", f"\t{today}\t")
    add(fields)
    ledger.drain(0, lambda: NOW)

    refill.refill(0, NOW)

    assert used(account, "calls", "test", TODAY) == 1
    assert used(account, "calls") == 3


def test_a_ready_redis_is_left_alone(account):
    refill.refill(0, NOW)
    name = records.used_name(0, account.pk, "live", PERIOD, "calls")
    records.connection().incrby(name, 5)

    assert not refill.refill(0, NOW)
    assert used(account, "calls") == 8


def test_a_counter_that_knows_of_open_calls_is_kept(account):
    """Only the marker is gone, as after a refill that was killed."""
    records.connection().set(records.used_name(0, account.pk, "live", PERIOD, "calls"), 8)

    refill.refill(0, NOW)

    assert used(account, "calls") == 8


def test_many_that_find_it_empty_fill_it_once(account):
    def one(_):
        try:
            return refill.refill(0, NOW)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(one, range(4))) == [False, False, False, True]


def test_a_drain_that_read_the_lost_redis_is_waited_for(account):
    """What it commits was in the stream that is gone: it must be in the counters."""

    def fill():
        try:
            return refill.refill(0, NOW)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [recording.LOCK])
            filling = pool.submit(fill)
            add(entry(account=account.pk, key=account.keys.get().pk, at=NOW))
            ledger.drain_batch(0, NOW)
            time.sleep(0.3)
            assert not filling.done()
        assert filling.result()

    assert used(account, "calls") == 4


def test_a_redis_emptied_again_meanwhile_is_not_called_ready(account):
    assert not records.connection().eval(
        refill.MARK, 2, READY, records.filling_name(0), "a filler that is no longer there"
    )
    assert not records.connection().exists(READY)


def test_publish_makes_a_first_start_ready(account, capsys):
    call_command("publish")

    assert records.connection().exists(READY)
    assert "ready" in capsys.readouterr().out
