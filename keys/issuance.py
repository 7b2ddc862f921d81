"""The life of a key: issued or created, claimed, changed, rotated, revoked.

A secret is drawn here, returned once to whoever shows it, and kept as a digest only. Every
change locks its row, writes a `KeyEvent` and is published after commit, before the function
returns. Who may do what is portal's to decide; what a key may do, its account's entitlement's.
The portal's own key ("Try it") is no customer's: nothing here finds it by its id.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.db.models import Q, QuerySet

from keys import peppers, publish, restrictions, tokens, trail
from keys.models import ApiKey, ClaimLink, Entitlement, KeyEvent, ServiceToken

CLAIM_LINK_LIFETIME = timedelta(hours=24)


class Account(Protocol):
    """What this module needs of `portal.Account`."""

    @property
    def pk(self) -> UUID: ...
    @property
    def partition(self) -> int: ...


class NotEntitled(Exception):
    """The account has no subscription under which it could call the gateway."""


class KeyLimitReached(Exception):
    """The account has as many keys as its plan allows."""


class AlreadyClaimed(Exception):
    """The secret was shown before, or the key was revoked: there is nothing to show."""


class ClaimExpired(Exception):
    """The claim link was used, or its 24 hours are over."""


class KeyNotActive(Exception):
    """The key has expired, leaked or was revoked, or to be rotated it must be claimed first."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A key's new settings; not `confirmed` means that they are on their way."""

    key: ApiKey
    confirmed: bool


@dataclass(frozen=True, slots=True)
class Revoked:
    """A revocation; not `confirmed` means that it is on its way and beat completes it."""

    key: ApiKey
    confirmed: bool


def keys_of(account: Account) -> QuerySet[ApiKey]:
    """The account's own keys, without the portal's: where every look-up by id starts."""
    return ApiKey.objects.filter(account_id=account.pk).exclude(origin=ApiKey.Origin.CONSOLE)


def to_be_rotated(keys: QuerySet[ApiKey]) -> QuerySet[ApiKey]:
    """Those of the customers' keys that stop when the older pepper is accepted no more.

    The portal's own keys don't: their records are found by the digest that the row has.
    """
    found = keys.filter(peppers.older(), state=ApiKey.State.ACTIVE)
    return found.exclude(origin=ApiKey.Origin.CONSOLE)


def issue_first(account: Account, now: datetime) -> ApiKey:
    """The account's first live key, unclaimed; the same one however often it is asked for."""
    with transaction.atomic():
        key, is_new = ApiKey.objects.get_or_create(
            account_id=account.pk,
            origin=ApiKey.Origin.FIRST,
            defaults={
                "name": "First key",
                "mode": ApiKey.Mode.LIVE,
                "partition": account.partition,
                "created_at": now,
            },
        )
        if is_new:
            trail.record(key, KeyEvent.Kind.ISSUED, at=now)
    return key


def console_key(account: Account, now: datetime) -> ApiKey:
    """The test key with which the portal calls for a signed-in member.

    Nobody ever sees its secret: only the digest is kept, and its record is found by that. It
    belongs to the house, so it has no history and doesn't count as one of the account's keys.
    """
    token = tokens.draw("test", account.partition)
    with transaction.atomic():
        key, is_new = ApiKey.objects.get_or_create(
            account_id=account.pk,
            origin=ApiKey.Origin.CONSOLE,
            defaults={
                "name": "Try it",
                "mode": ApiKey.Mode.TEST,
                "state": ApiKey.State.ACTIVE,
                "partition": account.partition,
                "digest": tokens.digest(token.text),
                "pepper_id": peppers.current_id(),
                "created_at": now,
            },
        )
        if is_new:
            publish.on_commit(lambda: publish.key(key.pk, now))
    return key


def create(
    account: Account,
    *,
    name: str,
    mode: tokens.Mode,
    actor: AbstractBaseUser | None,
    address: str | None,
    token: ServiceToken | None = None,
    now: datetime,
    settings: Mapping[str, Any] | None = None,
) -> tuple[ApiKey, str]:
    """A new active key and its secret. Raises `NotEntitled`, `KeyLimitReached`.

    settings: as `restrictions.checked` gives them
    """
    with transaction.atomic():
        _check_key_limit(account, now)
        fields = {"name": name, **(settings or {})}
        key, secret = _new_active(account, mode, ApiKey.Origin.CREATED, actor, now, **fields)
        trail.record(key, KeyEvent.Kind.CREATED, at=now, actor=actor, address=address, token=token)
    return key, secret


