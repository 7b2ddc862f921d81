"""What entered the ledger in a stretch of the ledger's own time (`recorded_at`).

A stretch that `recording.seal` has closed never gets another row: whoever reads it once, from
the end of the stretch before, has read each row exactly once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import connection


@dataclass(frozen=True, slots=True)
class Sum:
    """Billable live units of one account that belong together, admitted within one clock hour.

    dimensions: the meter's dimensions as JSON, keys sorted; "" for none
    latest_at:  when the latest of them was admitted
    """

    account_id: UUID
    period_start: datetime
    terms_id: str
    api: str
    operation: str
    meter: str
    dimensions: str
    units: int
    latest_at: datetime


# The hour is one of the things summed by: what was admitted hours ago and recorded now stays
# apart from what is new. Dimensions are
# written as `recording` writes them, so that both name one thing alike.
_SUMS = """
SELECT account_id, period_start, terms_id, api, operation, used.meter,
    coalesce(split.dimensions, '') AS dimensions, sum(used.amount)::bigint, max(admitted_at)
FROM gateway_usageevent
CROSS JOIN LATERAL (
    SELECT key AS meter, value::bigint AS amount FROM jsonb_each_text(units)
) AS used
LEFT JOIN LATERAL (
    SELECT json_object_agg(wanted.name, metadata ->> wanted.name ORDER BY wanted.name)::text
        AS dimensions
    FROM gateway_meter, jsonb_array_elements_text(gateway_meter.dimensions) AS wanted(name)
    WHERE gateway_meter.name = used.meter AND metadata ? wanted.name
) AS split ON metadata <> '{}'
WHERE recorded_at > %s AND recorded_at <= %s AND mode = 'live' AND billable AND used.amount > 0
GROUP BY 1, 2, 3, 4, 5, 6, 7, date_trunc('hour', admitted_at, 'UTC')
ORDER BY max(admitted_at), 1, 2, 3, 4, 5, 6, 7
"""


def billable_sums(after: datetime, until: datetime) -> list[Sum]:
    """Billable live usage recorded later than `after` and up to `until`, a sealed moment."""
    with connection.cursor() as cursor:
        cursor.execute(_SUMS, [after, until])
        return [Sum(*row) for row in cursor]
