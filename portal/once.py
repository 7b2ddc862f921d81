"""Forms that act once: a reload or a second click re-sends them and must not repeat the act.

A token is signed for one user and one act, and spent with Redis' atomic add; whoever sends
it again is told so, and while Redis is away nothing is spent. Keeps nothing else, and protects
nothing: CSRF tokens do that.
"""

from django.core import signing
from django.core.cache import cache
from django.http import HttpResponse
from django.shortcuts import render

from keys.identifiers import new_id
from portal.access import AccountRequest
from portal.models import User

MAX_AGE_SECONDS = 24 * 3600


class NotChecked(Exception):
    """Redis is away: nobody knows whether the token was spent."""


def draw(user: User, act: str) -> str:
    """A token for one submission of the form for `act`, good for a day."""
    return signing.dumps([user.pk, act, str(new_id())], salt=__name__)


def spend(token: str, user: User, act: str) -> bool:
    """Whether this is the first time that the token is sent, by its user, for its act.

    Raises `NotChecked`.
    """
    try:
        owner, purpose, serial = signing.loads(token, salt=__name__, max_age=MAX_AGE_SECONDS)
    except signing.BadSignature:
        return False
    if (owner, purpose) != (user.pk, act):
        return False
    added: bool | None = cache.add(f"once:{serial}", 1, timeout=MAX_AGE_SECONDS)
    if added is None:  # how the cache, whose errors are ignored, says that it has no answer
        raise NotChecked
    return added


def refusal(request: AccountRequest, act: str) -> HttpResponse | None:
    """Spends the form's token; the page that says why nothing is made, if nothing may be."""
    try:
        if spend(request.POST.get("once", ""), request.user, act):
            return None
    except NotChecked:
        return render(request, "keys/not_checked.html", {"nav": "keys"}, status=503)
    return render(request, "keys/already_sent.html", {"nav": "keys"})
