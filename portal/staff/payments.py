"""What happened: subscriptions, checkouts, their history, and the inbox of provider events.

These rows follow from a provider's state. Staff read them, and can have it fetched again.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing import inbox, money, providers, subscriptions
from billing.models import (
    BillingEvent,
    Checkout,
    ProviderEvent,
    Subscription,
    SubscriptionAddOn,
)
from portal.staff.desk import CappedPaginator, Deed, Facts, FactsInline, Outcome, link, tag

SUBSCRIPTION_TONES = {"active": "ok", "trialing": "ok", "past_due": "bad", "paused": "warn"}
CHECKOUT_TONES = {"completed": "ok", "open": "warn", "failed": "bad"}


class BillingEventInline(FactsInline[BillingEvent, Subscription]):
    model = BillingEvent
    fields = ("at", "kind", "data", "announced_at")
    readonly_fields = fields
    verbose_name_plural = "history"


class AddOnInline(FactsInline[SubscriptionAddOn, Subscription]):
    model = SubscriptionAddOn
    fields = ("add_on", "started_at", "ends_at_period_end", "ended_at")
    readonly_fields = fields
    verbose_name_plural = "add-ons"


def sync_now(request: HttpRequest, subscription: Subscription, now: datetime) -> Outcome:
    try:
        subscriptions.sync(subscription.pk, now)
    except providers.ProviderUnavailable as error:
        return Outcome(False, f"{subscription.provider} could not be asked: {error}")
    except subscriptions.IllegalMove as error:
        return Outcome(False, f"{subscription.provider} says what cannot follow: {error}.")
    subscription.refresh_from_db()
    state = subscription.get_state_display()
    return Outcome(True, f"As {subscription.provider} says, the subscription is {state}.")


def end_now(request: HttpRequest, subscription: Subscription, now: datetime) -> Outcome:
    """Of the account's living subscription, as the customer would."""
    try:
        subscriptions.cancel(subscription.account, at_period_end=False, now=now)
    except subscriptions.NoSubscription:
        return Outcome(False, f"{subscription} has ended already.")
    except providers.ProviderUnavailable as error:
        return Outcome(False, f"{subscription.provider} could not be asked: {error}")
    except subscriptions.IllegalMove as error:
        return Outcome(False, f"{subscription.provider} says what cannot follow: {error}.")
    return Outcome(True, f"{subscription.version.plan.name} of {subscription.account} has ended.")


@admin.register(Subscription)
class SubscriptionAdmin(Facts[Subscription]):
    """Facts that follow from the provider's state; staff can ask it again, not write over it."""

    list_display = ("of_account", "version", "standing", "provider", "period", "started_at")
    list_display_links = ("version",)
    list_filter = ("state", "version__plan", "provider", "cancel_at_period_end")
    list_select_related = ("account", "version__plan")
    search_fields = (
        "account__name",
        "account__billing_email",
        "provider_subscription_id__exact",
        "provider_customer_id__exact",
        "id__exact",
    )
    search_help_text = "Account, its billing email, or the provider’s id."
    date_hierarchy = "started_at"
    paginator = CappedPaginator
    inlines = (AddOnInline, BillingEventInline)
    fields = (
        "of_account",
        "version",
        "standing",
        "period",
        "cancel_at_period_end",
        "next_version",
        "next_told",
        "overage",
        "method",
        "trial_ends_at",
        "past_due_since",
        "started_at",
        "started_by",
        "ended_at",
        "provider",
        "provider_subscription_id",
        "provider_customer_id",
        "synced_at",
    )
    deeds = (
        Deed(
            "sync",
            "Sync now",
            "Asks the provider for the current state and applies it, as its webhook would.",
            sync_now,
            offered=lambda subscription: subscription.provider != "none",
        ),
        Deed(
            "end",
            "End it now",
            "Calls are refused from the next one on, and nothing is renewed. What was used till "
            "then is charged; nothing is paid back by this.",
            end_now,
            offered=lambda subscription: subscription.state != Subscription.State.ENDED,
            grave=True,
        ),
    )

    @admin.display(description="account", ordering="account__name")
    def of_account(self, subscription: Subscription) -> str:
        return link(subscription.account)

    @admin.display(description="state", ordering="state")
    def standing(self, subscription: Subscription) -> SafeString:
        return tag(subscription.get_state_display(), SUBSCRIPTION_TONES.get(subscription.state, ""))

    @admin.display(description="current period, UTC", ordering="period_end")
    def period(self, subscription: Subscription) -> str:
        return f"{subscription.period_start:%Y-%m-%d} to {subscription.period_end:%Y-%m-%d}"


