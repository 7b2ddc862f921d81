"""Who is asking, and for which account: the door of every signed-in page.

A view behind `member` finds `request.account` and starts every queryset from it, so that
another account's row is not forbidden but not there: 404. Owns no row, and of the pages only
the switch to another account.
"""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, cast

from django.contrib.auth.views import redirect_to_login
from django.contrib.sessions.backends.base import SessionBase
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, resolve_url
from django.utils.cache import add_never_cache_headers
from django.views.decorators.http import require_POST
from django_htmx.http import HttpResponseClientRefresh
from django_htmx.middleware import HtmxDetails

from keys.models import Entitlement
from portal.models import Account, Membership, User
from portal.roles import REFUSAL, Capability, may

P = ParamSpec("P")

# In the session: the id of the account that was switched to.
_CHOSEN = "account"


class AccountRequest(HttpRequest):
    """A request that passed `member`: somebody signed in, acting for one account."""

    user: User
    account: Account
    membership: Membership
    memberships: list[Membership]
    htmx: HtmxDetails


def memberships_of(user: User) -> list[Membership]:
    """With their accounts, the oldest first."""
    found = user.memberships.select_related("account__entitlement")
    return list(found.order_by("created_at", "id"))


def current(memberships: list[Membership], session: SessionBase) -> Membership | None:
    """The membership of the account switched to, else the oldest one."""
    oldest = memberships[0] if memberships else None
    return _of_account(memberships, session.get(_CHOSEN)) or oldest


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

    Who isn't signed in goes to the page named `strangers_go_to` and comes back, staff without an
    account go to the admin; a member whose role doesn't suffice gets a 403 page with a sentence
    (`roles.REFUSAL`).
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
            memberships = memberships_of(request.user)
            membership = current(memberships, request.session)
            if membership is None and request.user.is_staff:
                return redirect("admin:index")
            if membership is None:
                raise PermissionDenied("Nobody has made you a member of an account yet.")
            if not may(membership.role, capability):
                raise PermissionDenied(REFUSAL[capability])
            asked.membership, asked.account = membership, membership.account
            asked.memberships = memberships
            response = view(asked, *args, **kwargs)
            add_never_cache_headers(response)
            return response

        return guarded

    return decorate


@require_POST
@member()
def switch_account(request: AccountRequest) -> HttpResponse:
    """Acts for another account of the same person from now on, beginning at its overview."""
    chosen = _of_account(request.memberships, request.POST.get("account"))
    if chosen is None:
        raise Http404
    request.session[_CHOSEN] = str(chosen.account_id)
    return redirect("overview")


def _of_account(memberships: list[Membership], account_id: str | None) -> Membership | None:
    return next((held for held in memberships if str(held.account_id) == account_id), None)
