"""The page for taking usage away: as JSON lines with digests, or as CSV."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator
from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.views.decorators.http import require_GET

from gateway import chain
from gateway.export import Export, Format
from keys import clock
from keys.identifiers import new_id
from portal import downloads
from portal.access import AccountRequest, member

FORMATS: list[tuple[Format, str]] = [
    ("jsonl", "JSON lines, with the digests to check them by"),
    ("csv", "CSV, for a spreadsheet"),
]
DAYS_SHOWN = 30
WITHIN = [MinValueValidator(date(2000, 1, 1)), MaxValueValidator(date(2199, 12, 31))]


class ExportForm(forms.Form):
    """Days are whole ones, in UTC; the last one is included."""

    first_day = forms.DateField(
        label="From", validators=WITHIN, widget=forms.DateInput(attrs={"type": "date"})
    )
    last_day = forms.DateField(
        label="To", validators=WITHIN, widget=forms.DateInput(attrs={"type": "date"})
    )
    format = forms.ChoiceField(choices=FORMATS, widget=forms.RadioSelect, label="As")

    def clean(self) -> dict[str, Any]:
        given = self.cleaned_data
        if "first_day" in given and "last_day" in given and given["first_day"] > given["last_day"]:
            self.add_error("last_day", "This day is before the first one.")
        return given

    def of(self, account_id: UUID) -> Export:
        first, last = self.cleaned_data["first_day"], self.cleaned_data["last_day"]
        return Export.of(account_id, _midnight(first), _midnight(last + timedelta(days=1)))


@require_GET
@member()
def export_page(request: AccountRequest) -> HttpResponse:
    today = clock.now().astimezone(UTC).date()
    form = ExportForm(
        initial={
            "first_day": today - timedelta(days=DAYS_SHOWN - 1),
            "last_day": today,
            "format": "jsonl",
        }
    )
    return _page(request, form, new_id())


@require_GET
@member()
def export_file(request: AccountRequest, export_id: UUID) -> HttpResponseBase:
    """The file; for a form that isn't filled in well, its page again."""
    form = ExportForm(request.GET)
    if not form.is_valid():
        return _page(request, form, export_id, status=422)
    export = form.of(request.account.pk)
    file = downloads.send(request, export, form.cleaned_data["format"], export_id)
    if file is not None:
        return file
    form.add_error(None, "Other exports are still running. Wait until one has ended.")
    response = _page(request, form, export_id, status=429)
    response["Retry-After"] = "10"
    return response


@require_GET
@member()
def export_progress(request: AccountRequest, export_id: UUID) -> HttpResponse:
    """How far the export is; 204 while it hasn't begun, and if what is shown is still so."""
    progress = downloads.progress_of(request.account.pk, export_id)
    if progress is None or request.GET.get("seen") == progress.mark:
        return HttpResponse(status=204)
    return render(request, "usage/_progress.html", {"progress": progress, "export_id": export_id})


def _page(
    request: AccountRequest, form: ExportForm, export_id: UUID, status: int = 200
) -> HttpResponse:
    context = {
        "nav": "overview",
        "form": form,
        "export_id": export_id,
        "closed_until": chain.closed_until(),
    }
    return render(request, "usage/export.html", context, status=status)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time.min, tzinfo=UTC)
