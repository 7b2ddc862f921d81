"""What billing knows of an account. People, roles and the rest of it are portal's."""

from typing import Protocol, cast
from uuid import UUID

from django.apps import apps

from keys import issuance


class Account(issuance.Account, Protocol):
    """What billing needs of `portal.Account`."""

    @property
    def name(self) -> str: ...

    @property
    def billing_email(self) -> str: ...


def locked(account_id: UUID) -> Account:
    """The account, its row held until the transaction ends.

    Everything that changes what an account has starts here, so that two purchases at once, or
    a webhook and a cancellation, happen one after the other. Rows that merely point at the
    account may still be inserted meanwhile.
    """
    model = apps.get_model("portal", "Account")
    return cast(Account, model._default_manager.select_for_update(no_key=True).get(pk=account_id))
