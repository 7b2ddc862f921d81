"""“Try it” in the docs: the gateway's own view, for the account that a member acts for."""

from django.core.exceptions import PermissionDenied
from rest_framework.request import Request

from gateway.console import TryItView
from portal.access import current, memberships_of
from portal.models import Account, User
from portal.roles import REFUSAL, Capability, may


class TryIt(TryItView):
    """Needs the same role as keys do: a call may change something at the backend."""

    def account_of(self, request: Request) -> Account:
        user = request.user
        held = memberships_of(user) if isinstance(user, User) else []
        membership = current(held, request.session)
        if membership is None:
            raise PermissionDenied(REFUSAL[Capability.READ])
        if not may(membership.role, Capability.KEYS):
            raise PermissionDenied(REFUSAL[Capability.KEYS])
        return membership.account
