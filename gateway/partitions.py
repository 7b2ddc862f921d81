"""The months of the ledger: one partition each, made ahead by beat and at need by the drain."""

from collections.abc import Iterable
from datetime import UTC, date, datetime

import structlog
from django.db import connection, transaction

log = structlog.get_logger(__name__)

MONTHS_AHEAD = 3
# Held while a partition is made, so that two makers don't collide on its name.
LOCK = 0x6B73_0001


def make_ahead(now: datetime) -> None:
    """Makes the partitions of this month and the next three, where they are missing."""
    first = now.astimezone(UTC).date().replace(day=1)
    months = [first]
    for _ in range(MONTHS_AHEAD):
        months.append(_following(months[-1]))
    _ensure(months)


def ensure(moments: Iterable[datetime]) -> None:
    """Makes the partitions that these admissions fall into, where they are missing."""
    _ensure(sorted({moment.astimezone(UTC).date().replace(day=1) for moment in moments}))


def _ensure(months: list[date]) -> None:
    names = {_name(month): month for month in months}
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
        cursor.execute(
            f"ALTER TABLE gateway_usageevent ATTACH PARTITION {name} "
            f"FOR VALUES FROM ('{month} 00:00+00') TO ('{_following(month)} 00:00+00')"
        )
    log.info("partition.made", name=name)


def _name(month: date) -> str:
    return f"gateway_usageevent_{month:%Y_%m}"


def _following(month: date) -> date:
    return date(month.year + month.month // 12, month.month % 12 + 1, 1)
