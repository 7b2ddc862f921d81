"""How often a browser may send a form: django-ratelimit, with a page for those who wait.

Never used for calls of the gateway, whose limits are exact and its own. With Redis away the
forms stay open (`RATELIMIT_FAIL_OPEN`): an accepted risk, sign-in must not depend on it.
"""

from collections.abc import Callable
from functools import wraps
from ipaddress import ip_address, ip_network
from typing import Concatenate, ParamSpec

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django_ratelimit.core import UNSAFE, get_usage

P = ParamSpec("P")
Key = Callable[[HttpRequest], str]
View = Callable[Concatenate[HttpRequest, P], HttpResponseBase]


def by_address(request: HttpRequest) -> str:
    """The client's network: an IPv4 address, or the /64 that an IPv6 client can roam in."""
    address = ip_address(request.META["REMOTE_ADDR"])
    return f"address={address if address.version == 4 else ip_network((address, 64), False)};"


def by_user(request: HttpRequest) -> str:
    return f"user={request.user.pk};"


def by_field(name: str) -> Key:
    """What was typed into a field, whoever typed it: many clients may try one address."""

    def key(request: HttpRequest) -> str:
        return f"field={request.POST.get(name, '').strip().lower()};"

    return key


def limited(group: str, *limits: tuple[Key, str]) -> Callable[[View[P]], View[P]]:
    """Lets at most so many forms through, counted by each key: `(by_address, "60/h")`.

    Counts POSTs only. Beyond a limit: 429 with `Retry-After` and a page that says how long.
    """

    def decorate(view: View[P]) -> View[P]:
        @wraps(view)
        def guarded(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
            waits = []
            for key, rate in limits:
                usage = get_usage(
                    request,
                    group=group,
                    key=lambda _group, asking, key=key: key(asking),
                    rate=rate,
                    method=UNSAFE,
                    increment=True,
                )
                if usage is not None and usage["should_limit"]:
                    waits.append(usage["time_left"])
            if waits:
                return too_many(request, max(1, *waits))
            return view(request, *args, **kwargs)

        return guarded

    return decorate


def too_many(request: HttpRequest, seconds: int) -> HttpResponse:
    """The 429 page (RFC 6585 §4): when it may be tried again, in words and in `Retry-After`."""
    minutes = -(-seconds // 60)
    context = {"wait": f"{seconds} seconds" if seconds < 90 else f"{minutes} minutes"}
    response = render(request, "429.html", context, status=429)
    response["Retry-After"] = str(seconds)
    return response
