"""The pepper under which secrets are digested, and the one before it while keys move over.

A pepper is known by its id, which tells nothing of it: so each row says which one it needs. Rows
without an id are from before peppers were told apart, and need the older one if there are two.
"""

import hmac

from django.conf import settings
from django.db.models import Q

ID_CHARACTERS = 8


def accepted() -> tuple[str, ...]:
    """The current pepper first, then the one before it, if one is still accepted."""
    current, previous = settings.KEY_PEPPER, settings.KEY_PEPPER_PREVIOUS
    return (current, previous) if previous and previous != current else (current,)


def digest(pepper: str, text: str) -> str:
    """HMAC-SHA256, 64 hex digits."""
    return hmac.digest(pepper.encode(), text.encode(), "sha256").hex()


def current_id() -> str:
    """Names the current pepper: 8 hex digits, the same as long as the pepper is."""
    return digest(settings.KEY_PEPPER, "the id of this pepper")[:ID_CHARACTERS]


def is_older(pepper_id: str) -> bool:
    """Whether the row with this id needs a pepper from before the current one."""
    if not pepper_id:
        return len(accepted()) > 1
    return pepper_id != current_id()


def older() -> Q:
    """The rows for which `is_older`."""
    known = [current_id()] if len(accepted()) > 1 else [current_id(), ""]
    return ~Q(pepper_id__in=known)
