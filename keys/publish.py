"""Carries keys, service tokens and entitlements from Postgres to the data plane's records in Redis.

Always after commit, never inside a transaction. A record carries its row's revision and
never goes back to an older one; `published_revision` says which one has arrived, and beat
publishes what lags. Decides nothing about what a key or an account may do.
"""

import json
from bisect import bisect_right
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import chain
from math import ceil
from typing import Any
from uuid import UUID

import redis
import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import F, Q

from keys import records
from keys.models import ApiKey, ClockShift, Entitlement, ServiceToken

log = structlog.get_logger(__name__)

# How long a dead key is answered with `revoked_key` or `expired_key`; then it is unknown.
REMEMBERED = timedelta(days=395)
CHUNK = 1000
# Service tokens have no partition in their text: all of them are in the first.
TOKENS_PARTITION = records.PARTITIONS[0]


class Publication:
    """A record on its way to the data plane. `confirmed` once it was read back from there."""

    confirmed = False


def on_commit(publish: Callable[[], bool]) -> Publication:
    """Runs `publish` when the current transaction commits; a Redis that is away is logged.

    Inside an outer transaction the publication is still unconfirmed when this returns.
    """
    publication = Publication()

    def run() -> None:
        try:
            publication.confirmed = publish()
        except redis.RedisError as error:
            log.warning("publish.delayed", reason=str(error))

    transaction.on_commit(run)
    return publication


def arrives(record: records.Record) -> bool:
    """Publishes a record; True once the data plane holds it. Raises `RedisError`."""
    records.publish_record(record)
    return records.is_held(record)


def key(key_id: UUID, now: datetime) -> bool:
    """Publishes a key as it is now; True once the data plane holds it. Raises RedisError."""
    row = ApiKey.objects.get(pk=key_id)
    if row.digest is not None and not arrives(_key_record(row, row.digest, now)):
        return False
    ApiKey.objects.filter(pk=row.pk, revision=row.revision).update(published_revision=row.revision)
    return True


def entitlement(account_id: UUID, now: datetime) -> bool:
    """Publishes what an account may do; True once the data plane holds it. Raises RedisError."""
    row = Entitlement.objects.select_related("account").get(pk=account_id)
    if not arrives(_account_record(row, now)):
        return False
    Entitlement.objects.filter(pk=row.pk, revision=row.revision).update(
        published_revision=row.revision
    )
    return True


def service_token(token_id: UUID, now: datetime) -> bool:
    """Publishes a token as it is now; True once the data plane holds it. Raises RedisError."""
    row = ServiceToken.objects.get(pk=token_id)
    if not arrives(_token_record(row, now)):
        return False
    ServiceToken.objects.filter(pk=row.pk, revision=row.revision).update(
        published_revision=row.revision
    )
    return True


def clock_shift() -> bool:
    """Tells the data plane how far the time was moved ahead; True. Raises RedisError.

    Where it can't be moved, or no longer, the data plane's is the real one again.
    """
    seconds = _shift_seconds()
    for partition in records.PARTITIONS:
        records.publish_shift(partition, seconds, back=not settings.CLOCK_CAN_MOVE)
    return True


def _shift_seconds() -> int:
    if not settings.CLOCK_CAN_MOVE:
        return 0
    row = ClockShift.objects.filter(pk=ClockShift.ONLY).first()
    return row.seconds if row else 0


def lagging(now: datetime) -> int:
    """Publishes rows whose newest revision has not arrived; how many. Raises RedisError."""
    behind = Q(published_revision__lt=F("revision"))
    account_ids = list(Entitlement.objects.filter(behind).values_list("pk", flat=True)[:CHUNK])
    key_ids = list(ApiKey.objects.filter(behind).values_list("pk", flat=True)[:CHUNK])
    token_ids = list(ServiceToken.objects.filter(behind).values_list("pk", flat=True)[:CHUNK])
    for account_id in account_ids:
        entitlement(account_id, now)
    for key_id in key_ids:
        key(key_id, now)
    for token_id in token_ids:
        service_token(token_id, now)
    return len(account_ids) + len(key_ids) + len(token_ids)


def everything(partition: int, now: datetime) -> int:
    """Publishes all records of a partition, for a Redis that came back empty; how many.

    Keys and tokens that died long ago are left out. Raises RedisError.
    """
    forgotten = Q(revoked_at__lt=now - REMEMBERED) | Q(expires_at__lt=now - REMEMBERED)
    accounts = Entitlement.objects.filter(account__partition=partition).select_related("account")
    keys = ApiKey.objects.filter(partition=partition).exclude(forgotten)
    tokens = ServiceToken.objects.exclude(forgotten)
    if partition != TOKENS_PARTITION:
        tokens = tokens.none()
    every_record = chain(
        (_account_record(row, now) for row in accounts.iterator(CHUNK)),
        (_key_record(row, row.digest, now) for row in keys.iterator(CHUNK) if row.digest),
        (_token_record(row, now) for row in tokens.iterator(CHUNK)),
    )
    pipeline = records.connection().pipeline(transaction=False)
    count = 0
    for count, record in enumerate(every_record, start=1):
        records.publish_record(record, to=pipeline)
        if count % CHUNK == 0:
            pipeline.execute()
    pipeline.execute()
    return count


