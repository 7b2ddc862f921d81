"""New prices for those who have old ones: drafted, previewed customer by customer, announced."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

from auditlog.registry import auditlog
from django import forms
from django.contrib import admin
from django.db.models import Count, Q, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest

from billing import money, price_changes
from billing.models import PlanVersion, PriceChange, PriceMove
from keys import clock
from portal.staff.desk import CappedPaginator, Deed, Desk, Facts, Outcome, link, tag
from portal.staff.plans import price_text

auditlog.register(PriceChange)
auditlog.register(PriceMove)

TONES = {"announced": "warn", "done": "ok", "planned": "warn", "moved": "ok"}


class VersionField(forms.ModelChoiceField[PlanVersion]):
    def label_from_instance(self, version: PlanVersion) -> str:
        return f"{version}: {price_text(version)}"


class PriceChangeForm(ModelForm[PriceChange]):
    to_version = VersionField(
        PlanVersion.objects.filter(published_at__isnull=False).select_related("plan"),
        label="To version",
        help_text="Customers on older versions, in its currency and at its interval, move to it.",
    )

    class Meta:
        model = PriceChange
        fields = ("to_version", "effective_at", "reason")
        labels = {"effective_at": "From (UTC)"}
        help_texts = {
            "effective_at": (
                "Each customer moves with the first period that begins then or later. At least "
                f"{price_changes.NOTICE.days} days after the announcement."
            )
        }


def announce(request: HttpRequest, change: PriceChange, now: datetime) -> Outcome:
    try:
        count = price_changes.announce(change, now)
    except price_changes.TooSoon:
        earliest = now + price_changes.NOTICE
        return Outcome(
            False, f"{change} is too soon: announced today, {earliest:%-d %B %Y} is the earliest."
        )
    except price_changes.NothingToMove:
        return Outcome(False, f"Nobody has an older version than {change.to_version}.")
    return Outcome(True, f"{change} is announced to {count:,} customers; the mails are leaving.")


def withdraw(request: HttpRequest, change: PriceChange, now: datetime) -> Outcome:
    price_changes.withdraw(change, now)
    return Outcome(True, f"{change} is withdrawn; who was told of it is told that, too.")


@admin.register(PriceChange)
class PriceChangeAdmin(Desk[PriceChange]):
    """A draft can be changed; once it is announced its customers rely on what it says."""

    form = PriceChangeForm
    change_form_template = "admin/price_change.html"
    list_display = ("to_version", "standing", "effective_at", "customers", "moved")
    list_filter = ("state", "to_version__plan")
    list_select_related = ("to_version__plan",)
    deeds = (
        Deed(
            "announce",
            "Announce",
            "Each customer in the preview gets a mail with the date, the new price and what the "
            "last bill would have been. From then on only withdrawing is possible.",
            announce,
            offered=lambda change: change.state == PriceChange.State.DRAFT,
        ),
        Deed(
            "withdraw",
            "Withdraw",
            "Who has not moved yet stays on the old price. Who was told gets a mail.",
            withdraw,
            offered=lambda change: change.state in ("draft", "announced"),
            grave=True,
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[PriceChange]:
        moved = Count("moves", filter=Q(moves__state=PriceMove.State.MOVED))
        return super().get_queryset(request).annotate(customers=Count("moves"), moved=moved)

    def get_fields(self, request: HttpRequest, obj: PriceChange | None = None) -> tuple[Any, ...]:
        written = ("to_version", "effective_at", "reason")
        return (*written, "standing", "announced_at", "created_by") if obj else written

    def get_readonly_fields(
        self, request: HttpRequest, obj: PriceChange | None = None
    ) -> tuple[str, ...]:
        return ("standing", "announced_at", "created_by")

    def has_change_permission(self, request: HttpRequest, obj: PriceChange | None = None) -> bool:
        if obj is not None and obj.state != PriceChange.State.DRAFT:
            return False
        return super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: PriceChange | None = None) -> bool:
        if obj is not None and obj.state != PriceChange.State.DRAFT:
            return False
        return super().has_delete_permission(request, obj)

    def save_model(self, request: HttpRequest, obj: PriceChange, form: Any, change: bool) -> None:
        if not change:
            obj.created_by_id = request.user.pk
        super().save_model(request, obj, form, change)

    def page_context(self, request: HttpRequest, row: PriceChange) -> dict[str, Any]:
        return {**super().page_context(request, row), **_preview(row)}

    @admin.display(description="state", ordering="state")
    def standing(self, change: PriceChange) -> str:
        return tag(change.get_state_display(), TONES.get(change.state, ""))

    @admin.display(description="customers", ordering="customers")
    def customers(self, change: PriceChange) -> int:
        return change.customers  # type: ignore[attr-defined, no-any-return]

    @admin.display(description="moved", ordering="moved")
    def moved(self, change: PriceChange) -> int:
        return change.moved  # type: ignore[attr-defined, no-any-return]


def _preview(change: PriceChange) -> dict[str, Any]:
    """Old and new bills: of a draft as things stand now, later as they were announced."""
    if change.state == PriceChange.State.DRAFT:
        effects = list(price_changes.preview(change.to_version, clock.now()))
        rows = [
            {
                "account": link(effect.subscription.account),
                "version": f"version {effect.subscription.version.number}",
                "period": f"{effect.period_start:%Y-%m-%d} to {effect.period_end:%Y-%m-%d}",
                "old": money.text(effect.old_minor, effect.currency),
                "new": money.text(effect.new_minor, effect.currency),
                "difference": money.text(effect.difference_minor, effect.currency),
            }
            for effect in effects
        ]
        differences = [effect.difference_minor for effect in effects]
    else:
        moves = change.moves.select_related("subscription__account", "from_version")
        rows = [
            {
                "account": link(move, str(move.subscription.account)),
                "version": f"version {move.from_version.number}",
                "period": move.get_state_display(),
                "old": money.text(move.old_minor, move.currency),
                "new": money.text(move.new_minor, move.currency),
                "difference": money.text(move.new_minor - move.old_minor, move.currency),
            }
            for move in moves
        ]
        differences = [move.new_minor - move.old_minor for move in moves]
    currency = change.to_version.currency
    turns = Counter("more" if each > 0 else "less" if each < 0 else "same" for each in differences)
    return {
        "preview": rows,
        "is_draft": change.state == PriceChange.State.DRAFT,
        "sum": money.text(sum(differences), currency),
        "turns": turns,
    }


def keep(request: HttpRequest, move: PriceMove, now: datetime) -> Outcome:
    price_changes.keep_old_price(move, now)
    return Outcome(True, f"{move.subscription.account} keeps {move.from_version}.")


@admin.register(PriceMove)
class PriceMoveAdmin(Facts[PriceMove]):
    """One customer's part in a price change."""

    list_display = ("of_account", "change", "old", "new", "standing", "announced_at", "moved_at")
    list_filter = ("state", "change")
    list_select_related = ("subscription__account", "change__to_version__plan")
    search_fields = ("subscription__account__name", "subscription__account__billing_email")
    paginator = CappedPaginator
    fields = (
        "of_account",
        "change",
        "from_version",
        "old",
        "new",
        "standing",
        "announced_at",
        "scheduled_at",
        "moved_at",
    )
    deeds = (
        Deed(
            "keep",
            "Keep the old price",
            "This customer stays on its version for good and is told so by mail.",
            keep,
            offered=lambda move: move.state == PriceMove.State.PLANNED,
        ),
    )

    @admin.display(description="account", ordering="subscription__account__name")
    def of_account(self, move: PriceMove) -> str:
        return link(move.subscription.account)

    @admin.display(description="old bill", ordering="old_minor")
    def old(self, move: PriceMove) -> str:
        return money.text(move.old_minor, move.currency)

    @admin.display(description="new bill", ordering="new_minor")
    def new(self, move: PriceMove) -> str:
        return money.text(move.new_minor, move.currency)

    @admin.display(description="state", ordering="state")
    def standing(self, move: PriceMove) -> str:
        return tag(move.get_state_display(), TONES.get(move.state, ""))
