"""The staff's view of customers and people, and the trail of what staff changed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from auditlog.models import LogEntry
from auditlog.registry import auditlog
from django.contrib import admin
from django.contrib.admin import TabularInline
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminUserCreationForm
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing.models import Contract, CreditGrant, Subscription
from gateway import usage
from keys import clock, entitlements
from keys.models import ApiKey, Entitlement
from portal.models import Account, Membership, User
from portal.staff.desk import Deed, Desk, Facts, FactsInline, Outcome, link, tag

auditlog.register(Account)
auditlog.register(Membership)

ENTITLEMENT_TONES = {"active": "ok", "payment_required": "bad", "ended": ""}


def suspend(request: HttpRequest, account: Account, now: datetime) -> Outcome:
    """Stops the account and says so only when the data plane has confirmed it."""
    if entitlements.suspend(account.pk, now):
        return Outcome(
            True,
            f"{account} is suspended, and the gateway has confirmed it: every call is refused "
            "with account_suspended.",
        )
    return Outcome(
        False,
        f"{account} is marked as suspended, and the gateway has NOT confirmed it: calls may "
        "still go through. Publishing is repeated every few seconds; look at “at the gateway”.",
    )


def lift(request: HttpRequest, account: Account, now: datetime) -> Outcome:
    if entitlements.lift(account.pk, now):
        return Outcome(
            True, f"The suspension of {account} is lifted, and the gateway has confirmed it."
        )
    return Outcome(
        False,
        f"The suspension of {account} is lifted here, and the gateway has not confirmed it yet; "
        "publishing is repeated every few seconds.",
    )


def entitlement_of(account: Account) -> Entitlement | None:
    return getattr(account, "entitlement", None)


def standing_tag(entitlement: Entitlement | None) -> SafeString:
    """What the gateway makes of the account, in one word."""
    if entitlement is None:
        return tag("no plan")
    if entitlement.suspended:
        return tag("suspended", "bad")
    return tag(entitlement.get_state_display(), ENTITLEMENT_TONES[entitlement.state])


class MembershipInline(TabularInline[Membership, Account]):
    model = Membership
    extra = 0
    autocomplete_fields = ("user",)
    verbose_name_plural = "members"


class SubscriptionInline(FactsInline[Subscription, Account]):
    model = Subscription
    fields = ("itself", "provider", "period_start", "period_end", "cancel_at_period_end")
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[Subscription]:
        return super().get_queryset(request).select_related("version__plan")


class ContractInline(FactsInline[Contract, Account]):
    model = Contract
    fields = ("itself", "rate_per_second", "included_calls", "starts_at", "ends_at")
    readonly_fields = fields


class CreditGrantInline(FactsInline[CreditGrant, Account]):
    model = CreditGrant
    fields = ("itself", "priority", "expires_at", "reason", "created_at")
    readonly_fields = fields
    verbose_name_plural = "prepaid credits"


class KeyInline(FactsInline[ApiKey, Account]):
    model = ApiKey
    fields = ("itself", "mode", "state", "created_at", "last_used_at")
    readonly_fields = fields


@admin.register(Account)
class AccountAdmin(Desk[Account]):
    """Customers: who they are, what they may do, what they did, and stopping them."""

    list_display = ("name", "plan", "standing", "owner", "billing_email", "created_at")
    list_filter = ("entitlement__suspended", "entitlement__state", "entitlement__plan_name")
    list_select_related = ("entitlement",)
    search_fields = ("name", "billing_email", "members__email", "id__exact")
    search_help_text = "Name, billing email, a member’s email, or the account’s id."
    date_hierarchy = "created_at"
    inlines = (MembershipInline, SubscriptionInline, ContractInline, CreditGrantInline, KeyInline)
    change_form_template = "admin/account_change_form.html"
    fields = ("name", "billing_email", "id", "created_at", "entitlement_summary", "usage_summary")
    readonly_fields = ("id", "created_at", "entitlement_summary", "usage_summary")
    deeds = (
        Deed(
            "suspend",
            "Suspend",
            "Every call is refused with account_suspended from the next one on. Subscription, "
            "keys and bill stay as they are.",
            suspend,
            offered=lambda account: not getattr(entitlement_of(account), "suspended", False),
            grave=True,
        ),
        Deed(
            "lift",
            "Lift the suspension",
            "Calls are let through again from the next one on, as far as the plan allows.",
            lift,
            offered=lambda account: bool(getattr(entitlement_of(account), "suspended", False)),
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Account]:
        owners = Membership.objects.filter(account=OuterRef("pk"), role=Membership.Role.OWNER)
        return (
            super()
            .get_queryset(request)
            .select_related("entitlement")
            .annotate(owner_email=Subquery(owners.values("user__email")[:1]))
        )

    def get_fields(self, request: HttpRequest, obj: Account | None = None) -> tuple[str, ...]:
        return self.fields if obj else ("name", "billing_email")

    def get_inlines(self, request: HttpRequest, obj: Account | None) -> Any:
        return self.inlines if obj else (MembershipInline,)

    def has_delete_permission(self, request: HttpRequest, obj: Account | None = None) -> bool:
        """An account's ledger and bills outlive a click."""
        return False

    @admin.display(description="plan", ordering="entitlement__plan_name")
    def plan(self, account: Account) -> str:
        entitlement = entitlement_of(account)
        return (entitlement.plan_name if entitlement else "") or "–"

    @admin.display(description="state", ordering="entitlement__state")
    def standing(self, account: Account) -> SafeString:
        return standing_tag(entitlement_of(account))

    @admin.display(description="owner", ordering="owner_email")
    def owner(self, account: Account) -> str:
        return account.owner_email or "–"  # type: ignore[attr-defined]

    @admin.display(description="may do")
    def entitlement_summary(self, account: Account) -> SafeString | str:
        entitlement = entitlement_of(account)
        if entitlement is None or not entitlement.terms:
            return standing_tag(entitlement)
        terms = entitlements.Terms.from_json(entitlement.terms)
        published = entitlement.published_revision >= entitlement.revision
        return render_to_string(
            "admin/_entitlement.html",
            {
                "entitlement": entitlement,
                "standing": standing_tag(entitlement),
                "terms": terms,
                "published": published,
            },
        )

    @admin.display(description="did in this period")
    def usage_summary(self, account: Account) -> SafeString | str:
        entitlement = entitlement_of(account)
        period = entitlement and entitlements.current_period(entitlement, clock.now())
        if not entitlement or not period:
            return "No billing period is running."
        start = datetime.fromtimestamp(period[0], tz=timezone.get_default_timezone())
        return render_to_string(
            "admin/_period_usage.html",
            {"account": account, "start": start, "usage": usage.of_period(account.pk, start)},
        )


