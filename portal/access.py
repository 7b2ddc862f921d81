"""Who is asking, and for which account: the door of every signed-in page.

A view behind `member` finds `request.account` and starts every queryset from it, so that
another account's row is not forbidden but not there: 404. Owns no page and no row.
"""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, cast

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import resolve_url
from django.utils.cache import add_never_cache_headers
from django_htmx.http import HttpResponseClientRefresh
from django_htmx.middleware import HtmxDetails

from keys.models import Entitlement
from portal.models import Account, Membership, User
from portal.roles import REFUSAL, Capability, may

P = ParamSpec("P")

SESSION_KEY = "account"


class AccountRequest(HttpRequest):
    """A request that passed `member`: somebody signed in, acting for one account."""

    user: User
    account: Account
    membership: Membership
    htmx: HtmxDetails


def current_membership(user: User, chosen: str | None) -> Membership | None:
    """The membership of the account chosen in the session, else the user's first one."""
    found = user.memberships.select_related("account__entitlement").order_by("created_at", "id")
    memberships = list(found)
    for membership in memberships:
        if str(membership.account_id) == chosen:
            return membership
    return memberships[0] if memberships else None


def entitlement_of(account: Account) -> Entitlement | None:
    """What the account may do; None before its first plan."""
    entitlement: Entitlement | None = getattr(account, "entitlement", None)
    return entitlement


def member(
    capability: Capability = Capability.READ, *, strangers_go_to: str = "account_login"
) -> Callable[
    [Callable[Concatenate[AccountRequest, P], HttpResponseBase]],
    Callable[Concatenate[HttpRequest, P], HttpResponseBase],
]:
    """Lets members with `capability` in; nothing behind it is ever stored by a browser.

    Who isn't signed in goes to the page named `strangers_go_to` and comes back; a member
    whose role doesn't suffice gets a 403 page with a sentence (`roles.REFUSAL`).
    """

    def decorate(
        view: Callable[Concatenate[AccountRequest, P], HttpResponseBase],
    ) -> Callable[Concatenate[HttpRequest, P], HttpResponseBase]:
        @wraps(view)
        def guarded(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
            asked = cast(AccountRequest, request)
            if not request.user.is_authenticated:
                if asked.htmx:  # a part of a page whose session is over: reload the page
                    return HttpResponseClientRefresh()
                return redirect_to_login(
                    request.get_full_path(), login_url=resolve_url(strangers_go_to)
                )
            membership = current_membership(request.user, request.session.get(SESSION_KEY))
            if membership is None:
                raise PermissionDenied("Nobody has made you a member of an account yet.")
            if not may(membership.role, capability):
                raise PermissionDenied(REFUSAL[capability])
            asked.membership, asked.account = membership, membership.account
            response = view(asked, *args, **kwargs)
            add_never_cache_headers(response)
            return response

        return guarded

    return decorate
