"""The staff's view of what is on sale and of what was used: APIs, meters, rollups."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from auditlog.registry import auditlog
from django.contrib import admin, messages
from django.contrib.admin import TabularInline
from django.db import transaction
from django.db.models import Count, Model, OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from gateway import catalogue, openapi, routes
from gateway.models import (
    Api,
    Meter,
    Operation,
    RefusalRollup,
    Routes,
    UsageRollup,
)
from gateway.problems import PROBLEMS
from portal.models import Account
from portal.staff.api_forms import ApiForm, MeterForm, OperationForm, OperationFormSet
from portal.staff.desk import CappedPaginator, Desk, Facts, tag

auditlog.register(Api, exclude_fields=["document", "upstream_headers_sealed", "identity_sealed"])
auditlog.register(Operation)
auditlog.register(Meter)


Row = TypeVar("Row", bound=Model)


def routes_are_published() -> bool:
    row = Routes.objects.first()
    return row is not None and row.published_version >= row.version


class OperationInline(TabularInline[Operation, Api]):
    """Operations; those of an imported document change with the next import only, their cost
    here."""

    model = Operation
    form = OperationForm
    formset = OperationFormSet  # type: ignore[assignment]
    fields = ("method", "path_template", "summary", "weights", "max_units", "scope")
    extra = 0
    show_change_link = False

    def get_readonly_fields(self, request: HttpRequest, obj: Api | None = None) -> tuple[str, ...]:
        imported = obj is not None and obj.document is not None
        return ("method", "path_template", "summary") if imported else ()

    def has_add_permission(self, request: HttpRequest, obj: Api | None = None) -> bool:
        return (obj is None or obj.document is None) and super().has_add_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Api | None = None) -> bool:
        return (obj is None or obj.document is None) and super().has_delete_permission(request, obj)


@admin.register(Api)
class ApiAdmin(Desk[Api]):
    """APIs on sale. Whatever is saved here holds from the next call on."""

    form = ApiForm
    inlines = (OperationInline,)
    change_list_template = "admin/api_change_list.html"
    change_form_template = "admin/api_change_form.html"
    list_display = ("name", "slug", "upstream_url", "operation_count", "standing", "listed")
    list_filter = ("enabled", "listed")
    search_fields = ("name", "slug", "upstream_url", "operations__path_template")
    prepopulated_fields = {"slug": ("name",)}
    fieldsets = (
        (None, {"fields": ("name", "slug", "description", ("enabled", "listed"), "unlisted")}),
        ("Backend", {"fields": ("upstream_url", "test_upstream_url")}),
        (
            "Security",
            {
                "description": (
                    "What the gateway may connect to, and how the backend knows that it was the "
                    "gateway that called."
                ),
                "fields": (
                    "allow_private_upstream",
                    "private_networks",
                    "headers_set",
                    "upstream_headers",
                    "remove_upstream_headers",
                    "identity",
                ),
            },
        ),
        ("Billing", {"fields": ("unbilled_statuses",)}),
        ("Browsers", {"classes": ("collapse",), "fields": ("cors_origins",)}),
        (
            "Timeouts",
            {
                "classes": ("collapse",),
                "description": "In seconds. A call that takes longer is ended and not billed, or "
                "cut off if its answer has begun.",
                "fields": (
                    ("connect_timeout_seconds", "first_byte_timeout_seconds"),
                    ("idle_timeout_seconds", "total_timeout_seconds"),
                ),
            },
        ),
        ("Limits", {"classes": ("collapse",), "fields": ("max_body_bytes",)}),
    )
    readonly_fields = ("headers_set", "identity")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Api]:
        return super().get_queryset(request).defer("document").annotate(of_it=Count("operations"))

    def get_prepopulated_fields(
        self, request: HttpRequest, obj: Api | None = None
    ) -> dict[str, Sequence[str]]:
        return {} if obj else self.prepopulated_fields

    @admin.display(description="operations", ordering="of_it")
    def operation_count(self, api: Api) -> int:
        return api.of_it  # type: ignore[attr-defined, no-any-return]

    @admin.display(description="state", ordering="enabled")
    def standing(self, api: Api) -> SafeString:
        return tag("on sale", "ok") if api.enabled else tag("off", "warn")

    @admin.display(description="upstream headers set")
    def headers_set(self, api: Api) -> str:
        names = catalogue.sealed_header_names(api)
        if not names:
            return "none"
        return format_html("{} (values are encrypted and not shown)", ", ".join(names))

    @admin.display(description="signed identity")
    def identity(self, api: Api) -> str:
        if api.pk is None:
            return "after the first save"
        address = reverse("admin:gateway_api_identity", args=[api.pk])
        if not api.identity_sealed:
            return format_html('none; <a href="{}">sign calls…</a>', address)
        return format_html('calls are signed; <a href="{}">secrets…</a>', address)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        catalogue.make_meters([openapi.CALLS])
        routes.bump()
        transaction.on_commit(lambda: self.say_published(request))

    def say_published(self, request: HttpRequest) -> None:
        if not routes_are_published():
            messages.warning(
                request,
                "Saved, and the gateway has not confirmed it yet; publishing is repeated "
                "every few seconds.",
            )

    def delete_model(self, request: HttpRequest, obj: Api) -> None:
        super().delete_model(request, obj)
        routes.bump()


@admin.register(Meter)
class MeterAdmin(Desk[Meter]):
    form = MeterForm
    list_display = ("name", "label", "description")
    search_fields = ("name", "label")

    def get_readonly_fields(
        self, request: HttpRequest, obj: Meter | None = None
    ) -> tuple[str, ...]:
        """A meter's name stands in the ledger: it is given once."""
        return ("name",) if obj else ()

    def has_delete_permission(self, request: HttpRequest, obj: Meter | None = None) -> bool:
        if obj is not None and obj.name == openapi.CALLS:
            return False
        return super().has_delete_permission(request, obj)

    def save_model(self, request: HttpRequest, obj: Meter, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        routes.bump()

    def delete_model(self, request: HttpRequest, obj: Meter) -> None:
        super().delete_model(request, obj)
        routes.bump()


class Known(admin.SimpleListFilter):
    """Filters by a column whose values are known: Django would look them up in every row."""

    def choose_from(self) -> Iterable[tuple[Any, str]]:
        raise NotImplementedError

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, str]]:
        return list(self.choose_from())

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        chosen = {str(value) for value, _ in self.lookup_choices} & {self.value()}
        return queryset.filter(**{str(self.parameter_name): chosen.pop()}) if chosen else queryset


