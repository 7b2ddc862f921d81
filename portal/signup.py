"""Sign-up and login: allauth's flows with our limits, an account made with each user."""

from allauth.account.adapter import DefaultAccountAdapter


class AccountAdapter(DefaultAccountAdapter):
    """Makes an account, owned by the new user, in the sign-up's own transaction."""
