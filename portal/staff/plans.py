"""What is promised and to whom: plans, their versions, enterprise contracts and requests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from auditlog.registry import auditlog
from django.contrib import admin, messages
from django.contrib.admin import StackedInline
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Count, Max, Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing import catalogue, contracts, money
from billing.models import Contract, EnterpriseRequest, Plan, PlanMeter, PlanVersion
from keys import clock
from keys.models import Entitlement
from portal.staff.desk import Deed, Desk, FactsInline, Outcome, link, tag
from portal.staff.plan_forms import ContractForm, MeterTermsForm, PlanForm, VersionForm

auditlog.register(Plan)
auditlog.register(PlanVersion)
auditlog.register(PlanMeter)
auditlog.register(Contract)


class VersionInline(FactsInline[PlanVersion, Plan]):
    model = PlanVersion
    fields = ("itself", "price", "rate_per_second", "burst", "published_at")
    readonly_fields = fields
    verbose_name_plural = "versions"

    @admin.display(description="price")
    def price(self, version: PlanVersion) -> str:
        return price_text(version)


def price_text(version: PlanVersion) -> str:
    amount = money.text(version.base_price_minor, version.currency, short=True)
    return f"{amount} a {version.interval}"


@admin.register(Plan)
class PlanAdmin(Desk[Plan]):
    """Products on the price list; what they cost stands in their versions."""

    form = PlanForm
    list_display = ("name", "kind", "on_sale", "recommended", "listed", "position")
    list_filter = ("kind", "listed")
    search_fields = ("name", "slug")
    prepopulated_fields = {"slug": ("name",)}
    inlines = (VersionInline,)

    @admin.display(description="on sale")
    def on_sale(self, plan: Plan) -> str:
        versions = [version for version in plan.versions.all() if version.published_at]
        newest = max(versions, key=lambda version: version.number, default=None)
        if newest is None:
            return "by request" if plan.kind == Plan.Kind.ENTERPRISE else "nothing published"
        return link(newest, f"version {newest.number}, {price_text(newest)}")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Plan]:
        return super().get_queryset(request).prefetch_related("versions")

    def get_prepopulated_fields(
        self, request: HttpRequest, obj: Plan | None = None
    ) -> dict[str, Sequence[str]]:
        return {} if obj else self.prepopulated_fields

    def get_readonly_fields(self, request: HttpRequest, obj: Plan | None = None) -> tuple[str, ...]:
        return ("slug",) if obj else ()

    def get_inlines(self, request: HttpRequest, obj: Plan | None) -> Any:
        return self.inlines if obj else ()

    def has_delete_permission(self, request: HttpRequest, obj: Plan | None = None) -> bool:
        """A plan that has versions is history; it can be taken off the list."""
        if obj is not None and obj.versions.exists():
            return False
        return super().has_delete_permission(request, obj)


class MeterTermsInline(StackedInline[PlanMeter, PlanVersion]):
    model = PlanMeter
    form = MeterTermsForm
    extra = 0
    verbose_name_plural = "what it includes, by meter"

    def is_open(self, obj: PlanVersion | None) -> bool:
        return obj is None or obj.published_at is None

    def has_add_permission(self, request: HttpRequest, obj: PlanVersion | None = None) -> bool:
        return self.is_open(obj) and super().has_add_permission(request, obj)

    def has_change_permission(self, request: HttpRequest, obj: PlanVersion | None = None) -> bool:
        return self.is_open(obj) and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: PlanVersion | None = None) -> bool:
        return self.is_open(obj) and super().has_delete_permission(request, obj)


def publish(request: HttpRequest, version: PlanVersion, now: datetime) -> Outcome:
    try:
        catalogue.publish(version, now)
    except ValidationError as error:
        return Outcome(False, f"{version} is not published: {' '.join(error.messages)}")
    return Outcome(True, f"{version} is published and can't be changed any more.")


def draft_next(request: HttpRequest, version: PlanVersion, now: datetime) -> Outcome:
    """A copy of the version under the plan's next number, to be changed and published."""
    with transaction.atomic():
        Plan.objects.select_for_update().get(pk=version.plan_id)
        meters = list(version.meters.all())
        draft = PlanVersion.objects.get(pk=version.pk)
        draft.pk, draft.published_at, draft.number = None, None, next_number(version.plan)
        draft._state.adding = True
        draft.save(force_insert=True)
        for meter in meters:
            meter.pk, meter.version = None, draft
            meter._state.adding = True
            meter.save(force_insert=True)
    return Outcome(True, format_html("{} is drafted from {}.", SafeString(link(draft)), version))


def next_number(plan: Plan) -> int:
    highest: int = plan.versions.aggregate(highest=Max("number"))["highest"] or 0
    return highest + 1


