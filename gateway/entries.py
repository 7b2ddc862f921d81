"""One entry of the usage stream: a settled call, as the gateway's scripts wrote it.

Fields of the entry, all text:

id       the event's id, a UUID
open     what was known at admission, joined by tabs: account, key, mode, period start (epoch s),
         terms, admitted at (epoch µs), API, operation, units reserved (JSON), deadline (epoch
         ms), what the settling script gave back besides units
end      JSON: outcome, status, code, billable, units, meta, latency_us, upstream_us, in, out, and
         the client's address, where it is known
credits  JSON, credits drawn by grant; only where there were any

Reads no database. What Postgres could not store is refused here, with a reason.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple
from uuid import UUID

from gateway.models import UsageEvent
from keys.models import ApiKey

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST, LATEST = datetime(2020, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
MODES, OUTCOMES = frozenset(ApiKey.Mode.values), frozenset(UsageEvent.Outcome.values)
MAX_STATUS = 999
# Far above any real call, far enough below a bigint for sums over many.
MAX_INTEGER = 10**15
MAX_NAME_CHARACTERS = 40
"""Of an API, a meter, terms and a code."""
MAX_OPERATION_CHARACTERS = 311
MAX_METADATA_CHARACTERS = 1000
# So that a rollup's unique index, whose rows may take 2704 bytes, holds any texts of its key.
MAX_DIMENSIONS_BYTES = 800
CACHED = 4096


class Entry(NamedTuple):
    """A call that ended. Field by field what `gateway.models.UsageEvent` stores, and `client`."""

    id: UUID
    admitted_at: datetime
    account_id: UUID
    key_id: UUID
    api: str
    operation: str
    mode: str
    outcome: str
    status: int
    code: str
    billable: bool
    units: dict[str, int]
    metadata: dict[str, str]
    latency_us: int
    upstream_us: int
    request_bytes: int
    response_bytes: int
    period_start: datetime
    terms_id: str
    credits: dict[str, int] | None
    client: str


def parse(fields: Mapping[bytes, bytes]) -> Entry:
    """The call that the fields tell of. Raises ValueError saying what is wrong with them.

    A test call is never billable, whatever the entry says.
    """
    try:
        opened = fields[b"open"].decode().split("\t")
        account, key, mode, period_s, terms, admitted_us, api, operation, *_ = opened
        end = json.loads(fields[b"end"].decode())
        drawn = json.loads(fields[b"credits"]) if b"credits" in fields else {}
        client = end.get("client")
        entry = Entry(
            id=UUID(fields[b"id"].decode()),
            admitted_at=_moment(int(admitted_us)),
            account_id=_uuid(account),
            key_id=_uuid(key),
            api=api,
            operation=operation,
            mode=mode,
            outcome=end["outcome"],
            status=end["status"],
            code=end["code"],
            billable=end["billable"] is True and mode == ApiKey.Mode.LIVE,
            units=end["units"],
            metadata=end["meta"],
            latency_us=end["latency_us"],
            upstream_us=end["upstream_us"],
            request_bytes=end["in"],
            response_bytes=end["out"],
            period_start=_period(period_s),
            terms_id=terms,
            credits=None if drawn == {} else drawn,
            client=_address(client) if isinstance(client, str) else "",
        )
        _check(entry)
    except KeyError as error:
        name = error.args[0]
        shown = name.decode() if isinstance(name, bytes) else name
        raise ValueError(f"“{shown}” is missing") from error
    except (TypeError, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return entry


def dimensions(metadata: Mapping[str, str], declared: Iterable[str]) -> str:
    """What metadata says of a meter's declared dimensions, as JSON, keys sorted; "": nothing.

    More than 800 bytes of it are no dimensions but prose, and count as nothing.
    """
    said = {name: metadata[name] for name in declared if name in metadata}
    if not said:
        return ""
    text = json.dumps(said, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return text if len(text.encode()) <= MAX_DIMENSIONS_BYTES else ""


def _check(entry: Entry) -> None:
    _check_opened(entry.api, entry.operation, entry.mode, entry.terms_id)
    if entry.outcome not in OUTCOMES:
        raise ValueError(f"outcome {entry.outcome!r} is unknown")
    _check_text("code", entry.code, MAX_NAME_CHARACTERS)
    _check_integer("latency_us", entry.latency_us, MAX_INTEGER)
    _check_integer("upstream_us", entry.upstream_us, MAX_INTEGER)
    _check_integer("request_bytes", entry.request_bytes, MAX_INTEGER)
    _check_integer("response_bytes", entry.response_bytes, MAX_INTEGER)
    _check_integer("status", entry.status, MAX_STATUS)
    if not EARLIEST <= entry.admitted_at < LATEST:
        raise ValueError(f"{entry.admitted_at} is not a time of this product")
    if not isinstance(entry.units, dict):
        raise ValueError("units is not an object")
    for meter, units in entry.units.items():
        _check_text("meter", meter, MAX_NAME_CHARACTERS)
        _check_integer(f"units of {meter}", units, MAX_INTEGER)
    if entry.credits is not None:
        if not isinstance(entry.credits, dict):
            raise ValueError("credits is not an object")
        for grant, drawn in entry.credits.items():
            if not (grant.isascii() and grant.isdigit() and len(grant) < 19):
                raise ValueError(f"credits name {grant!a}, which is no grant")
            _check_integer(f"credits of grant {grant}", drawn, MAX_INTEGER)
    if not isinstance(entry.metadata, dict):
        raise ValueError("meta is not an object")
    for pair in entry.metadata.items():
        for text in pair:
            _check_text("meta", text, MAX_METADATA_CHARACTERS)


def _check_text(name: str, value: object, most: int) -> None:
    if not isinstance(value, str) or len(value) > most:
        raise ValueError(f"{name} is not text of at most {most} characters")
    if "\0" in value:
        raise ValueError(f"{name} holds a NUL")
    if not value.isascii():
        value.encode()  # a lone surrogate is a UnicodeEncodeError, which is a ValueError


def _check_integer(name: str, value: object, most: int) -> None:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{name} is not an integer from 0 to {most}")


def _moment(microseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)


# What most calls of a batch have in common with others is read once.


@lru_cache(CACHED)
def _check_opened(api: str, operation: str, mode: str, terms_id: str) -> None:
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is unknown")
    _check_text("api", api, MAX_NAME_CHARACTERS)
    _check_text("operation", operation, MAX_OPERATION_CHARACTERS)
    _check_text("terms_id", terms_id, MAX_NAME_CHARACTERS)


@lru_cache(CACHED)
def _uuid(text: str) -> UUID:
    return UUID(text)


@lru_cache(CACHED)
def _period(seconds: str) -> datetime:
    start = _moment(int(seconds) * 10**6)
    if not EARLIEST <= start < LATEST:
        raise ValueError(f"{start} is not a time of this product")
    return start


@lru_cache(CACHED)
def _address(text: str) -> str:
    """An address as it is kept on a key, or nothing: a call counts whoever made it."""
    try:
        return str(ip_address(text)) if text else ""
    except ValueError:
        return ""
