"""The text of an API key: drawing it, recognising it, and the digest that stands for it.

`ks_live_` + partition (2 digits) + 40 base62 characters from a CSPRNG + 6 base62 characters of
CRC-32 over everything before them. The checksum refuses typing errors before any I/O; it
proves nothing. Touches no database and keeps no text.
"""

import re
import secrets
import string
from binascii import crc32
from dataclasses import dataclass, field
from typing import Literal

from django.conf import settings

from keys import peppers

Mode = Literal["live", "test"]

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
RANDOM_CHARACTERS = 40
CHECKSUM_CHARACTERS = 6
_SHAPE = re.compile(r"ks_(live|test)_([0-9]{2})[0-9A-Za-z]{46}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Token:
    """A well-formed key. `text` is the secret: it is left out of the representation."""

    mode: Mode
    partition: int
    text: str = field(repr=False)

    @property
    def last_four(self) -> str:
        return self.text[-4:]


def draw(mode: Mode, partition: int) -> Token:
    """A new key (238 random bits) for a partition from 0 to 99."""
    if not 0 <= partition <= 99:
        raise ValueError(f"partition {partition} is not between 0 and 99")
    body = f"ks_{mode}_{partition:02d}{random_characters()}"
    return Token(mode, partition, body + checksum(body))


def parse(text: str) -> Token | None:
    """The key that `text` spells, or None if it can't be one. Says nothing about existence."""
    shape = _SHAPE.fullmatch(text)
    if shape is None or not has_checksum(text):
        return None
    mode: Mode = "live" if shape[1] == "live" else "test"
    return Token(mode, int(shape[2]), text)


def digest(text: str) -> str:
    """HMAC-SHA256 of a secret under the pepper, 64 hex digits: all that is ever stored of it."""
    return peppers.digest(settings.KEY_PEPPER, text)


def digests(text: str) -> tuple[str, ...]:
    """What may stand for the text: its digest under the current pepper, then the one before."""
    return tuple(peppers.digest(pepper, text) for pepper in peppers.accepted())


def random_characters() -> str:
    """The secret part of a text: 40 base62 characters, 238 random bits."""
    return "".join(secrets.choice(BASE62) for _ in range(RANDOM_CHARACTERS))


def has_checksum(text: str) -> bool:
    """Whether the last six characters fit those before them."""
    return checksum(text[:-CHECKSUM_CHARACTERS]) == text[-CHECKSUM_CHARACTERS:]


def checksum(body: str) -> str:
    """CRC-32 of a text, six base62 characters."""
    rest = crc32(body.encode())
    characters = []
    for _ in range(CHECKSUM_CHARACTERS):
        rest, digit = divmod(rest, 62)
        characters.append(BASE62[digit])
    return "".join(reversed(characters))
