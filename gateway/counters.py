"""Compares the data plane's counters with the books, and corrects those that stay wrong.

The books of a counter are the ledger, the calls on their way into it (the usage stream and the
quarantine) and those that are still open. They are read under the drain's lock, so that nothing
moves into the ledger meanwhile, and the counter in one step with the opens: a call is neither
missed nor counted twice, however many are made.

A difference can still be somebody's work in progress: a reported use is counted after its commit.
So only one that two comparisons found, with the same value, is corrected, by that value: what is
charged meanwhile stays charged.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast
from uuid import UUID

import structlog
from django.db import transaction

from gateway import quarantine, recording
from gateway.consumption import Charge, Running, running
from gateway.entries import EPOCH, Entry, parse
from gateway.ledger import Delivered
from gateway.models import CounterCorrection, QuarantinedEntry, UsageEvent
from keys import records

log = structlog.get_logger(__name__)

BATCH = 1000
MOST_WAITING = 20_000
"""Entries in the stream, or in quarantine: the drain must not be kept waiting for more."""

# Corrects a counter by what was sighted, once: of two who found it one is told 0.
#
# KEYS  1 the sightings, 2 the counter
# ARGV  1 units, 2 seconds after which a counter that this makes may go, "" never
CORRECT = """
if redis.call('HGET', KEYS[1], KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], KEYS[2])
redis.call('INCRBY', KEYS[2], ARGV[1])
if ARGV[2] ~= '' and redis.call('TTL', KEYS[2]) == -1 then
  redis.call('EXPIRE', KEYS[2], ARGV[2])
end
return 1
"""


class NotComparable(Exception):
    """There is nothing to compare yet; says why."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A counter that does not hold what the books say.

    account_id: whose counter it is
    counted:    units or credits, as the counter has it
    booked:     as the books have it
    """

    counter: str
    account_id: UUID
    counted: int
    booked: int
    expires_at: datetime | None

    @property
    def missing(self) -> int:
        """What the counter lacks; less than 0: has too much."""
        return self.booked - self.counted


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison of a partition: how many counters, the new sightings, what was corrected."""

    compared: int
    sighted: list[Difference]
    corrected: list[Difference]


def check(partition: int, now: datetime) -> Check:
    """Compares all counters of running periods and corrects what the last check has seen, too.

    Raises `NotComparable`, `redis.RedisError` and `django.db.Error`; what was found so far is
    then forgotten, and what the last check has seen is not.
    """
    compared = 0
    found: list[Difference] = []
    for some in running(partition, now):
        if not some.kept:
            continue
        counted, booked = _compare(partition, some)
        compared += len(counted)
        for name, units in counted.items():
            if units != booked[name]:
                kept = some.kept[name]
                found.append(
                    Difference(name, kept.account_id, units, booked[name], kept.expires_at)
                )
    sighted: list[Difference] = []
    corrected: list[Difference] = []
    for difference in found:
        (corrected if _correct(partition, difference, now) else sighted).append(difference)
    _remember(partition, sighted)
    return Check(compared, sighted, corrected)


def sightings(partition: int) -> dict[str, int]:
    """What the last check found and did not correct: by counter, what it lacks."""
    name = records.sightings_name(partition)
    found = cast(dict[bytes, bytes], records.connection().hgetall(name))
    return {counter.decode(): int(units) for counter, units in found.items()}


def _compare(partition: int, some: Running) -> tuple[dict[str, int], Counter[str]]:
    """What some counters hold, and what the books say of them, at one moment.

    Redis is asked inside the transaction, whose lock keeps calls from moving between the two.
    """
    with transaction.atomic():
        recording.lock(partition)
        booked = some.of_ledger()
        names = list(some.kept)
        settled = _quarantined(partition)  # first: one that is replayed meanwhile is in the stream
        opens, latest, held = _look(partition, names)
        settled |= _streamed(partition, latest)
        for event_id in settled.keys() - _stored(settled.values()):
            some.charge(booked, some.settled(settled[event_id]))
    for opened in opens:
        some.charge(booked, _reserved(opened))
    return {name: int(units or 0) for name, units in zip(names, held, strict=True)}, booked