class AccountsOfUserInline(FactsInline[Membership, User]):
    model = Membership
    fields = ("of_account", "role", "created_at")
    readonly_fields = fields
    verbose_name_plural = "accounts"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Membership]:
        return super().get_queryset(request).select_related("account")

    @admin.display(description="account")
    def of_account(self, membership: Membership) -> str:
        return link(membership.account)


class UserCreationForm(AdminUserCreationForm):  # type: ignore[type-arg]
    class Meta:
        model = User
        fields = ("email",)
        field_classes: dict[str, Any] = {}


@admin.register(User)
class UserAdmin(DjangoUserAdmin):  # type: ignore[type-arg]
    """People. Whoever leaves is made inactive: what they did stays theirs."""

    add_form = UserCreationForm
    add_fieldsets = ((None, {"fields": ("email", "usable_password", "password1", "password2")}),)
    fieldsets = (
        (None, {"fields": ("email", "name", "password")}),
        ("May do", {"fields": ("is_active", "is_staff", "is_superuser", "groups")}),
        ("Dates", {"fields": ("last_login", "date_joined")}),
    )
    readonly_fields = ("last_login", "date_joined")
    filter_horizontal = ("groups",)
    list_display = ("email", "name", "is_staff", "is_active", "date_joined", "last_login")
    list_filter = ("is_staff", "is_active")
    search_fields = ("email", "name", "accounts__name")
    ordering = ("-date_joined",)
    inlines = (AccountsOfUserInline,)
    show_full_result_count = False

    def get_inlines(self, request: HttpRequest, obj: User | None) -> Any:
        return self.inlines if obj else ()

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return False


@admin.register(LogEntry)
class AuditAdmin(Facts[LogEntry]):
    """Who changed which row from what to what."""

    list_display = ("timestamp", "actor", "action", "object_repr", "content_type", "what")
    list_display_links = ("timestamp",)
    list_filter = ("action", "content_type", "timestamp")
    list_select_related = ("actor", "content_type")
    search_fields = ("object_repr", "actor__email")
    fields = ("timestamp", "actor", "remote_addr", "action", "content_type", "object_repr", "what")

    @admin.display(description="changes")
    def what(self, entry: LogEntry) -> str:
        changes = {
            name: change
            for name, change in entry.changes_dict.items()
            if isinstance(change, list) and len(change) == 2
        }
        lines = [
            format_html("<b>{}</b>: {} → {}", name, str(before)[:200], str(after)[:200])
            for name, (before, after) in list(changes.items())[:12]
        ]
        return format_html("<br>".join("{}" for _ in lines), *lines) if lines else "–"
