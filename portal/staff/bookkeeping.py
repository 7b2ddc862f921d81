"""Where the bookkeeping of usage asks for staff, or tells them what it did: the quarantine of
entries that the ledger could not store, and counters that were corrected.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import redis
from django.contrib import admin
from django.db.models import F, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from gateway import quarantine
from gateway.entries import Entry, parse
from gateway.models import CounterCorrection, QuarantinedEntry
from portal.models import Account
from portal.staff.apis import OfAccounts
from portal.staff.desk import CappedPaginator, Deed, Facts, Outcome, link, tag

Resolution = QuarantinedEntry.Resolution
TONES = {"": "warn", Resolution.REPLAYED: "ok", Resolution.DISCARDED: "bad"}


class Standing(admin.SimpleListFilter):
    """What became of an entry."""

    title = "state"
    parameter_name = "standing"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("waiting", "waiting"), *Resolution.choices]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[QuarantinedEntry]
    ) -> QuerySet[QuarantinedEntry]:
        if self.value() == "waiting":
            return queryset.filter(closed_at=None)
        return queryset.filter(resolution=self.value()) if self.value() else queryset


def replay(request: HttpRequest, entry: QuarantinedEntry, now: datetime) -> Outcome:
    try:
        quarantine.replay(entry, now)
    except ValueError as error:
        return Outcome(False, f"{entry} still can’t be read: {error}.")
    except redis.RedisError as error:
        return Outcome(False, f"Redis did not take {entry}: {error}.")
    return Outcome(True, f"{entry} is on its way into the ledger, or back here if it can’t be.")


def discard(request: HttpRequest, entry: QuarantinedEntry, now: datetime) -> Outcome:
    quarantine.discard(entry, request.POST["reason"].strip(), now)
    return Outcome(True, f"{entry} is given up. Its call is in no bill.")


def is_waiting(entry: QuarantinedEntry) -> bool:
    return entry.closed_at is None


@admin.register(QuarantinedEntry)
class QuarantinedEntryAdmin(Facts[QuarantinedEntry]):
    """What the ledger could not store. The calls were made; they are in no bill."""

    list_display = ("at", "stream_id", "standing", "error")
    list_filter = (Standing, "at")
    search_fields = ("stream_id__exact", "error")
    search_help_text = "The entry’s id in the stream, or words of the error."
    paginator = CappedPaginator
    fields = (
        "at",
        "stream_id",
        "partition",
        "standing",
        "closed_at",
        "reason",
        "error",
        "told",
        "content",
    )
    deeds = (
        Deed(
            "replay",
            "Try again",
            "The entry goes back into the stream, and the next drain stores it, for what it was "
            "and when it was. That is safe however often it is done: the ledger has each call "
            "once. What the ledger still can’t store comes back as a new entry.",
            replay,
            offered=is_waiting,
        ),
        Deed(
            "discard",
            "Give up",
            "The call will be in no bill. What it counted against the quota comes back within "
            "two hours. The entry stays here, with your reason.",
            discard,
            offered=is_waiting,
            grave=True,
            reason="Why it is given up",
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[QuarantinedEntry]:
        """Those that wait for staff first."""
        return super().get_queryset(request).order_by(F("closed_at").desc(nulls_first=True), "-pk")

    @admin.display(description="state")
    def standing(self, entry: QuarantinedEntry) -> SafeString:
        return tag(entry.get_resolution_display() or "waiting", TONES[entry.resolution])

    @admin.display(description="call")
    def told(self, entry: QuarantinedEntry) -> str:
        """The call as far as the entry tells of it."""
        try:
            return _in_words(parse(quarantine.fields(entry)))
        except ValueError as error:
            return f"It can’t be read: {error}."

    @admin.display(description="payload")
    def content(self, entry: QuarantinedEntry) -> SafeString:
        text = json.dumps(_readable(entry), indent=2, ensure_ascii=False)
        return format_html("<pre>{}</pre>", text[:20_000])


@admin.register(CounterCorrection)
class CounterCorrectionAdmin(OfAccounts[CounterCorrection]):
    """Counters that two comparisons found to differ from the books by the same amount."""

    list_display = ("at", "account", "difference", "counted", "booked", "counter")
    list_filter = ("at",)
    search_fields = ("account_id__exact", "counter__exact")
    search_help_text = "Id of an account, or the counter’s name."
    ordering = ("-at", "-id")
    paginator = CappedPaginator

    @admin.display(description="corrected by")
    def difference(self, correction: CounterCorrection) -> str:
        return f"{correction.booked - correction.counted:+,}"


def _in_words(entry: Entry) -> str:
    account = Account.objects.filter(pk=entry.account_id).first()
    units = ", ".join(f"{meter} {units:,}" for meter, units in entry.units.items()) or "no units"
    return format_html(
        "{} {}, {}, status {}, admitted {} UTC, of {}: {}, {}",
        entry.api,
        entry.operation,
        entry.mode,
        entry.status,
        f"{entry.admitted_at:%Y-%m-%d %H:%M:%S}",
        link(account) if account else f"a deleted account ({entry.account_id})",
        units,
        "billed" if entry.billable else "not billed",
    )


def _readable(entry: QuarantinedEntry) -> dict[str, Any]:
    """The payload with what is JSON in it opened."""
    shown: dict[str, Any] = {}
    for name, value in json.loads(bytes(entry.payload)).items():
        try:
            shown[name] = json.loads(value)
        except (ValueError, RecursionError):
            shown[name] = value.split("\t") if "\t" in value else value
    return shown
