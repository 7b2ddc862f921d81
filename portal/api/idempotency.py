"""`Idempotency-Key`: a request that makes a key makes it once, however often it is sent.

The row is written in the transaction that makes the key: of two at once the second waits for
the first. A request that failed leaves no row and may be sent again. A row is kept for a day:
whoever repeats a request does so within minutes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

from keys.models import ApiKey, KeyRequest
from portal.api.problems import Problem
from portal.models import Account

HEADER = "Idempotency-Key"
MOST_CHARACTERS = 255
KEPT = timedelta(days=1)


class Making:
    """What is being made: told the key, once it is there."""

    key: ApiKey | None = None


@contextmanager
def once(request: Request, account: Account, now: datetime) -> Iterator[Making]:
    """Around the making of one key, in one transaction.

    Raises `Problem` already_made or idempotency_key_reused, and `ValidationError` for a header
    that is none.
    """
    making = Making()
    with transaction.atomic():
        row = _claimed(request, account, now)
        yield making
        if row is not None:
            row.key = making.key
            row.save(update_fields=["key"])


def forget(now: datetime) -> int:
    """Deletes what is older than `KEPT`; how many rows."""
    count, _ = KeyRequest.objects.filter(created_at__lt=now - KEPT).delete()
    return count


def _claimed(request: Request, account: Account, now: datetime) -> KeyRequest | None:
    given = request.headers.get(HEADER)
    if given is None:
        return None
    if not (given.isascii() and given.isprintable() and 0 < len(given) <= MOST_CHARACTERS):
        sentence = f"It has 1 to {MOST_CHARACTERS} printable ASCII characters."
        raise ValidationError({HEADER: [sentence]})
    fingerprint = _fingerprint(request)
    row, is_new = KeyRequest.objects.get_or_create(
        account=account,
        idempotency_key=given,
        defaults={"fingerprint": fingerprint, "created_at": now},
    )
    if is_new:
        return row
    if row.fingerprint != fingerprint:
        raise Problem("idempotency_key_reused")
    raise Problem(
        "already_made",
        f"This Idempotency-Key made the key {row.key_id}. Its secret was in the first answer and "
        "can't be shown again. If that answer was lost, rotate the key.",
        key=str(row.key_id),
    )


def _fingerprint(request: Request) -> str:
    asked: Any = [request.method, request.path, request.data]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
