"""Who asks for a page, where proxies stand in front: the same rule as the gateway's.

Puts the client's address into REMOTE_ADDR, which limits, trails and logs read. Calls of the gateway
don't come by here.
"""

from collections.abc import Callable

from django.conf import settings
from django.core.exceptions import MiddlewareNotUsed
from django.http import HttpRequest, HttpResponseBase

from gateway.intake import client_behind

Answer = Callable[[HttpRequest], HttpResponseBase]


def client_address(answer: Answer) -> Answer:
    """Middleware. Not used without TRUSTED_PROXIES: then X-Forwarded-For means nothing."""
    proxies: int = settings.TRUSTED_PROXIES
    if not proxies:
        raise MiddlewareNotUsed

    def from_client(request: HttpRequest) -> HttpResponseBase:
        peer = request.META.get("REMOTE_ADDR", "").encode()
        named = request.META.get("HTTP_X_FORWARDED_FOR", "").encode("latin-1", "replace")
        request.META["REMOTE_ADDR"] = client_behind(proxies, peer, named).decode()
        return answer(request)

    return from_client
