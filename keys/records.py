"""Names and shapes of the data plane's records in Redis, and the way to write them.

Everything of an account lives under one hash tag, `{p00}` for partition 0, so that the
gateway's scripts touch one slot of a cluster. Shapes:

key:{p00}:<digest>        hash  rev, id, account, mode, state (active|revoked), expires_ms, own
                                (1: it has some of what follows), restrictions (JSON for
                                gateway.restrictions), rate, burst, quota (calls in a billing
                                period); "" where there is none
account:{p00}:<account>   hash  rev, state, suspended (0|1), plan, terms, rate, burst, ends_ms,
                                periods ("b0,b1,…" epoch seconds, the current period's start
                                first), test_quota, scopes (",a,b,", where it has any); by
                                meter m: included:<m>,
                                limit:<m> (units at which to refuse, "" none); more (1: it has
                                some of what follows), apis (",a,b,"; "" all), concurrency,
                                credits (JSON, price of a unit past the included ones by meter),
                                grants ("id:amount:expires, epoch s;…" in the order of use), cap
                                (minor units), prices (keys.spend.SpendCap as JSON)
token:{p00}:<digest>      hash  rev, id, account ("": the seller's), state, scopes ("a,b"),
                                expires_ms: a service token
routes:{p00}              hash  version, blob
ready:{p00}               seconds by which the time is moved ahead (keys.clock), mostly 0; there
                                once everything above has been published
filling:{p00}             string, the one who is publishing it all (gateway.refill)
used:{p00}:<account or key>:<live|test>:<period start, epoch s>:<meter>    integer; a key's only
                                for the meter calls and where it has a quota
drawn:{p00}:<grant>       integer, credits
counted:{p00}:<batch>     string, for a minute: uses reported later that are in the counters already
sightings:{p00}           hash  counter → what it lacks, as the last comparison with the books
                                found it (gateway.counters)
sweeping:{p00}            integer, epoch ms: since when Redis was there whenever the sweep asked;
                          goes after half a lease (gateway.sweep)
running:{p00}:<account>   zset  event id → deadline, epoch ms; where concurrency is limited
gcra:{p00}:a:<account>, gcra:{p00}:k:<key id>                       integer, µs
open:{p00}                hash  event id → the call as it was admitted (scripts/admit.lua)
usage:{p00}               stream of settled calls (gateway.entries)
refused:{p00}             hash  "account|key|code|minute, epoch s" → count
refusals:{p00}:<account>  list of JSON, the newest first, for a day

Knows no model: what goes into a record is for `keys.publish` and the gateway to say.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

PARTITIONS = (0,)

# Keeps a newer revision; else replaces the record as a whole, so that no field outlives its
# meter. ARGV: revision, lifetime in ms or "" (for good), then field, value, …
PUBLISH = """
local held = redis.call('HGET', KEYS[1], 'rev')
if held and tonumber(held) > tonumber(ARGV[1]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'rev', ARGV[1], unpack(ARGV, 3))
if ARGV[2] ~= '' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
"""

# Moves the time of a partition that is filled. KEYS: the ready marker. ARGV: seconds ahead, 1 if
# that may be less than what holds: somebody who was told late must not turn it back.
SHIFT = """
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] and (ARGV[2] == '1' or (tonumber(held) or 0) < tonumber(ARGV[1])) then
  redis.call('SET', KEYS[1], ARGV[1])
end
"""


@cache
def connection() -> redis.Redis:
    """The process's synchronous client; answers are bytes. Raises `redis.RedisError`.

    Gives up after 2 seconds, once repeated: everything sent through it may be repeated.
    """
    pool = redis.BlockingConnectionPool.from_url(
        settings.REDIS_URL,
        max_connections=8,
        timeout=2,
        socket_timeout=2,
        socket_connect_timeout=2,
        retry=Retry(NoBackoff(), 1),
    )
    return redis.Redis(connection_pool=pool)


@dataclass(frozen=True, slots=True)
class Record:
    """A hash to be published: its name, its row's revision and fields, how long it lives."""

    name: str
    revision: int
    fields: Mapping[str, str | int]
    lifetime: timedelta | None = None


def publish_record(record: Record, to: redis.Redis | None = None) -> None:
    """Writes the record unless Redis holds a newer revision of it.

    `to` may be a pipeline, which then runs it with its other commands.
    """
    lifetime = record.lifetime
    lifetime_ms = "" if lifetime is None else lifetime // timedelta(milliseconds=1)
    pairs: list[Any] = [part for pair in record.fields.items() for part in pair]
    (to or connection()).eval(PUBLISH, 1, record.name, record.revision, lifetime_ms, *pairs)


def is_held(record: Record) -> bool:
    """Whether the data plane holds this revision of the record, or a newer one."""
    revision = connection().hget(record.name, "rev")
    return revision is not None and int(revision) >= record.revision


def publish_shift(partition: int, seconds: int, *, back: bool = False) -> None:
    """Moves the partition's time to so many seconds ahead; not back unless `back` says so."""
    connection().eval(SHIFT, 1, ready_name(partition), seconds, int(back))


def moment(partition: int) -> datetime:
    """The moment it is by the clock that admits calls, moved ahead as that is."""
    pipeline = connection().pipeline(transaction=True)
    pipeline.time()
    pipeline.get(ready_name(partition))
    (seconds, microseconds), shift = pipeline.execute()
    ahead = int(shift) if shift and shift.isdigit() else 0
    return datetime.fromtimestamp(seconds + ahead, UTC) + timedelta(microseconds=microseconds)


def tag(partition: int) -> str:
    return f"{{p{partition:02d}}}"


def key_name(partition: int, digest: str) -> str:
    return f"key:{tag(partition)}:{digest}"


def token_name(partition: int, digest: str) -> str:
    return f"token:{tag(partition)}:{digest}"


def account_name(partition: int, account_id: UUID) -> str:
    return f"account:{tag(partition)}:{account_id}"


def routes_name(partition: int) -> str:
    return f"routes:{tag(partition)}"


def ready_name(partition: int) -> str:
    return f"ready:{tag(partition)}"


def filling_name(partition: int) -> str:
    return f"filling:{tag(partition)}"


def used_name(
    partition: int, holder_id: UUID, mode: str, period_start: datetime, meter: str
) -> str:
    """The counter of an account, or of a key that has a quota of its own."""
    start = int(period_start.timestamp())
    return f"used:{tag(partition)}:{holder_id}:{mode}:{start}:{meter}"


def drawn_name(partition: int, grant_id: int) -> str:
    return f"drawn:{tag(partition)}:{grant_id}"


def counted_name(partition: int, batch_id: UUID) -> str:
    return f"counted:{tag(partition)}:{batch_id}"


def sightings_name(partition: int) -> str:
    return f"sightings:{tag(partition)}"


def running_name(partition: int, account_id: UUID) -> str:
    return f"running:{tag(partition)}:{account_id}"


def open_name(partition: int) -> str:
    return f"open:{tag(partition)}"


def sweeping_name(partition: int) -> str:
    return f"sweeping:{tag(partition)}"


def usage_stream(partition: int) -> str:
    return f"usage:{tag(partition)}"


def refused_name(partition: int) -> str:
    return f"refused:{tag(partition)}"


def refusals_name(partition: int, account_id: UUID) -> str:
    return f"refusals:{tag(partition)}:{account_id}"