def _key_record(row: ApiKey, digest: str, now: datetime) -> records.Record:
    revoked = row.state == ApiKey.State.REVOKED
    lifetime = _lifetime(revoked, row.expires_at, now)
    restrictions = _restrictions(row)
    own = restrictions or row.rate_per_second is not None or row.monthly_quota is not None
    fields: dict[str, str | int] = {
        "id": str(row.pk),
        "account": str(row.account_id),
        "mode": row.mode,
        "state": "revoked" if revoked else "active",
        "expires_ms": _epoch_ms(row.expires_at),
        "own": 1 if own else "",
        "restrictions": restrictions,
        "rate": "",
        "burst": "",
        "quota": "" if row.monthly_quota is None else row.monthly_quota,
    }
    if row.rate_per_second is not None:
        fields["rate"] = str(row.rate_per_second)
        fields["burst"] = row.burst or max(ceil(row.rate_per_second), 1)
    name = records.key_name(row.partition, digest)
    return records.Record(name, row.revision, fields, lifetime)


def _restrictions(row: ApiKey) -> str:
    """What `gateway.restrictions` reads; "" where the key has none."""
    given = {
        "networks": row.allowed_networks,
        "referrers": row.allowed_referrers,
        "operations": row.allowed_operations,
        "read_only": row.read_only,
    }
    named = {name: value for name, value in given.items() if value}
    return json.dumps(named, separators=(",", ":")) if named else ""


def _token_record(row: ServiceToken, now: datetime) -> records.Record:
    revoked = row.revoked_at is not None
    fields: dict[str, str | int] = {
        "id": str(row.pk),
        "account": "" if row.account_id is None else str(row.account_id),
        "state": "revoked" if revoked else "active",
        "scopes": ",".join(row.scopes),
        "expires_ms": _epoch_ms(row.expires_at),
    }
    lifetime = _lifetime(revoked, row.expires_at, now)
    name = records.token_name(TOKENS_PARTITION, row.digest)
    return records.Record(name, row.revision, fields, lifetime)


def _lifetime(revoked: bool, expires_at: datetime | None, now: datetime) -> timedelta | None:
    """How long a record stays; None for as long as its row lives."""
    if revoked:
        return REMEMBERED
    return None if expires_at is None else max(expires_at - now, timedelta(0)) + REMEMBERED


def _account_record(row: Entitlement, now: datetime) -> records.Record:
    periods = row.periods[max(bisect_right(row.periods, now.timestamp()) - 1, 0) :]
    fields: dict[str, str | int] = {
        "state": row.state,
        "suspended": int(row.suspended),
        "plan": row.plan_name,
        "terms": row.terms_id,
        "rate": row.terms.get("rate_per_second", ""),
        "burst": row.terms.get("burst", ""),
        "ends_ms": _epoch_ms(row.ends_at),
        "periods": ",".join(str(boundary) for boundary in periods),
        "test_quota": row.terms.get("test_quota_per_day", ""),
    }
    if scopes := row.terms.get("scopes"):
        fields["scopes"] = f",{','.join(scopes)},"
    for meter, terms in row.terms.get("meters", {}).items():
        fields[f"included:{meter}"] = terms["included"]
        fields[f"limit:{meter}"] = "" if terms["limit"] is None else terms["limit"]
    fields |= _more(row.terms)
    name = records.account_name(row.account.partition, row.pk)
    return records.Record(name, row.revision, fields)


def _more(terms: dict[str, Any]) -> dict[str, str | int]:
    """What few accounts have; `more` says whether there is any of it to read."""
    unit_prices = {
        meter: given["credits_per_unit"]
        for meter, given in terms.get("meters", {}).items()
        if given["past"] == "credits"
    }
    apis, cap = terms.get("apis"), terms.get("spend_cap")
    grants = (
        f"{grant['id']}:{grant['amount']}:{grant['expires_at'] or ''}"
        for grant in terms.get("grants", ())
    )
    fields: dict[str, str | int] = {
        "apis": "" if apis is None else f",{','.join(apis)},",
        "concurrency": terms.get("concurrency") or "",
        "credits": json.dumps(unit_prices) if unit_prices else "",
        "grants": ";".join(grants) if unit_prices else "",
        "cap": cap["cap_minor"] if cap else "",
        "prices": json.dumps(cap) if cap else "",
    }
    needed = any(value != "" for value in fields.values())
    return {"more": 1, **fields} if needed else {"more": ""}


def _epoch_ms(moment: datetime | None) -> str | int:
    return "" if moment is None else int(moment.timestamp() * 1000)
