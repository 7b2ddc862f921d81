"""Add-ons: drafted, published, retired; what each of them would grant."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from auditlog.registry import auditlog
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from billing import add_ons, money
from billing.models import AddOn, SubscriptionAddOn
from portal.staff.desk import Deed, Desk, Outcome, link, tag
from portal.staff.plan_forms import AddOnForm

auditlog.register(AddOn)
auditlog.register(SubscriptionAddOn)


def publish(request: HttpRequest, add_on: AddOn, now: datetime) -> Outcome:
    try:
        add_ons.publish(add_on, now)
    except ValidationError as error:
        return Outcome(False, f"{add_on} is not published: {' '.join(error.messages)}")
    return Outcome(True, f"{add_on} is on sale and can't be changed any more.")


def retire(request: HttpRequest, add_on: AddOn, now: datetime) -> Outcome:
    add_ons.retire(add_on, now)
    return Outcome(True, f"{add_on} is no longer sold; who has it keeps it.")


def draft_next(request: HttpRequest, add_on: AddOn, now: datetime) -> Outcome:
    """A copy to be changed and published in this one's place."""
    plans = list(add_on.plans.all())
    draft = AddOn.objects.get(pk=add_on.pk)
    draft.pk, draft.published_at, draft.retired_at = None, None, None
    draft._state.adding = True
    draft.save(force_insert=True)
    draft.plans.set(plans)
    return Outcome(True, format_html("{} is drafted.", SafeString(link(draft))))


@admin.register(AddOn)
class AddOnAdmin(Desk[AddOn]):
    """What customers may have besides a paid plan: drafts can be changed, published ones never."""

    form = AddOnForm
    list_display = ("name", "price", "grants", "standing", "holders")
    list_filter = ("interval", "currency", "published_at", "retired_at")
    list_select_related = ("meter",)
    search_fields = ("name", "slug")
    deeds = (
        Deed(
            "publish",
            "Publish",
            "A published add-on never changes again, and goes on sale at once; one that is sold "
            "under the same slug, interval and currency is retired. Who has that one keeps it.",
            publish,
            offered=lambda add_on: add_on.published_at is None,
        ),
        Deed(
            "retire",
            "Retire",
            "It is no longer sold. Who has it keeps it, at its price, until they drop it.",
            retire,
            offered=lambda add_on: add_on.published_at is not None and add_on.retired_at is None,
        ),
        Deed(
            "draft",
            "Draft the next one",
            "A copy, which can be changed until it is published in this one's place.",
            draft_next,
            offered=lambda add_on: add_on.published_at is not None,
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[AddOn]:
        held = (
            SubscriptionAddOn.objects.filter(add_on=OuterRef("pk"), ended_at=None)
            .order_by()
            .values("add_on")
            .annotate(number=Count("pk"))
            .values("number")
        )
        return super().get_queryset(request).annotate(held=Coalesce(Subquery(held), 0))

    def get_fields(self, request: HttpRequest, obj: AddOn | None = None) -> tuple[Any, ...]:
        published = obj is not None and obj.published_at is not None
        shown = (
            "name",
            "slug",
            "tagline",
            *(("price",) if published else (("currency", "interval"), "base_price")),
            ("meter", "included_units"),
            "rate_per_second",
            "scopes",
            "features",
            "plans",
            "position",
        )
        return (*shown, "grants", "holders", "published_at", "retired_at") if obj else shown

    def get_readonly_fields(
        self, request: HttpRequest, obj: AddOn | None = None
    ) -> tuple[str, ...]:
        return ("price", "grants", "holders", "published_at", "retired_at") if obj else ()

    def get_prepopulated_fields(
        self, request: HttpRequest, obj: AddOn | None = None
    ) -> dict[str, Sequence[str]]:
        return {} if obj else {"slug": ("name",)}

    def has_change_permission(self, request: HttpRequest, obj: AddOn | None = None) -> bool:
        if obj is not None and obj.published_at is not None:
            return False
        return super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: AddOn | None = None) -> bool:
        if obj is not None and obj.published_at is not None:
            return False
        return super().has_delete_permission(request, obj)

    @admin.display(description="price", ordering="price_minor")
    def price(self, add_on: AddOn) -> str:
        amount = money.text(add_on.price_minor, add_on.currency, short=True)
        return f"{amount} a {add_on.interval}"

    @admin.display(description="grants")
    def grants(self, add_on: AddOn) -> SafeString | str:
        lines = [(line,) for line in add_ons.grants(add_on)]
        return format_html_join(SafeString("<br>"), "{}", lines) or "nothing yet"

    @admin.display(description="state", ordering="published_at")
    def standing(self, add_on: AddOn) -> SafeString:
        if add_on.published_at is None:
            return tag("draft", "warn")
        if add_on.retired_at is not None:
            return tag(f"retired {add_on.retired_at:%Y-%m-%d}")
        return tag(f"on sale since {add_on.published_at:%Y-%m-%d}", "ok")

    @admin.display(description="held by", ordering="held")
    def holders(self, add_on: AddOn) -> int:
        return add_on.held  # type: ignore[attr-defined, no-any-return]
