"""Secrets at rest that must be read again (upstream headers, webhook secrets).

Encrypted and authenticated by Fernet under FIELD_KEY. API keys are never sealed: a digest
is enough for them (`keys.tokens`).
"""

from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings


class SealBroken(Exception):
    """The text was not sealed under this FIELD_KEY, or was changed."""


def seal(text: str) -> str:
    """The text encrypted, as printable ASCII; sealing twice gives two different results."""
    return Fernet(settings.FIELD_KEY).encrypt(text.encode()).decode("ascii")


def unseal(sealed: str) -> str:
    """The text that was sealed. Raises `SealBroken`."""
    try:
        return Fernet(settings.FIELD_KEY).decrypt(sealed.encode()).decode()
    except InvalidToken as error:
        raise SealBroken("not sealed under this FIELD_KEY") from error
