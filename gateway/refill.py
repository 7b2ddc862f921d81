"""Fills a Redis that came up empty, a first start's too, before anything is admitted.

Records, then the counters of the running periods from the ledger, then routes, and the ready
marker last: until that is there the gateway answers 503. What a lost Redis had not yet been
drained of is lost with it, and is given away: it is in no counter.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog
from django.db import connection, transaction
from django.db.models import Q, Sum

from gateway import recording, routes
from gateway.models import CreditUse, UsageRollup
from keys import publish, records
from keys.entitlements import current_period
from keys.identifiers import new_id
from keys.models import ApiKey, Entitlement

log = structlog.get_logger(__name__)

LOCK = 0x6B73_2000  # plus the partition
CHUNK = 1000
# As in scripts/admit.lua: a counter outlives its period by this.
COUNTER_OUTLIVES = timedelta(days=40)
LONGEST_PERIOD = timedelta(days=31)
QUARTER = timedelta(minutes=15)
# Of a test call the rollup doesn't say whether it was counted; by its status, nearly always.
COUNTED_OF_TEST = (2, 3, 4)
CALLS = "calls"

# Sets the marker (KEYS[1]) if Redis still is the one that was filled (KEYS[2]): one that was
# emptied once more meanwhile must be filled once more.
MARK = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
redis.call('SET', KEYS[1], ARGV[1])
return 1
"""


def refill(partition: int, now: datetime) -> bool:
    """Fills the partition if it is not ready; whether it did so. Raises `redis.RedisError`."""
    redis = records.connection()
    ready, filling = records.ready_name(partition), records.filling_name(partition)
    if redis.exists(ready):
        return False
    with _alone(partition):
        if redis.exists(ready):
            return False
        filler = str(new_id())
        redis.set(filling, filler)
        published = publish.everything(partition, now)
        _wait_for_drain(partition)
        counters = _restore_counters(partition, now)
        routes.publish()
        is_ready = bool(redis.eval(MARK, 2, ready, filling, filler))
    log.info("redis.refilled", records=published, counters=counters, ready=is_ready)
    return is_ready


@contextmanager
def _alone(partition: int) -> Iterator[None]:
    """Waits until nobody else refills the partition and keeps it so.

    The lock is the connection's, not a transaction's: none is open while Redis is written.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [LOCK + partition])
        try:
            yield
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [LOCK + partition])


def _wait_for_drain(partition: int) -> None:
    """Lets a drain finish that has read its batch from the Redis that was lost."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [recording.LOCK + partition])


def _restore_counters(partition: int, now: datetime) -> int:
    """Puts back what each account has used of its running periods; how many counters.

    One that exists is left as it is: it knows of calls that are still open.
    """
    restored = 0
    accounts: dict[UUID, tuple[datetime, datetime]] = {}
    for entitlement in Entitlement.objects.filter(account__partition=partition).iterator(CHUNK):
        period = current_period(entitlement, now)
        if period is None:
            continue
        start = datetime.fromtimestamp(period[0], UTC)
        end = (
            start + LONGEST_PERIOD if period[1] is None else datetime.fromtimestamp(period[1], UTC)
        )
        accounts[entitlement.pk] = start, end
        if len(accounts) == CHUNK:
            restored += _restore(partition, accounts, now)
            accounts.clear()
    return restored + _restore(partition, accounts, now) + _restore_credits(partition)


def _restore(partition: int, periods: dict[UUID, tuple[datetime, datetime]], now: datetime) -> int:
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    today = day, day + timedelta(days=1)
    oldest = min([day, *(start for start, _ in periods.values())])
    rows = (
        UsageRollup.objects.filter(account_id__in=periods, quarter__gt=oldest - QUARTER)
        .values("account_id", "mode", "period_start", "meter")
        .annotate(
            live=Sum("billable_units"),
            test=Sum("units", filter=Q(status_class__in=COUNTED_OF_TEST)),
        )
    )
    pipeline = records.connection().pipeline(transaction=False)
    for row in rows:
        is_live = row["mode"] == ApiKey.Mode.LIVE
        start, end = periods[row["account_id"]] if is_live else today
        units = row["live"] if is_live else row["test"]
        if row["period_start"] == start and units:
            name = records.used_name(partition, row["account_id"], row["mode"], start, row["meter"])
            pipeline.set(name, units, nx=True, ex=end - now + COUNTER_OUTLIVES)
    for key in ApiKey.objects.filter(account_id__in=periods, monthly_quota__isnull=False):
        start, end = periods[key.account_id]
        calls = _calls_of(key, start)
        if calls:
            name = records.used_name(partition, key.pk, key.mode, start, CALLS)
            pipeline.set(name, calls, nx=True, ex=end - now + COUNTER_OUTLIVES)
    return len(pipeline.execute())


def _restore_credits(partition: int) -> int:
    """Puts back what was drawn of each grant, of ended accounts too: they may come back."""
    accounts = Entitlement.objects.filter(account__partition=partition).values("pk")
    pipeline = records.connection().pipeline(transaction=False)
    for use in CreditUse.objects.filter(account_id__in=accounts).iterator(CHUNK):
        pipeline.set(records.drawn_name(partition, use.grant_id), use.credits, nx=True)
    return len(pipeline.execute())


def _calls_of(key: ApiKey, start: datetime) -> int:
    """What counts against the key's own quota since the account's period has started.

    Test calls count by the day and their quota all the same by the period.
    """
    rows = UsageRollup.objects.filter(
        account_id=key.account_id, key_id=key.pk, meter=CALLS, quarter__gt=start - QUARTER
    )
    if key.mode == ApiKey.Mode.LIVE:
        of_period = rows.filter(period_start=start)
        found = of_period.aggregate(units=Sum("billable_units"))
    else:
        found = rows.filter(status_class__in=COUNTED_OF_TEST).aggregate(units=Sum("units"))
    return found["units"] or 0
