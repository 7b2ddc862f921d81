"""Prepaid credits in the staff's admin: given, and read; a grant never changes."""

from __future__ import annotations

from typing import Any

from auditlog.registry import auditlog
from django.contrib import admin
from django.forms import ModelForm
from django.http import HttpRequest

from billing import allowances
from billing.models import CreditGrant, SpendCap
from gateway import usage
from keys import clock
from portal.staff.desk import Desk, link

auditlog.register(CreditGrant)
auditlog.register(SpendCap)


@admin.register(CreditGrant)
class CreditGrantAdmin(Desk[CreditGrant]):
    """Credits that accounts were given; what is given here holds from the next call on."""

    list_display = ("__str__", "of_account", "drawn", "priority", "expires_at", "created_at")
    list_filter = ("expires_at", "created_at")
    list_select_related = ("account",)
    search_fields = ("account__name", "account__billing_email", "reason")
    autocomplete_fields = ("account",)

    def get_fields(self, request: HttpRequest, obj: CreditGrant | None = None) -> tuple[str, ...]:
        asked = ("account", "amount", "priority", "expires_at", "reason")
        return (*asked, "drawn", "created_by", "created_at") if obj else asked

    def get_readonly_fields(
        self, request: HttpRequest, obj: CreditGrant | None = None
    ) -> tuple[str, ...]:
        return ("drawn", "created_by", "created_at") if obj else ()

    def has_change_permission(self, request: HttpRequest, obj: CreditGrant | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: CreditGrant | None = None) -> bool:
        return False

    def save_model(
        self, request: HttpRequest, obj: CreditGrant, form: ModelForm[CreditGrant], change: bool
    ) -> None:
        given = allowances.grant(
            obj.account,
            obj.amount,
            reason=obj.reason,
            by=request.user,
            now=clock.now(),
            priority=obj.priority,
            expires_at=obj.expires_at,
        )
        obj.pk, obj.created_at = given.pk, given.created_at

    @admin.display(description="account", ordering="account__name")
    def of_account(self, grant: CreditGrant) -> str:
        return link(grant.account)

    @admin.display(description="drawn")
    def drawn(self, grant: CreditGrant) -> Any:
        return f"{usage.credits_drawn(grant.account_id).get(grant.pk, 0):,}"
