"""The buckets of latencies in the rollup, and percentiles read from them.

Bucket 0 holds calls below `FIRST_US`; each next one begins `GROWTH` times later; the last has
no end. A percentile is thereby known to within a fifth of its value, of many calls to a tenth.
"""

from __future__ import annotations

from collections.abc import Mapping

FIRST_US = 100
GROWTH = 2**0.25
BUCKETS = 88
"""The last one begins at about 5 minutes."""

BOUNDS_US = [round(FIRST_US * GROWTH**number) for number in range(BUCKETS - 1)]
"""Where each bucket but the first begins, microseconds."""


def percentile_us(calls: Mapping[int, int], share: float) -> float:
    """The latency that `share` (0 to 1) of the calls stayed below; there must be some.

    calls: how many by bucket. Within a bucket they are taken to be spread evenly; of the last,
    which has no end, its start is told.
    """
    wanted, below = share * sum(calls.values()), 0
    for number, count in sorted(calls.items()):
        if count and below + count >= wanted:
            start = BOUNDS_US[number - 1] if number else 0
            end = BOUNDS_US[number] if number < len(BOUNDS_US) else start
            return start + (end - start) * (wanted - below) / count
        below += count
    raise ValueError("no calls, no percentile")
