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
    with transaction.atomic(), connection.cursor() as cursor:
        for month in months:
            name = f"gateway_usageevent_{month:%Y_%m}"
            cursor.execute("SELECT to_regclass(%s)", [name])
            if cursor.fetchone() != (None,):
                continue
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
            cursor.execute(
                f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF gateway_usageevent "
                f"FOR VALUES FROM ('{month} 00:00+00') TO ('{_following(month)} 00:00+00')"
            )
            log.info("partition.made", name=name)


def _following(month: date) -> date:
    return date(month.year + month.month // 12, month.month % 12 + 1, 1)
