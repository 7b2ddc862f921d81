"""Where the site had other rows than a provider: what was repaired, and what can't be."""

from __future__ import annotations

from django.contrib import admin
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from billing.models import Drift
from portal.staff.desk import CappedPaginator, Facts, link, tag


@admin.register(Drift)
class DriftAdmin(Facts[Drift]):
    """What the daily comparison found, which no webhook had told."""

    list_display = ("seen_at", "of_account", "provider", "standing", "found")
    list_display_links = ("seen_at",)
    list_filter = ("subscription__provider", "seen_at")
    list_select_related = ("subscription__account",)
    search_fields = ("subscription__account__name", "subscription__account__billing_email")
    search_help_text = "Account, or its billing email."
    paginator = CappedPaginator
    fields = (
        "of_account",
        "of_subscription",
        "standing",
        "found",
        "seen_at",
        "looked_at",
        "repaired_at",
        "error",
    )

    @admin.display(description="account", ordering="subscription__account__name")
    def of_account(self, drift: Drift) -> str:
        return link(drift.subscription.account)

    @admin.display(description="subscription")
    def of_subscription(self, drift: Drift) -> str:
        return link(drift.subscription)

    @admin.display(ordering="subscription__provider")
    def provider(self, drift: Drift) -> str:
        return drift.subscription.provider

    @admin.display(description="state", ordering="repaired_at")
    def standing(self, drift: Drift) -> SafeString:
        if drift.repaired_at:
            return tag("repaired", "ok")
        return tag("can’t be repaired", "bad") if drift.error else tag("looked at again", "warn")

    @admin.display(description="ours, then theirs")
    def found(self, drift: Drift) -> SafeString | str:
        told = (
            (one["what"], one["ours"] or "none", one["theirs"] or "none")
            for one in drift.differences
        )
        return drift.error or format_html_join("; ", "{}: {} → {}", told)
