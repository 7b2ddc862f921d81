"""What entered the ledger in a stretch of the ledger's own time (`recorded_at`).

A stretch that `recording.seal` has closed never gets another row: whoever reads it once, from
the end of the stretch before, has read each row exactly once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection

from gateway import entries


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
# apart from what is new.
_SUMS = """
SELECT account_id, period_start, terms_id, api, operation, used.meter, split.said,
    date_trunc('hour', admitted_at, 'UTC'), sum(used.amount)::bigint, max(admitted_at)
FROM gateway_usageevent
CROSS JOIN LATERAL (
    SELECT key AS meter, value::bigint AS amount FROM jsonb_each_text(units)
) AS used
LEFT JOIN LATERAL (
    SELECT jsonb_object_agg(declared.name, metadata -> declared.name) AS said
    FROM gateway_meter, jsonb_array_elements_text(gateway_meter.dimensions) AS declared(name)
    WHERE gateway_meter.name = used.meter AND metadata ? declared.name
) AS split ON metadata <> '{}'
WHERE recorded_at > %s AND recorded_at <= %s AND mode = 'live' AND billable AND used.amount > 0
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
ORDER BY max(admitted_at), 1, 2, 3, 4, 5, 6, 7
"""


def billable_sums(after: datetime, until: datetime) -> list[Sum]:
    """Billable live usage recorded later than `after` and up to `until`, a sealed moment."""
    sums: dict[tuple[Any, ...], Sum] = {}
    with connection.cursor() as cursor:
        cursor.execute(_SUMS, [after, until])
        for account_id, period_start, *of_one, said, hour, units, latest_at in cursor:
            found = json.loads(said or "{}")
            dimensions = entries.dimensions(found, found)
            terms_id, api, operation, meter = of_one
            key = (account_id, period_start, terms_id, api, operation, meter, dimensions, hour)
            one = Sum(*key[:7], units, latest_at)
            if key in sums:  # prose in place of dimensions is gone, and kinds are one again
                one = replace(one, units=units + sums[key].units)
            sums[key] = one
    return list(sums.values())
