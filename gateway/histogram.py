"""The buckets of latencies in the rollup, and percentiles read from them.

Bucket 0 holds calls below `FIRST_US`; each next one begins `GROWTH` times later; the last has
no end. A percentile is thereby known to within a tenth of its value.
"""

from __future__ import annotations

from collections.abc import Sequence

FIRST_US = 100
GROWTH = 2**0.25
BUCKETS = 88
"""The last one begins at about 5 minutes."""

BOUNDS_US = [round(FIRST_US * GROWTH**number) for number in range(BUCKETS - 1)]
"""Where each bucket but the first begins, microseconds."""


def percentile_us(calls: Sequence[int], share: float) -> float | None:
    """The latency that `share` (0 to 1) of the calls stayed below; None: no calls.

    Within a bucket, calls are taken to be spread evenly.
    """
    wanted, below = share * sum(calls), 0
    for number, count in enumerate(calls):
        if count and below + count >= wanted:
            start = BOUNDS_US[number - 1] if number else 0
            end = BOUNDS_US[number] if number < len(BOUNDS_US) else start
            return start + (end - start) * (wanted - below) / count
        below += count
    return None
