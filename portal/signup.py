"""Sign-up, login and passwords: allauth's flows with our limits, words and mails.

Owns that every new user gets an account, in one transaction. Proving the address is the
business of `portal.verification`.
"""

from typing import Any

from allauth.account import views
from allauth.account.adapter import DefaultAccountAdapter
from django.db import transaction
from django.http import HttpRequest

from keys import clock
from portal import mails, verification
from portal.models import Account, Membership, User
from portal.ratelimits import by_address, by_field, limited

# Each address (an office, a university) may hold many people; each mailbox is one.
signup = limited("signup", (by_address, "60/h"))(views.signup)
login = limited("login", (by_address, "100/15m"), (by_field("login"), "10/15m"))(views.login)
password_reset = limited("reset", (by_address, "30/h"), (by_field("email"), "5/h"))(
    views.password_reset
)
set_password = limited("set password", (by_address, "30/h"))(views.password_reset_from_key)


class AccountAdapter(DefaultAccountAdapter):
    """Makes an account, owned by the new user, in the sign-up's own transaction."""

    error_messages = {
        **DefaultAccountAdapter.error_messages,
        "email_taken": "This address has an account already. Sign in instead.",
        "email_password_mismatch": "No account has this address and password. Check both.",
    }

    @transaction.atomic
    def save_user(self, request: HttpRequest, user: User, form: Any, commit: bool = True) -> User:
        super().save_user(request, user, form, commit)
        account = Account.objects.create(name=user.email[:120], billing_email=user.email)
        Membership.objects.create(user=user, account=account, role=Membership.Role.OWNER)
        verification.ask(user, now=clock.now())
        return user

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        """Sends allauth's `account/email/<name>` as our mail `account/<name>`."""
        name = template_prefix.rpartition("/")[2]
        mails.send(mails.compose(f"account/{name}", [email], context))

    def add_message(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Says nothing: where one lands after signing in or out says it already."""