@admin.register(Checkout)
class CheckoutAdmin(Facts[Checkout]):
    """Visits to the provider's payment page, also those that led nowhere."""

    list_display = ("of_account", "version", "standing", "provider", "created_at", "error")
    list_display_links = ("version",)
    list_filter = ("state", "payment_pending", "provider", "created_at")
    list_select_related = ("account", "version__plan")
    search_fields = ("account__name", "account__billing_email", "id__exact")
    paginator = CappedPaginator
    fields = (
        "of_account",
        "version",
        "standing",
        "payment_pending",
        "error",
        "started_by",
        "created_at",
        "provider",
        "provider_session_id",
        "synced_at",
    )

    @admin.display(description="account", ordering="account__name")
    def of_account(self, checkout: Checkout) -> str:
        return link(checkout.account)

    @admin.display(description="state", ordering="state")
    def standing(self, checkout: Checkout) -> SafeString:
        return tag(checkout.get_state_display(), CHECKOUT_TONES.get(checkout.state, ""))


@admin.register(BillingEvent)
class BillingEventAdmin(Facts[BillingEvent]):
    """The history that analytics counts."""

    list_display = ("at", "kind", "of_account", "mrr", "announced_at")
    list_filter = ("kind", "at")
    list_select_related = ("account",)
    search_fields = ("account__name", "account__billing_email")
    paginator = CappedPaginator
    fields = ("at", "kind", "of_account", "subscription", "data", "mrr", "announced_at")

    @admin.display(description="account", ordering="account__name")
    def of_account(self, event: BillingEvent) -> str:
        return link(event.account)

    @admin.display(description="MRR after it", ordering="mrr_minor")
    def mrr(self, event: BillingEvent) -> str:
        return money.text(event.mrr_minor, event.currency, short=True)


class Standing(admin.SimpleListFilter):
    """Where an event stands on its way through the inbox."""

    title = "state"
    parameter_name = "standing"
    conditions = {
        "waiting": Q(processed_at__isnull=True, dead_at__isnull=True),
        "processed": Q(processed_at__isnull=False),
        "dead": Q(dead_at__isnull=False),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("waiting", "waiting"), ("processed", "processed"), ("dead", "given up")]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[ProviderEvent]
    ) -> QuerySet[ProviderEvent]:
        condition = self.conditions.get(self.value() or "")
        return queryset.filter(condition) if condition else queryset


def replay(request: HttpRequest, event: ProviderEvent, now: datetime) -> Outcome:
    inbox.replay(event.pk, now)
    return Outcome(True, f"{event} is queued again; this page shows what comes of it.")


@admin.register(ProviderEvent)
class ProviderEventAdmin(Facts[ProviderEvent]):
    """The inbox: what providers sent, and what became of it."""

    list_display = ("received_at", "type", "provider", "standing", "attempts", "short_error")
    list_filter = (Standing, "received_at")
    search_fields = ("external_id__exact", "type", "error")
    search_help_text = "The provider’s event id, the type, or words of the error."
    paginator = CappedPaginator
    fields = (
        "received_at",
        "type",
        "provider",
        "external_id",
        "standing",
        "attempts",
        "processed_at",
        "next_attempt_at",
        "dead_at",
        "error",
        "content",
    )
    deeds = (
        Deed(
            "replay",
            "Replay",
            "The event is tried again: the provider's current state is fetched and applied. "
            "That is safe however often it is done.",
            replay,
            offered=lambda event: event.dead_at is not None,
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[ProviderEvent]:
        queryset = super().get_queryset(request)
        match = request.resolver_match
        is_list = match is not None and str(match.url_name).endswith("changelist")
        return queryset.defer("payload") if is_list else queryset

    @admin.display(description="state")
    def standing(self, event: ProviderEvent) -> SafeString:
        if event.dead_at:
            return tag("given up", "bad")
        if event.processed_at:
            return tag("ignored") if event.ignored else tag("processed", "ok")
        return tag("waiting", "warn")

    @admin.display(description="error")
    def short_error(self, event: ProviderEvent) -> str:
        return event.error.strip().splitlines()[-1][:120] if event.error.strip() else ""

    @admin.display(description="payload")
    def content(self, event: ProviderEvent) -> SafeString:
        text = json.dumps(event.payload, indent=2, ensure_ascii=False, sort_keys=True)
        return format_html("<pre>{}</pre>", text)
