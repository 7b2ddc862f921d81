"""A change to a key as it is kept: the row under a new revision, its record, its line in the trail.

Decides nothing: who may change a key, and into what, is for the modules that call this.
"""

from collections.abc import Sequence
from datetime import datetime

import structlog
from django.contrib.auth.models import AbstractBaseUser

from keys import publish
from keys.models import ApiKey, KeyEvent, ServiceToken

log = structlog.get_logger(__name__)


def store(key: ApiKey, now: datetime, *fields: str) -> publish.Publication:
    """Saves the named fields of a locked row and publishes the key after commit."""
    key.revision += 1
    key.save(update_fields=[*fields, "revision"])
    return publish.on_commit(lambda: publish.key(key.pk, now))


def record(
    key: ApiKey,
    kind: KeyEvent.Kind,
    *,
    at: datetime,
    actor: AbstractBaseUser | None = None,
    address: str | None = None,
    token: ServiceToken | None = None,
    details: Sequence[str] = (),
    announced_at: datetime | None = None,
) -> None:
    """Writes who did what to the key; a mail tells of it unless it was told already.

    actor, token: the person or the program that acted; neither where the product did
    """
    key.events.create(
        kind=kind,
        actor_id=None if actor is None else actor.pk,
        address=address,
        service_token=token,
        details=list(details),
        at=at,
        announced_at=announced_at,
    )
    log.info(f"key.{kind}", key=str(key.pk), account=str(key.account_id))