@admin.register(PlanVersion)
class PlanVersionAdmin(Desk[PlanVersion]):
    """Prices and terms: drafts can be changed, published versions never."""

    form = VersionForm
    list_display = ("__str__", "price", "limits", "standing", "subscribers")
    list_filter = ("plan", "published_at")
    list_select_related = ("plan",)
    search_fields = ("plan__name",)
    inlines = (MeterTermsInline,)
    deeds = (
        Deed(
            "publish",
            "Publish",
            "A published version never changes again: those who buy it keep its price and "
            "terms. It goes on sale at once, in place of the plan's version before it; who "
            "has that one stays on it.",
            publish,
            offered=lambda version: version.published_at is None,
        ),
        Deed(
            "draft",
            "Draft the next version",
            "A copy under the plan's next number, which can be changed until it is published.",
            draft_next,
            offered=lambda version: version.published_at is not None,
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[PlanVersion]:
        alive = Count("subscriptions", filter=~Q(subscriptions__state="ended"))
        return super().get_queryset(request).annotate(alive=alive)

    def get_fields(self, request: HttpRequest, obj: PlanVersion | None = None) -> tuple[Any, ...]:
        published = obj is not None and obj.published_at is not None
        shown = (
            "plan",
            *(("price",) if published else (("currency", "interval"), "base_price")),
            ("rate_per_second", "burst", "concurrency"),
            "apis",
            "key_limit",
            "test_quota_per_day",
            ("trial_days", "trial_credits", "monthly_credits"),
        )
        return (*shown, "published_at") if obj else shown

    def get_readonly_fields(
        self, request: HttpRequest, obj: PlanVersion | None = None
    ) -> tuple[str, ...]:
        return ("plan", "published_at", "price") if obj else ()

    def has_change_permission(self, request: HttpRequest, obj: PlanVersion | None = None) -> bool:
        if obj is not None and obj.published_at is not None:
            return False
        return super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: PlanVersion | None = None) -> bool:
        if obj is not None and obj.published_at is not None:
            return False
        return super().has_delete_permission(request, obj)

    def save_model(self, request: HttpRequest, obj: PlanVersion, form: Any, change: bool) -> None:
        if not change:
            Plan.objects.select_for_update().get(pk=obj.plan_id)
            obj.number = next_number(obj.plan)
        super().save_model(request, obj, form, change)

    @admin.display(description="price", ordering="base_price_minor")
    def price(self, version: PlanVersion) -> str:
        return price_text(version)

    @admin.display(description="limits")
    def limits(self, version: PlanVersion) -> str:
        return f"{version.rate_per_second:,}/s, {version.burst:,} at once"

    @admin.display(description="state", ordering="published_at")
    def standing(self, version: PlanVersion) -> SafeString:
        if version.published_at is None:
            return tag("draft", "warn")
        return tag(f"published {version.published_at:%Y-%m-%d}", "ok")

    @admin.display(description="subscribers", ordering="alive")
    def subscribers(self, version: PlanVersion) -> int:
        return version.alive  # type: ignore[attr-defined, no-any-return]


@admin.register(Contract)
class ContractAdmin(Desk[Contract]):
    """Enterprise terms; what is saved or deleted here holds from the account's next call on."""

    form = ContractForm
    list_display = ("title", "of_account", "standing", "price", "limits", "starts_at", "ends_at")
    list_filter = ("starts_at", "ends_at")
    list_select_related = ("account",)
    search_fields = ("title", "account__name", "account__billing_email")
    autocomplete_fields = ("account",)
    fields = (
        "account",
        "title",
        ("currency", "base_price"),
        ("rate_per_second", "burst", "concurrency"),
        "apis",
        "included_calls",
        ("past_included", "credits_per_unit"),
        "tiers",
        "special_prices",
        "sla_text",
        "starts_at",
        "ends_at",
    )

    def get_readonly_fields(
        self, request: HttpRequest, obj: Contract | None = None
    ) -> tuple[str, ...]:
        return ("account",) if obj else ()

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        given: dict[str, Any] = super().get_changeform_initial_data(request)
        return {"starts_at": clock.now().replace(microsecond=0), **given}

    def save_model(self, request: HttpRequest, obj: Contract, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        self.apply(request, obj)

    def delete_model(self, request: HttpRequest, obj: Contract) -> None:
        super().delete_model(request, obj)
        self.apply(request, obj)

    def apply(self, request: HttpRequest, contract: Contract) -> None:
        """Makes the account's contracts hold, and says whether the gateway has them yet."""
        account = contract.account
        contracts.apply(account, clock.now())
        transaction.on_commit(lambda: self.say_published(request, account.pk))

    def say_published(self, request: HttpRequest, account_id: UUID) -> None:
        held = Entitlement.objects.filter(pk=account_id).first()
        if held is not None and held.published_revision < held.revision:
            messages.warning(
                request,
                "The gateway has not confirmed the account's terms yet; publishing is repeated "
                "every few seconds.",
            )

    @admin.display(description="account", ordering="account__name")
    def of_account(self, contract: Contract) -> str:
        return link(contract.account)

    @admin.display(description="state")
    def standing(self, contract: Contract) -> SafeString:
        now = clock.now()
        if contract.starts_at > now:
            return tag("to come", "warn")
        return tag("over") if contract.ends_at and contract.ends_at <= now else tag("holds", "ok")

    @admin.display(description="a month", ordering="base_price_minor")
    def price(self, contract: Contract) -> str:
        return money.text(contract.base_price_minor, contract.currency, short=True)

    @admin.display(description="limits")
    def limits(self, contract: Contract) -> str:
        return f"{contract.included_calls:,} calls, {contract.rate_per_second:,}/s"


@admin.register(EnterpriseRequest)
class EnterpriseRequestAdmin(Desk[EnterpriseRequest]):
    """What the enterprise form brought; staff set where the talk stands."""

    list_display = ("company", "name", "email", "calls_per_month", "state", "created_at")
    list_editable = ("state",)
    list_filter = ("state", "created_at")
    search_fields = ("company", "name", "email", "message")
    fields = (
        "state",
        "company",
        "name",
        "mail",
        "calls_per_month",
        "message",
        "of_account",
        "created_at",
    )
    readonly_fields = fields[1:]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    @admin.display(description="email")
    def mail(self, wish: EnterpriseRequest) -> SafeString:
        return format_html('<a href="mailto:{0}">{0}</a>', wish.email)

    @admin.display(description="account")
    def of_account(self, wish: EnterpriseRequest) -> str:
        return link(wish.account)
