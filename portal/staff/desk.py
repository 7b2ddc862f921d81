"""What every page of the staff's admin is built of, in all apps.

Owns rows that are read and never edited (`Facts`), deeds that ask once more before they are
done (`Deed`), and lists that never count a big table. Knows Django and no model of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import urlencode
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.contrib.admin import ModelAdmin, TabularInline
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db import models
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst

from keys import clock

Row = TypeVar("Row", bound=models.Model)
Parent = TypeVar("Parent", bound=models.Model)

MAX_ROWS_PER_DEED = 100


def link(row: models.Model | None, text: str | None = None) -> str:
    """The row's name, linked to its own page in the admin; a dash where there is none."""
    if row is None:
        return "–"
    options = row._meta
    address = reverse(f"admin:{options.app_label}_{options.model_name}_change", args=[row.pk])
    return format_html('<a href="{}">{}</a>', address, text or str(row))


def tag(text: str, tone: str = "") -> SafeString:
    """A word that shows a state. `tone` is ok, warn, bad or nothing."""
    return format_html('<span class="tag {}">{}</span>', tone, text)


@dataclass(frozen=True)
class Outcome:
    """What came of a deed, in a sentence for the one who asked for it."""

    done: bool
    sentence: str


@dataclass(frozen=True)
class Deed(Generic[Row]):
    """Something staff do to a row: a button on its page, an action on the list.

    `perform` gets the request, the row and now; it opens its own transactions. `offered` says
    for which rows there is anything to do. Where a `reason` is asked for, it is noted with the
    deed and is in the request's POST.
    """

    name: str
    label: str
    consequence: str
    perform: Callable[[HttpRequest, Row, datetime], Outcome]
    offered: Callable[[Row], bool] = lambda _: True
    grave: bool = False
    reason: str = ""  # the question for it


class ReasonForm(forms.Form):
    """Why a deed is done."""

    reason = forms.CharField(max_length=200)


class CappedPaginator(Paginator[Any]):
    """Counts no further than MAX rows: a list of millions opens as quickly as a short one."""

    MAX = 10_000

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows.order_by()[: self.MAX].count())

    @property
    def is_capped(self) -> bool:
        """There may be more rows than were counted; the list says so."""
        return self.count == self.MAX


