"""Service tokens: drawn, recognised, made, found and revoked, for a leak too.

`kst_` + 40 base62 characters from a CSPRNG + 6 of CRC-32, as keys have (`keys.tokens`); never
taken for a key. The text is returned once to whoever shows it and kept as its digest only. Who
may make which token is portal's to decide, what a scope opens is for those who ask for it.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.db.models import Q

from keys import peppers, publish, tokens
from keys.issuance import Account, NotEntitled
from keys.models import Entitlement, ServiceToken, ServiceTokenEvent

log = structlog.get_logger(__name__)

Scope = ServiceToken.Scope
ACCOUNT_SCOPES = (Scope.KEYS_READ, Scope.KEYS_WRITE, Scope.USAGE_READ, Scope.INVOICES_READ)
SELLER_SCOPES = tuple(Scope)
MOST_PER_ACCOUNT = 20
USE_IS_WRITTEN_EVERY = timedelta(minutes=1)
_SHAPE = re.compile(r"kst_[0-9A-Za-z]{46}", re.ASCII)


class TokenLimitReached(Exception):
    """The account has as many living tokens as one may have."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """A revocation; not `confirmed` means that it is on its way and beat completes it."""

    token: ServiceToken
    confirmed: bool


def draw() -> str:
    """The text of a new token, 238 random bits."""
    body = f"kst_{tokens.random_characters()}"
    return body + tokens.checksum(body)


def is_well_formed(text: str) -> bool:
    """Whether the text can be a token. Says nothing about existence."""
    return _SHAPE.fullmatch(text) is not None and tokens.has_checksum(text)


def create(
    account: Account | None,
    *,
    name: str,
    scopes: Collection[str],
    expires_at: datetime | None,
    actor: AbstractBaseUser | None,
    address: str | None,
    now: datetime,
) -> tuple[ServiceToken, str]:
    """A new token, of the account or the seller's (None), and its text.

    Raises `NotEntitled` for an account that never had a plan, `TokenLimitReached`, and
    `ValueError` for scopes that are not its own to have.
    """
    allowed = SELLER_SCOPES if account is None else ACCOUNT_SCOPES
    if not scopes or not set(scopes) <= set(allowed):
        raise ValueError(f"a token can't have the scopes {sorted(scopes)}")
    with transaction.atomic():
        if account is not None:
            _check_limit(account, now)
        text = draw()
        token = ServiceToken.objects.create(
            account_id=None if account is None else account.pk,
            name=name,
            scopes=[scope.value for scope in allowed if scope in scopes],
            digest=tokens.digest(text),
            pepper_id=peppers.current_id(),
            last_four=text[-4:],
            created_by_id=None if actor is None else actor.pk,
            created_at=now,
            expires_at=expires_at,
        )
        publish.on_commit(lambda: publish.service_token(token.pk, now))
        _record(token, ServiceTokenEvent.Kind.CREATED, actor, address, now)
    return token, text


def find(text: str, now: datetime) -> ServiceToken | None:
    """The living token that `text` spells, stamped as used; None for any other text.

    The stamp is a minute coarse: a busy program's token is written once a minute.
    """
    if not is_well_formed(text):
        return None
    # Looked up by a keyed digest: how long the look-up takes tells nothing of another's text.
    token = (
        ServiceToken.objects.select_related("account")
        .filter(digest__in=tokens.digests(text))
        .first()
    )
    if token is None or not token.is_alive(now):
        return None
    stale = Q(last_used_at=None) | Q(last_used_at__lt=now - USE_IS_WRITTEN_EVERY)
    ServiceToken.objects.filter(stale, pk=token.pk).update(last_used_at=now)
    return token


def revoke(
    token: ServiceToken,
    *,
    actor: AbstractBaseUser | None,
    address: str | None,
    now: datetime,
) -> Revoked:
    """Ends a token for good. Asked again, it changes nothing but tries again to confirm."""
    with transaction.atomic():
        token = ServiceToken.objects.select_for_update().get(pk=token.pk)
        if token.revoked_at is None:
            _end(token, now)
            _record(token, ServiceTokenEvent.Kind.REVOKED, actor, address, now)
        publication = publish.on_commit(lambda: publish.service_token(token.pk, now))
    return Revoked(token, publication.confirmed)


def revoke_leaked(text: str, details: Sequence[str], now: datetime) -> bool:
    """Ends the token that `text` spells, which a stranger has; False if there is no such token.

    A mail tells of it with the details. One that was revoked already stays as it is.
    """
    if not is_well_formed(text):
        return False
    with transaction.atomic():
        found = ServiceToken.objects.select_for_update(of=("self",))
        token = found.filter(digest__in=tokens.digests(text)).first()
        if token is None:
            return False
        if token.revoked_at is None:
            _end(token, now)
            _record(token, ServiceTokenEvent.Kind.LEAKED, None, None, now, details)
            publish.on_commit(lambda: publish.service_token(token.pk, now))
    return True


def _end(token: ServiceToken, now: datetime) -> None:
    token.revoked_at, token.revision = now, token.revision + 1
    token.save(update_fields=["revoked_at", "revision"])


def _check_limit(account: Account, now: datetime) -> None:
    """Holds the entitlement's row, so that two creations at once can't both be the last."""
    if not Entitlement.objects.select_for_update().filter(pk=account.pk).exists():
        raise NotEntitled
    unexpired = Q(expires_at=None) | Q(expires_at__gt=now)
    alive = ServiceToken.objects.filter(unexpired, account_id=account.pk, revoked_at=None)
    if alive.count() >= MOST_PER_ACCOUNT:
        raise TokenLimitReached


def _record(
    token: ServiceToken,
    kind: ServiceTokenEvent.Kind,
    actor: AbstractBaseUser | None,
    address: str | None,
    now: datetime,
    details: Sequence[str] = (),
) -> None:
    token.events.create(
        kind=kind,
        actor_id=None if actor is None else actor.pk,
        address=address,
        details=list(details),
        at=now,
    )
    log.info(f"service_token.{kind}", token=str(token.pk), account=str(token.account_id or ""))