def claim(
    key_id: UUID,
    account: Account,
    *,
    actor: AbstractBaseUser | None,
    address: str | None,
    now: datetime,
) -> str:
    """Draws the secret of an unclaimed key and returns it: the only time that it is seen.

    Raises `ApiKey.DoesNotExist` for a key of another account, `AlreadyClaimed`.
    """
    with transaction.atomic():
        key = keys_of(account).select_for_update().get(pk=key_id)
        return _claim(key, actor, address, now)


def claim_link(key: ApiKey, now: datetime) -> str:
    """A new one-time token that claims the key within 24 hours; only its digest is kept."""
    token = secrets.token_urlsafe(32)
    ClaimLink.objects.create(
        key=key,
        digest=tokens.digest(token),
        created_at=now,
        expires_at=now + CLAIM_LINK_LIFETIME,
    )
    return token


def key_of_link(token: str, now: datetime) -> ApiKey | None:
    """The key that the link would claim now, if it still would. Changes nothing."""
    return ApiKey.objects.filter(
        claim_links__digest__in=tokens.digests(token),
        claim_links__used_at=None,
        claim_links__expires_at__gt=now,
        state=ApiKey.State.UNCLAIMED,
    ).first()


def claim_by_link(token: str, *, address: str | None, now: datetime) -> tuple[ApiKey, str]:
    """Claims the link's key: the key and its secret, seen this one time.

    Raises `ClaimLink.DoesNotExist` for a token never mailed, `ClaimExpired`, `AlreadyClaimed`.
    """
    with transaction.atomic():
        link = ClaimLink.objects.select_for_update().get(digest__in=tokens.digests(token))
        if link.used_at is not None or link.expires_at <= now:
            raise ClaimExpired
        key = ApiKey.objects.select_for_update().get(pk=link.key_id)
        secret = _claim(key, None, address, now)
        link.used_at = now
        link.save(update_fields=["used_at"])
    return key, secret


def change(
    key_id: UUID,
    account: Account,
    settings: Mapping[str, Any],
    *,
    actor: AbstractBaseUser | None,
    address: str | None,
    token: ServiceToken | None = None,
    now: datetime,
) -> Changed:
    """Gives a key that still lives its new settings, as `restrictions.checked` gives them.

    What is the same already changes nothing, and tries again to confirm. Raises
    `ApiKey.DoesNotExist` for a key of another account, `KeyNotActive`.
    """
    with transaction.atomic():
        key = keys_of(account).select_for_update().get(pk=key_id)
        if key.state == ApiKey.State.REVOKED or key.leaked_at or _is_over(key, now):
            raise KeyNotActive
        before = {"Name": key.name, **restrictions.in_words(key)}
        for name, value in settings.items():
            setattr(key, name, value)
        details = restrictions.changes(before, {"Name": key.name, **restrictions.in_words(key)})
        if details:
            publication = trail.store(key, now, *settings)
            trail.record(
                key,
                KeyEvent.Kind.CHANGED,
                at=now,
                actor=actor,
                address=address,
                token=token,
                details=details,
            )
        else:
            publication = publish.on_commit(lambda: publish.key(key.pk, now))
    return Changed(key, publication.confirmed)


