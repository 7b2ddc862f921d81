"""Compares counters with the books while everything is being killed, as beat does every hour.

Its comparisons may fail, with what they ask. They must not find what isn't so: a difference that
two of them find is corrected, and a correction that was not due is a wrong counter from then on.
"""

from __future__ import annotations

from contextlib import suppress

import django.db
import redis
from django.db import connection
from django.utils import timezone

from gateway import counters
from gateway.counters import Check
from keys import records
from tests.torture.threads import Companion

SECONDS_BETWEEN = 2


class Comparing(Companion):
    """Goes on until it is told to stop; `checks` are the comparisons that came to an end."""

    def __init__(self) -> None:
        super().__init__("comparing")
        self.checks: list[Check] = []

    def run(self) -> None:
        while not self.over.wait(SECONDS_BETWEEN):
            with suppress(redis.RedisError, django.db.Error, counters.NotComparable):
                for partition in records.PARTITIONS:
                    self.checks.append(counters.check(partition, timezone.now()))
            connection.close()  # it may be dead with Postgres
