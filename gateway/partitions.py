"""The months of the ledger: one partition each, made ahead by beat and at need by the drain.

Months are kept for as long as the seller wants (`LEDGER_RETENTION_MONTHS`) and then dropped;
what was used in them stays in the rollups and in the closed hours.
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta

import structlog
from django.db import connection, transaction

from gateway import chain
from gateway.entries import EPOCH

log = structlog.get_logger(__name__)

MONTHS_AHEAD = 3
# Held while a partition is made, so that two makers don't collide on its name.
LOCK = 0x6B73_0001
# However short the retention: a period that began in a month ends within 31 days of it, and its
# usage can be shipped for 35 days after that.
SHORTEST = timedelta(days=70)
# Who waits for a lock of the whole ledger holds up all who come after.
LOCK_TIMEOUT = "2s"

PARTITIONS = """
SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
WHERE inhparent = 'gateway_usageevent'::regclass
    AND relname ~ '^gateway_usageevent_[0-9]{4}_[0-9]{2}$'
ORDER BY relname
"""


def make_ahead(now: datetime) -> None:
    """Makes the partitions of this month and the next three, where they are missing."""
    first = now.astimezone(UTC).date().replace(day=1)
    ahead = [first]
    for _ in range(MONTHS_AHEAD):
        ahead.append(_following(ahead[-1]))
    _ensure(ahead)


def ensure(moments: Iterable[datetime]) -> None:
    """Makes the partitions that these admissions fall into, where they are missing."""
    _ensure(sorted({moment.astimezone(UTC).date().replace(day=1) for moment in moments}))


def drop_old(now: datetime, retention_months: int) -> None:
    """Drops the months that ended more than `retention_months` ago.

    One that holds an entry of an hour that isn't closed stays until it is. Raises
    `django.db.OperationalError` when others use the ledger for too long; nothing is lost.
    """
    for month in months():
        ended = datetime.combine(_following(month), time(), UTC)
        if now - ended > SHORTEST and _months_between(ended, now) >= retention_months:
            _drop(_name(month))


def months() -> list[date]:
    """The first days of the months of admission that the ledger has, the oldest first."""
    with connection.cursor() as cursor:
        cursor.execute(PARTITIONS)
        names = [name for (name,) in cursor.fetchall()]
    return [date(int(name[-7:-3]), int(name[-2:]), 1) for name in names]


def _drop(name: str) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        cursor.execute(f"ALTER TABLE gateway_usageevent DETACH PARTITION {name}")
        # Nobody adds to it any more.
        cursor.execute(
            f"SELECT EXISTS (SELECT FROM {name} WHERE recorded_at >= %s)",  # noqa: S608 - a month
            [chain.closed_until() or EPOCH],
        )
        is_needed: bool = cursor.fetchone()[0]
        if is_needed:
            transaction.set_rollback(True)
        else:
            cursor.execute(f"DROP TABLE {name}")
    if is_needed:
        log.warning("partition.kept", name=name, reason="it holds entries of hours still open")
    else:
        log.info("partition.dropped", name=name)


def _ensure(wanted: list[date]) -> None:
    names = {_name(month): month for month in wanted}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name FROM unnest(%s::text[]) AS name WHERE to_regclass(name) IS NULL",
            [list(names)],
        )
        missing = [name for (name,) in cursor.fetchall()]
    for name in missing:
        _make(name, names[name])


def _make(name: str, month: date) -> None:
    """Made beside the ledger and then attached, which, other than PARTITION OF, lets readers and
    writers go on.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        cursor.execute("SELECT to_regclass(%s)", [name])
        if cursor.fetchone() != (None,):
            return
        cursor.execute(f"CREATE TABLE {name} (LIKE gateway_usageevent INCLUDING ALL)")
        # Or the newest pages are read by all who ask for the last minutes, until vacuum comes by.
        cursor.execute(f"ALTER INDEX {name}_recorded_at_idx SET (autosummarize = on)")
        cursor.execute(
            f"ALTER TABLE gateway_usageevent ATTACH PARTITION {name} "
            f"FOR VALUES FROM ('{month} 00:00+00') TO ('{_following(month)} 00:00+00')"
        )
    log.info("partition.made", name=name)


def _months_between(earlier: datetime, later: datetime) -> int:
    """Whole months from the first day of one."""
    return (later.year - earlier.year) * 12 + later.month - earlier.month


def _name(month: date) -> str:
    return f"gateway_usageevent_{month:%Y_%m}"


def _following(month: date) -> date:
    return date(month.year + month.month // 12, month.month % 12 + 1, 1)
