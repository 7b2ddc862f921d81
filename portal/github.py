"""GitHub's signature on the reports of its secret scanning: ECDSA on P-256 with SHA-256.

Owns the fetching of GitHub's public keys (`GITHUB_META_URL`) and how long they are believed.
"""

import base64
import binascii
import json
import time
from http.client import HTTPException, HTTPResponse
from typing import Any, cast
from urllib.request import HTTPRedirectHandler, Request, build_opener

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from django.conf import settings
from django.core.cache import cache

CACHED = "github public keys"
BELIEVED_SECONDS = 3600
FETCHED_EVERY_SECONDS = 60  # at most, whatever key ids strangers name
TIMEOUT_SECONDS = 5
MOST_BYTES = 256 * 1024


class KeysUnavailable(Exception):
    """GitHub's public keys can't be fetched, or are none."""


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def is_signed(body: bytes, *, key_id: str, signature: str) -> bool:
    """Whether GitHub signed exactly this body. Raises `KeysUnavailable`.

    signature: base64 of DER
    """
    if not key_id or not signature:
        return False
    pem = _public_key(key_id)
    if pem is None:
        return False
    try:
        key = load_pem_public_key(pem.encode())
        if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
            return False
        key.verify(base64.b64decode(signature, validate=True), body, ECDSA(SHA256()))
    except (InvalidSignature, ValueError, binascii.Error):
        return False
    return True


def _public_key(key_id: str) -> str | None:
    """The key of this id as PEM. For an id that isn't known GitHub is asked once a minute."""
    keys: dict[str, str] = cache.get(CACHED) or {}
    if key_id not in keys:
        if cache.add(f"{CACHED}: asked", 1, FETCHED_EVERY_SECONDS) is not False:
            keys = _fetch()
            cache.set(CACHED, keys, BELIEVED_SECONDS)
        elif not keys:
            raise KeysUnavailable("GitHub was asked less than a minute ago")
    return keys.get(key_id)


def _fetch() -> dict[str, str]:
    request = Request(settings.GITHUB_META_URL, headers={"Accept": "application/json"})  # noqa: S310
    deadline = time.monotonic() + TIMEOUT_SECONDS
    try:
        opener = build_opener(_NoRedirects)
        with cast(HTTPResponse, opener.open(request, timeout=TIMEOUT_SECONDS)) as response:
            body = _read(response, deadline)
        listed = json.loads(body)["public_keys"]
        return {str(entry["key_identifier"]): str(entry["key"]) for entry in listed}
    except (OSError, HTTPException, ValueError, KeyError, TypeError, RecursionError) as error:
        raise KeysUnavailable(f"{type(error).__name__}: {error}") from error


def _read(response: HTTPResponse, deadline: float) -> bytes:
    """The body, unless it is too large or comes too slowly (`ValueError`)."""
    body = b""
    while part := response.read1(64 * 1024):
        body += part
        if len(body) > MOST_BYTES or time.monotonic() > deadline:
            raise ValueError("the answer is too large or too slow")
    return body