class ByApi(Known):
    title = "API"
    parameter_name = "api"

    def choose_from(self) -> Iterable[tuple[Any, str]]:
        return Api.objects.values_list("slug", "name")


class ByMeter(Known):
    title = parameter_name = "meter"

    def choose_from(self) -> Iterable[tuple[Any, str]]:
        return Meter.objects.values_list("name", "label")


class ByStatus(Known):
    title = "status"
    parameter_name = "status_class"

    def choose_from(self) -> Iterable[tuple[Any, str]]:
        return [(2, "2xx"), (3, "3xx"), (4, "4xx"), (5, "5xx"), (0, "abandoned")]


class ByCode(Known):
    title = parameter_name = "code"

    def choose_from(self) -> Iterable[tuple[Any, str]]:
        return [(code, code) for code in PROBLEMS]


class OfAccounts(Facts[Row]):
    """Rows that know their account by id only, so that they outlive it; shown by its name."""

    def get_queryset(self, request: HttpRequest) -> QuerySet[Row]:
        names = Account.objects.filter(pk=OuterRef("account_id")).values("name")[:1]
        rows = super().get_queryset(request)
        return rows.annotate(account_name=Subquery(names))  # type: ignore[return-value]

    @admin.display(description="account")
    def account(self, row: Any) -> str:
        if row.account_name is None:
            return f"deleted ({row.account_id})"
        address = reverse("admin:portal_account_change", args=[row.account_id])
        return format_html('<a href="{}">{}</a>', address, row.account_name)


@admin.register(UsageRollup)
class UsageRollupAdmin(OfAccounts[UsageRollup]):
    """Quarter hours as the ledger summed them, one row per meter."""

    list_display = (
        "quarter",
        "account",
        "api",
        "operation",
        "meter",
        "status",
        "mode",
        "calls",
        "units",
        "billable_units",
    )
    list_filter = ("quarter", ByApi, ByMeter, "mode", ByStatus)
    search_fields = ("account_id__exact",)
    search_help_text = "Id of an account."
    ordering = ("-quarter", "-id")
    paginator = CappedPaginator

    @admin.display(description="status", ordering="status_class")
    def status(self, rollup: UsageRollup) -> str:
        return f"{rollup.status_class}xx" if rollup.status_class else "abandoned"


@admin.register(RefusalRollup)
class RefusalRollupAdmin(OfAccounts[RefusalRollup]):
    list_display = ("minute", "account", "key_id", "code", "count")
    list_filter = ("minute", ByCode)
    search_fields = ("account_id__exact",)
    search_help_text = "Id of an account."
    ordering = ("-minute", "-id")
    paginator = CappedPaginator