def _look(partition: int, names: list[str]) -> tuple[list[bytes], bytes | None, list[bytes | None]]:
    """Open calls, the latest entry of the stream and the counters, all in one step."""
    pipeline = records.connection().pipeline(transaction=True)
    stream = records.usage_stream(partition)
    pipeline.exists(records.ready_name(partition))
    pipeline.xlen(stream)
    pipeline.xrevrange(stream, count=1)
    pipeline.hvals(records.open_name(partition))
    pipeline.mget(names)
    is_ready, waiting, latest, opens, held = pipeline.execute()
    if not is_ready:
        raise NotComparable("Redis came back empty and is not filled yet")
    if waiting > MOST_WAITING:
        raise NotComparable(f"{waiting} calls wait for the ledger")
    return opens, latest[0][0] if latest else None, held


def _streamed(partition: int, latest: bytes | None) -> dict[UUID, Entry]:
    """Settled calls that wait in the stream, by event id, up to the one that came latest.

    One that a drain deletes meanwhile is in the ledger: it was stored before the lock was ours.
    """
    found: dict[UUID, Entry] = {}
    if latest is None:
        return found
    redis, stream, after = records.connection(), records.usage_stream(partition), b"-"
    while delivered := cast(list[Delivered], redis.xrange(stream, after, latest, BATCH)):
        found |= _readable(fields for _, fields in delivered)
        after = b"(" + delivered[-1][0]
    return found


def _quarantined(partition: int) -> dict[UUID, Entry]:
    """Calls that staff may yet bring into the ledger stay charged until they are given up.

    Raises `NotComparable` where there are so many that to read them would hold up the drain.
    """
    kept = list(
        QuarantinedEntry.objects.filter(partition=partition, closed_at=None)[: MOST_WAITING + 1]
    )
    if len(kept) > MOST_WAITING:
        raise NotComparable(f"more than {MOST_WAITING} calls are in quarantine")
    return _readable(map(quarantine.fields, kept))


def _readable(many: Iterable[Mapping[bytes, bytes]]) -> dict[UUID, Entry]:
    """By event id. What can't be read counts nowhere: nobody can say what it was charged with."""
    found = {}
    for fields in many:
        with suppress(ValueError):
            entry = parse(fields)
            found[entry.id] = entry
    return found


def _stored(settled: Collection[Entry]) -> set[UUID]:
    """Those that the ledger has."""
    if not settled:
        return set()
    admitted = [entry.admitted_at for entry in settled]
    events = UsageEvent.objects.filter(
        id__in=[entry.id for entry in settled],
        admitted_at__range=(min(admitted), max(admitted)),
    )
    return set(events.values_list("id", flat=True))


def _reserved(opened: bytes) -> Charge:
    """What an open call is charged with (scripts/admit.lua)."""
    account, key, mode, period_s, _, admitted_us, _, _, units, _, back = opened.decode().split("\t")
    draws = json.loads(back).get("draws", {}) if back else {}
    drawn: Counter[int] = Counter()
    for _, _, *parts in draws.values():
        for grant, part in zip(parts[::2], parts[1::2], strict=True):
            drawn[int(grant)] += part
    return Charge(
        account_id=UUID(account),
        key_id=UUID(key),
        mode=mode,
        period_start=EPOCH + timedelta(seconds=int(period_s)),
        admitted_at=EPOCH + timedelta(microseconds=int(admitted_us)),
        units=json.loads(units),
        credits=drawn,
    )


def _correct(partition: int, difference: Difference, now: datetime) -> bool:
    """Corrects a difference that was sighted before; whether it was."""
    expires_at = difference.expires_at
    corrected = records.connection().eval(
        CORRECT,
        2,
        records.sightings_name(partition),
        difference.counter,
        difference.missing,
        "" if expires_at is None else (expires_at - now) // timedelta(seconds=1),
    )
    if not corrected:
        return False
    log.warning(
        "counter.corrected",
        counter=difference.counter,
        account=str(difference.account_id),
        units=difference.missing,
        reason=f"counted {difference.counted}, the books say {difference.booked}, seen twice",
    )
    CounterCorrection.objects.create(
        at=now,
        account_id=difference.account_id,
        counter=difference.counter,
        counted=difference.counted,
        booked=difference.booked,
    )
    return True


def _remember(partition: int, sighted: list[Difference]) -> None:
    """Keeps what was found for the next check, in place of what the last one found."""
    name = records.sightings_name(partition)
    pipeline = records.connection().pipeline(transaction=True)
    pipeline.delete(name)
    if sighted:
        pipeline.hset(name, mapping={each.counter: each.missing for each in sighted})
    pipeline.execute()
    for each in sighted:
        log.warning(
            "counter.differs", counter=each.counter, counted=each.counted, booked=each.booked
        )