class Desk(ModelAdmin[Row]):
    """A model's pages, with its deeds."""

    deeds: ClassVar[tuple[Deed[Any], ...]] = ()
    change_form_template = "admin/desk_change_form.html"
    show_full_result_count = False
    list_per_page = 50
    view_on_site = False

    def get_urls(self) -> list[URLPattern]:
        name = f"{self.opts.app_label}_{self.opts.model_name}_deed"
        act = self.admin_site.admin_view(self.act)
        return [path("deed/<slug:deed>/", act, name=name), *super().get_urls()]

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Our deeds in place of “Delete selected”: rows here are not thrown away in bulk."""
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)
        if self.has_deed_permission(request):
            for deed in self.deeds:
                label = f"{deed.label}…"
                actions[deed.name] = (self.go_to(deed), deed.name, label)
        return actions

    def go_to(self, deed: Deed[Row]) -> Callable[..., Any]:
        """An action of the list that leads to the deed's question."""

        def action(
            desk: Desk[Row], request: HttpRequest, queryset: models.QuerySet[Row]
        ) -> HttpResponse:
            pks = [str(pk) for pk in queryset.values_list("pk", flat=True)[:MAX_ROWS_PER_DEED]]
            return HttpResponseRedirect(desk.deed_address(deed, pks))

        return action

    def deed_address(self, deed: Deed[Row], pks: Iterable[str]) -> str:
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_deed"
        return f"{reverse(name, args=[deed.name])}?{urlencode([('pk', pk) for pk in pks])}"

    def has_deed_permission(self, request: HttpRequest) -> bool:
        """Deeds need the model's change permission, also where rows are read-only."""
        return request.user.has_perm(f"{self.opts.app_label}.change_{self.opts.model_name}")

    def page_context(self, request: HttpRequest, row: Row) -> dict[str, Any]:
        """What the template of a row's own page is given."""
        return {
            "title": str(row),
            "subtitle": None,
            "deed_buttons": [
                {"deed": deed, "address": self.deed_address(deed, [str(row.pk)])}
                for deed in self.deeds
                if deed.offered(row) and self.has_deed_permission(request)
            ],
        }

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        row = self.get_object(request, object_id)
        context = self.page_context(request, row) if row is not None else {}
        return super().change_view(
            request, object_id, form_url, {**context, **(extra_context or {})}
        )

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        title = capfirst(str(self.opts.verbose_name_plural))
        return super().changelist_view(request, {"title": title, **(extra_context or {})})

    def act(self, request: HttpRequest, deed: str) -> HttpResponse:
        """Asks before the deed (GET), then does it to every row chosen (POST)."""
        found = next((candidate for candidate in self.deeds if candidate.name == deed), None)
        if found is None:
            raise Http404
        if not self.has_deed_permission(request):
            raise PermissionDenied
        chosen = (request.POST if request.method == "POST" else request.GET).getlist("pk")
        rows = [self.get_object(request, pk) for pk in chosen[:MAX_ROWS_PER_DEED]]
        offered = [row for row in rows if row is not None and found.offered(row)]
        if not offered:
            messages.warning(request, f"{found.label}: nothing to do for what was chosen.")
            return HttpResponseRedirect(self.back_from(rows))
        form = None
        if found.reason:
            form = ReasonForm(request.POST if request.method == "POST" else None)
            form.fields["reason"].label = found.reason
        if request.method == "POST" and (form is None or form.is_valid()):
            reason = form.cleaned_data["reason"] if form else ""
            self.carry_out(request, found, offered, reason)
            return HttpResponseRedirect(self.back_from(rows))
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": found.label,
            "deed": found,
            "rows": offered,
            "form": form,
            "back": self.back_from(rows),
        }
        return TemplateResponse(request, "admin/deed.html", context)

    def carry_out(
        self, request: HttpRequest, deed: Deed[Row], rows: list[Row], reason: str
    ) -> None:
        now = clock.now()
        for row in rows:
            outcome = deed.perform(request, row, now)
            if outcome.done:
                self.log_change(request, row, f"{deed.label}: {reason}" if reason else deed.label)
            level = messages.SUCCESS if outcome.done else messages.ERROR
            messages.add_message(request, level, outcome.sentence)

    def back_from(self, rows: list[Row | None]) -> str:
        """To the row's own page, or to the list where several or none were chosen."""
        prefix = f"admin:{self.opts.app_label}_{self.opts.model_name}"
        if len(rows) == 1 and rows[0] is not None:
            return reverse(f"{prefix}_change", args=[rows[0].pk])
        return reverse(f"{prefix}_changelist")


class Facts(Desk[Row]):
    """Rows that the product writes and staff only read."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Row | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Row | None = None) -> bool:
        return False


class Printed(Facts[Row]):
    """Rows that can be printed: their pages have a link to the file."""

    change_form_template = "admin/printed_change_form.html"

    def print_out(self, row: Row) -> HttpResponse:
        """The file."""
        raise NotImplementedError

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.print_page)
        return [path("<uuid:pk>.pdf", view, name=self._printed_name()), *super().get_urls()]

    def print_page(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        row = self.get_object(request, str(pk))
        if row is None:
            raise Http404
        if not self.has_view_permission(request, row):
            raise PermissionDenied
        return self.print_out(row)

    def page_context(self, request: HttpRequest, row: Row) -> dict[str, Any]:
        address = reverse(f"admin:{self._printed_name()}", args=[row.pk])
        return {**super().page_context(request, row), "print_address": address}

    def _printed_name(self) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_pdf"


class FactsInline(TabularInline[Row, Parent]):
    """A parent's rows, read-only; the column `itself` links to each one's own page."""

    extra = 0
    max_num = 0
    can_delete = False

    @admin.display(description="")
    def itself(self, row: Row) -> str:
        return link(row)

    def has_add_permission(self, request: HttpRequest, obj: Parent | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Parent | None = None) -> bool:
        return False
