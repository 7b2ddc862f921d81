"""Prepaid credits in the staff's admin: packs on sale, what was bought, what was given.

A grant is given here and never changed; what was bought is paid back from its payment.
"""

from __future__ import annotations

from typing import Any

from auditlog.registry import auditlog
from django.contrib import admin
from django.forms import ModelForm
from django.http import HttpRequest

from billing import allowances, money
from billing.models import AutoTopUp, CreditGrant, CreditPack, SpendCap, TopUp
from gateway import usage
from keys import clock
from portal.staff.desk import Desk, Facts, link, tag

auditlog.register(CreditGrant)
auditlog.register(CreditPack)
auditlog.register(AutoTopUp)
auditlog.register(SpendCap)

TONES = {TopUp.State.COMPLETED: "ok", TopUp.State.FAILED: "bad", TopUp.State.OPEN: "warn"}


# Of a grant, besides what staff say of it.
TOLD = ("source", "cause", "drawn", "taken_back_at", "created_by", "created_at")


@admin.register(CreditPack)
class CreditPackAdmin(Desk[CreditPack]):
    """Credits on sale. A change holds for the next purchase; what was bought stays as it was."""

    list_display = ("name", "amount", "price", "any_amount", "expires_after_days", "listed")
    list_filter = ("listed", "currency")
    search_fields = ("name",)

    @admin.display(description="credits", ordering="credits")
    def amount(self, pack: CreditPack) -> str:
        return f"{pack.credits:,}"

    @admin.display(description="price", ordering="price_minor")
    def price(self, pack: CreditPack) -> str:
        return money.text(pack.price_minor, pack.currency)

    def has_delete_permission(self, request: HttpRequest, obj: CreditPack | None = None) -> bool:
        """One that accounts have bought by themselves is taken off the list instead."""
        if obj is not None and AutoTopUp.objects.filter(pack=obj).exists():
            return False
        return super().has_delete_permission(request, obj)


@admin.register(TopUp)
class TopUpAdmin(Facts[TopUp]):
    """Credits that were bought, and what became of their payment."""

    list_display = ("__str__", "of_account", "price", "is_automatic", "standing", "created_at")
    list_filter = ("state", "automatic", "provider", "created_at")
    list_select_related = ("account",)
    search_fields = ("account__name", "account__billing_email", "provider_session_id")
    fields = (
        "account", "credits", "price", "automatic", "provider", "provider_session_id", "charge",
        "state", "payment_pending", "error", "started_by", "created_at", "synced_at",
    )  # fmt: skip
    readonly_fields = ("price",)

    @admin.display(description="account", ordering="account__name")
    def of_account(self, row: TopUp) -> str:
        return link(row.account)

    @admin.display(description="price", ordering="amount_minor")
    def price(self, row: TopUp) -> str:
        return money.text(row.amount_minor, row.currency)

    @admin.display(description="by itself", boolean=True)
    def is_automatic(self, row: TopUp) -> bool:
        return row.automatic

    @admin.display(description="state")
    def standing(self, row: TopUp) -> str:
        return tag(row.get_state_display(), TONES.get(TopUp.State(row.state), ""))


@admin.register(CreditGrant)
class CreditGrantAdmin(Desk[CreditGrant]):
    """Credits that accounts were given; what is given here holds from the next call on."""

    list_display = (
        "__str__", "of_account", "source", "drawn", "priority", "expires_at", "created_at"
    )  # fmt: skip
    list_filter = ("source", "expires_at", "created_at")
    list_select_related = ("account",)
    search_fields = ("account__name", "account__billing_email", "reason")
    autocomplete_fields = ("account",)

    def get_fields(self, request: HttpRequest, obj: CreditGrant | None = None) -> tuple[str, ...]:
        asked = ("account", "amount", "priority", "expires_at", "reason")
        return (*asked, *TOLD) if obj else asked

    def get_readonly_fields(
        self, request: HttpRequest, obj: CreditGrant | None = None
    ) -> tuple[str, ...]:
        return TOLD if obj else ()

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
