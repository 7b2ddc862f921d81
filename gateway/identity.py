"""Who calls, told to a backend so that it can check it: one signed token per call.

Owns the secrets that an API signs with and the token: a JSON Web Token (RFC 7519), HS256 (RFC 7515,
RFC 7518 §3.2), in the field `Keystile-Identity`. Reads no database; `gateway.catalogue` puts the
secrets into their row. What a backend does with a token is in docs/backend.md.
"""

from __future__ import annotations

import hmac
import json
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from django.conf import settings

from keys import sealed

LIFETIME_SECONDS = 60
SECRET_BYTES = 32  # as many as the digest has (RFC 7518 §3.2)


class Secret(NamedTuple):
    """A secret and its name, `kid`. The key of the signature is the text itself, in ASCII."""

    kid: str
    text: str


class Caller(Protocol):
    """Of an admitted call (`gateway.admit.Admission`), what its token says."""

    @property
    def event_id(self) -> str: ...
    @property
    def account(self) -> bytes: ...
    @property
    def key(self) -> bytes: ...
    @property
    def plan(self) -> bytes: ...
    @property
    def mode(self) -> bytes: ...


def draw() -> Secret:
    """A new secret."""
    return Secret(secrets.token_hex(4), secrets.token_urlsafe(SECRET_BYTES))


def seal(held: Sequence[Secret]) -> str:
    """Secrets as `Api.identity_sealed` keeps them: the first signs, a second one is to follow."""
    return sealed.seal(json.dumps(held)) if held else ""


def unseal(text: str) -> list[Secret]:
    """The secrets that were sealed. Raises `keys.sealed.SealBroken`."""
    return [Secret(*pair) for pair in json.loads(sealed.unseal(text))] if text else []


class Signer:
    """Makes the tokens of one API's calls."""

    def __init__(self, secret: Secret):
        self._key = secret.text.encode()
        header = {"alg": "HS256", "typ": "JWT", "kid": secret.kid}
        self._head = _base64url(_json(header))

    def token(self, method: str, target: bytes, caller: Caller, now_s: int) -> bytes:
        """The call's token.

        target: the URI that the backend is asked for, without its query
        """
        claims: dict[str, str | int] = {
            "iss": settings.SITE_URL,
            "sub": caller.account.decode(),
            "key": caller.key.decode(),
            "plan": caller.plan.decode(),
            "mode": caller.mode.decode(),
            "jti": caller.event_id,
            "iat": now_s,
            "exp": now_s + LIFETIME_SECONDS,
            # Named and meant as in RFC 9449 §4.2.
            "htm": method,
            "htu": target.decode("latin-1"),
        }
        signed = self._head + b"." + _base64url(_json(claims))
        return signed + b"." + _base64url(hmac.digest(self._key, signed, "sha256"))


def _json(value: Mapping[str, str | int]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _base64url(data: bytes) -> bytes:
    """Without padding (RFC 7515 §2)."""
    return urlsafe_b64encode(data).rstrip(b"=")
