"""The staff's view of keys: what exists, who did what to it. A key can be revoked, never read."""

from datetime import datetime
from typing import Any

from django.contrib import admin
from django.contrib.auth.models import AbstractBaseUser
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from keys import issuance
from keys.models import ApiKey, KeyEvent
from keys.restrictions import in_words
from portal.staff.desk import CappedPaginator, Deed, Facts, FactsInline, Outcome, link, tag

STATE_TONES = {"active": "ok", "unclaimed": "warn", "revoked": ""}


def revoke(request: HttpRequest, key: ApiKey, now: datetime) -> Outcome:
    """Revokes for the account, and says so only when the data plane has confirmed it."""
    actor = request.user if isinstance(request.user, AbstractBaseUser) else None
    address = request.META.get("REMOTE_ADDR")
    revoked = issuance.revoke(key.pk, key.account, actor=actor, address=address, now=now)
    if revoked.confirmed:
        return Outcome(True, f"{key} is revoked; the gateway has confirmed it.")
    return Outcome(
        False,
        f"{key} is marked as revoked, and the gateway has not confirmed it yet. "
        "Publishing is repeated every few seconds; revoke it again to see whether it holds.",
    )


class KeyEventInline(FactsInline[KeyEvent, ApiKey]):
    model = KeyEvent
    fields = ("kind", "actor", "service_token", "address", "details", "at", "announced_at")
    readonly_fields = fields
    verbose_name_plural = "what was done to it"

    def get_queryset(self, request: HttpRequest):  # type: ignore[no-untyped-def]
        return super().get_queryset(request).select_related("actor", "service_token")


class PepperFilter(admin.SimpleListFilter):
    """Keys in use that stop when the pepper before the current one is accepted no more."""

    title = "pepper"
    parameter_name = "pepper"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("older", "older: to be rotated")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> QuerySet[ApiKey]:
        return issuance.to_be_rotated(queryset) if self.value() == "older" else queryset


@admin.register(ApiKey)
class ApiKeyAdmin(Facts[ApiKey]):
    list_display = (
        "hint",
        "name",
        "of_account",
        "mode",
        "state_tag",
        "created_at",
        "last_used_at",
        "expires_at",
    )
    list_filter = ("mode", "state", "origin", "created_at", "leaked_at", PepperFilter)
    list_select_related = ("account",)
    search_fields = ("id__exact", "=last_four", "name", "account__name", "account__billing_email")
    search_help_text = "Last four characters, name of the key, or its account."
    paginator = CappedPaginator
    inlines = (KeyEventInline,)
    fields = (
        ("hint", "mode"),
        "name",
        "of_account",
        "state_tag",
        "origin",
        "created_by",
        "created_at",
        "claimed_at",
        "expires_at",
        "revoked_at",
        ("last_used_at", "last_used_address", "last_used_operation"),
        "what_it_may_do",
        ("leaked_at", "leak_source", "leak_url"),
        "of_replaced",
        "publication",
    )
    deeds = (
        Deed(
            "revoke",
            "Revoke",
            "Calls with this key are refused from the next one on, with revoked_key. "
            "A revoked key never comes back; its account can make a new one.",
            revoke,
            offered=lambda key: (
                key.state != ApiKey.State.REVOKED or key.published_revision < key.revision
            ),
            grave=True,
        ),
    )

    @admin.display(description="account", ordering="account__name")
    def of_account(self, key: ApiKey) -> str:
        return link(key.account)

    @admin.display(description="replaces")
    def of_replaced(self, key: ApiKey) -> str:
        return link(key.replaces)

    @admin.display(description="what it may do")
    def what_it_may_do(self, key: ApiKey) -> str:
        return "\n".join(f"{about}: {words}" for about, words in in_words(key).items())

    @admin.display(description="state", ordering="state")
    def state_tag(self, key: ApiKey) -> SafeString:
        return tag(key.get_state_display(), STATE_TONES[key.state])

    @admin.display(description="at the gateway")
    def publication(self, key: ApiKey) -> SafeString:
        if key.published_revision >= key.revision:
            return tag("published", "ok")
        return tag("waiting to be published", "warn")


@admin.register(KeyEvent)
class KeyEventAdmin(Facts[KeyEvent]):
    list_display = ("at", "kind", "of_key", "of_account", "actor", "service_token", "address")
    list_display_links = ("at",)
    list_filter = ("kind", "at")
    list_select_related = ("key__account", "actor", "service_token")
    search_fields = ("key__name", "=key__last_four", "key__account__name", "actor__email")
    search_help_text = "Name or last four characters of the key, its account, or who did it."
    paginator = CappedPaginator
    fields = (
        ("at", "kind"),
        ("of_key", "of_account"),
        ("actor", "service_token", "address"),
        "details",
        "announced_at",
    )

    @admin.display(description="key")
    def of_key(self, event: KeyEvent) -> str:
        return link(event.key)

    @admin.display(description="account")
    def of_account(self, event: KeyEvent) -> str:
        return link(event.key.account)