def rotate(
    key_id: UUID,
    account: Account,
    *,
    overlap: timedelta,
    actor: AbstractBaseUser | None,
    address: str | None,
    token: ServiceToken | None = None,
    now: datetime,
) -> tuple[ApiKey, str]:
    """Puts a new key in the place of an active one: the new key and its secret.

    The old key works for `overlap` longer under the name "… (old)"; with no overlap it is
    revoked at once (`old.is_published` says when that holds). The new key has the old one's
    restrictions, and its end unless that is another overlap's. The event is the old key's; the
    new one is its only successor. A full account may rotate.

    Raises `ApiKey.DoesNotExist` for a key of another account, `KeyNotActive`.
    """
    with transaction.atomic():
        old = keys_of(account).select_for_update().get(pk=key_id)
        if old.state != ApiKey.State.ACTIVE or old.leaked_at or _is_over(old, now):
            raise KeyNotActive
        mode: tokens.Mode = "live" if old.mode == ApiKey.Mode.LIVE else "test"
        inherited = {name: getattr(old, name) for name in ("name", *restrictions.FIELDS)}
        if not old.successors.exists():
            inherited["expires_at"] = old.expires_at
        key, secret = _new_active(
            account, mode, ApiKey.Origin.ROTATED, actor, now, replaces=old, **inherited
        )
        old.name = f"{old.name[: restrictions.NAME_CHARACTERS - 6]} (old)"
        if overlap > timedelta(0):
            old.expires_at = min(now + overlap, old.expires_at or now + overlap)
        else:
            old.state, old.revoked_at = ApiKey.State.REVOKED, now
        trail.store(old, now, "name", "state", "expires_at", "revoked_at")
        trail.record(old, KeyEvent.Kind.ROTATED, at=now, actor=actor, address=address, token=token)
    return key, secret


def revoke(
    key_id: UUID,
    account: Account,
    *,
    actor: AbstractBaseUser | None,
    address: str | None,
    token: ServiceToken | None = None,
    now: datetime,
) -> Revoked:
    """Ends a key for good. Asked again, it changes nothing but tries again to confirm.

    Raises `ApiKey.DoesNotExist` for a key of another account.
    """
    with transaction.atomic():
        key = keys_of(account).select_for_update().get(pk=key_id)
        if key.state == ApiKey.State.REVOKED:
            publication = publish.on_commit(lambda: publish.key(key.pk, now))
        else:
            key.state, key.revoked_at = ApiKey.State.REVOKED, now
            publication = trail.store(key, now, "state", "revoked_at")
            trail.record(
                key, KeyEvent.Kind.REVOKED, at=now, actor=actor, address=address, token=token
            )
    return Revoked(key, publication.confirmed)


def _is_over(key: ApiKey, now: datetime) -> bool:
    return key.expires_at is not None and key.expires_at <= now


def _check_key_limit(account: Account, now: datetime) -> None:
    """Holds the entitlement's row, so that two creations at once can't both be the last.

    A leaked key doesn't count: its successor has its place.
    """
    entitlement = Entitlement.objects.select_for_update().filter(pk=account.pk).first()
    if (
        entitlement is None
        or entitlement.suspended
        or entitlement.state != Entitlement.State.ACTIVE
        or (entitlement.ends_at is not None and entitlement.ends_at <= now)
    ):
        raise NotEntitled
    gone = Q(state=ApiKey.State.REVOKED) | Q(expires_at__lte=now) | Q(leaked_at__isnull=False)
    alive = keys_of(account).exclude(gone)
    if alive.count() >= entitlement.terms["key_limit"]:
        raise KeyLimitReached


def _new_active(
    account: Account,
    mode: tokens.Mode,
    origin: ApiKey.Origin,
    actor: AbstractBaseUser | None,
    now: datetime,
    **fields: Any,
) -> tuple[ApiKey, str]:
    token = tokens.draw(mode, account.partition)
    key = ApiKey.objects.create(
        account_id=account.pk,
        mode=mode,
        state=ApiKey.State.ACTIVE,
        origin=origin,
        partition=token.partition,
        digest=tokens.digest(token.text),
        pepper_id=peppers.current_id(),
        last_four=token.last_four,
        created_by_id=None if actor is None else actor.pk,
        created_at=now,
        claimed_at=now,
        **fields,
    )
    publish.on_commit(lambda: publish.key(key.pk, now))
    return key, token.text


def _claim(key: ApiKey, actor: AbstractBaseUser | None, address: str | None, now: datetime) -> str:
    if key.state != ApiKey.State.UNCLAIMED:
        raise AlreadyClaimed
    mode: tokens.Mode = "live" if key.mode == ApiKey.Mode.LIVE else "test"
    token = tokens.draw(mode, key.partition)
    key.state, key.claimed_at = ApiKey.State.ACTIVE, now
    key.digest, key.last_four = tokens.digest(token.text), token.last_four
    key.pepper_id = peppers.current_id()
    trail.store(key, now, "state", "claimed_at", "digest", "pepper_id", "last_four")
    trail.record(key, KeyEvent.Kind.CLAIMED, at=now, actor=actor, address=address)
    return token.text
