"""Usage on its way to payment providers, what the sandbox's meter counted, and the comparisons.

Staff replay what was refused or held, hold what waits, and say what became of the rest.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from kombu.exceptions import OperationalError

from billing import money, shipping, tasks
from billing.models import Reconciliation, ReconciliationLine, Shipment
from billing.providers.metering import event_name
from billing.sandbox.models import SandboxMeterEvent
from portal.staff.desk import CappedPaginator, Deed, Facts, FactsInline, Outcome, link, tag

State = Shipment.State
TONES: dict[str, str] = {
    State.SENT: "ok",
    State.PENDING: "warn",
    State.UNKNOWN: "warn",
    State.REFUSED: "bad",
    State.HELD: "bad",
}


def replay(request: HttpRequest, shipment: Shipment, now: datetime) -> Outcome:
    shipping.replay(shipment.pk, now)
    return Outcome(True, f"{shipment} is pending again; it leaves within seconds.")


def hold(request: HttpRequest, shipment: Shipment, now: datetime) -> Outcome:
    shipping.hold(shipment.pk, f"Held by {request.user}.")
    return Outcome(True, f"{shipment} is held.")


def mark_arrived(request: HttpRequest, shipment: Shipment, now: datetime) -> Outcome:
    shipping.mark_arrived(shipment.pk, now)
    return Outcome(True, f"{shipment} counts as sent.")


def write_off(request: HttpRequest, shipment: Shipment, now: datetime) -> Outcome:
    shipping.write_off(shipment.pk, f"Written off by {request.user}.")
    return Outcome(True, f"{shipment} is written off.")


@admin.register(Shipment)
class ShipmentAdmin(Facts[Shipment]):
    """What providers are told of usage, with what they said."""

    change_list_template = "admin/shipment_change_list.html"
    list_display = ("at", "of_account", "meter", "units", "standing", "provider", "reason")
    list_filter = ("state", "provider", "meter", "at")
    list_select_related = ("subscription__account", "subscription__version__plan")
    search_fields = (
        "id__exact",
        "customer_id__exact",
        "subscription__account__name",
        "subscription__account__billing_email",
        "reason",
    )
    search_help_text = (
        "Account, its billing email, the provider’s customer, or words of the reason."
    )
    paginator = CappedPaginator
    fields = (
        "standing",
        "reason",
        "of_account",
        "subscription",
        "provider",
        "customer_id",
        "provider_event",
        "meter",
        "dimensions",
        "units",
        "api",
        "operation",
        "period_start",
        "terms_id",
        "at",
        "recorded",
        "attempts",
        "next_attempt",
        "unsure_since",
        "sent_at",
        "undated",
    )
    deeds = (
        Deed(
            "replay",
            "Replay",
            "They are sent again. What the provider takes no more at its time counts when it "
            "arrives. What was held in doubt may count twice: see first what the provider has.",
            replay,
            offered=lambda shipment: shipment.state in shipping.STOPPED,
        ),
        Deed(
            "arrived",
            "Mark as arrived",
            "For what you have seen to count at the provider. It will not be sent again.",
            mark_arrived,
            offered=lambda shipment: shipment.state in shipping.STOPPED,
        ),
        Deed(
            "hold",
            "Hold",
            "They are not sent until somebody replays them.",
            hold,
            offered=lambda shipment: shipment.state in shipping.WAITING,
        ),
        Deed(
            "write-off",
            "Write off",
            "They will never be sent: the provider bills nobody for them. The ledger keeps them.",
            write_off,
            offered=lambda shipment: shipment.state in shipping.STOPPED,
            grave=True,
        ),
    )

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return super().changelist_view(request, {"lag": shipping.lag(), **(extra_context or {})})

    @admin.display(description="account", ordering="subscription__account__name")
    def of_account(self, shipment: Shipment) -> str:
        return link(shipment.subscription.account)

    @admin.display(description="state", ordering="state")
    def standing(self, shipment: Shipment) -> SafeString:
        return tag(shipment.get_state_display(), TONES.get(shipment.state, ""))

    @admin.display(description="the provider’s event id")
    def provider_event(self, shipment: Shipment) -> SafeString:
        return format_html(
            "<code>{}</code>, named {}", shipment.event_id, event_name(shipment.meter)
        )

    @admin.display(description="recorded, UTC")
    def recorded(self, shipment: Shipment) -> SafeString:
        after, until = shipment.recorded_after, shipment.recorded_until
        asked = {
            "account": shipment.subscription.account_id,
            "api": shipment.api,
            "operation": shipment.operation,
            "last_day": f"{shipment.at:%Y-%m-%d}",
        }
        return format_html(
            'after {}, up to {}: <a href="{}?{}">the calls</a>',
            f"{after:%Y-%m-%d %H:%M:%S.%f}",
            f"{until:%Y-%m-%d %H:%M:%S.%f}",
            reverse("admin:ledger"),
            urlencode(asked),
        )

    @admin.display(description="next attempt", empty_value="–")
    def next_attempt(self, shipment: Shipment) -> datetime | None:
        return shipment.next_attempt_at if shipment.state in shipping.WAITING else None


@admin.register(SandboxMeterEvent)
class SandboxMeterEventAdmin(Facts[SandboxMeterEvent]):
    """What arrived at the sandbox's meter: each id once."""

    list_display = ("received_at", "name", "units", "customer_id", "at", "id")
    list_filter = ("name", "received_at")
    search_fields = ("id__exact", "customer_id__exact")
    search_help_text = "The event’s id, or the sandbox’s customer."
    paginator = CappedPaginator
    fields = ("id", "customer_id", "name", "units", "at", "metadata", "received_at")


class DifferingLineInline(FactsInline[ReconciliationLine, Reconciliation]):
    """Only what differs; all lines have a page of their own."""

    model = ReconciliationLine
    fields = (
        "of_account",
        "meter",
        "period_start",
        "ledger_units",
        "provider_units",
        "difference",
        "cost",
        "waiting_units",
        "note",
    )
    readonly_fields = fields
    verbose_name_plural = "what differs"

    def get_queryset(self, request: HttpRequest) -> QuerySet[ReconciliationLine]:
        rows = super().get_queryset(request).filter(differs=True)
        return rows.select_related("subscription__account")

    @admin.display(description="account")
    def of_account(self, line: ReconciliationLine) -> str:
        return link(line.subscription.account)

    @admin.display(description="difference")
    def difference(self, line: ReconciliationLine) -> str:
        return "–" if line.difference is None else f"{line.difference:+,}"

    @admin.display(description="costs")
    def cost(self, line: ReconciliationLine) -> str:
        return money.text(line.difference_minor, line.currency)


@admin.register(Reconciliation)
class ReconciliationAdmin(Facts[Reconciliation]):
    """Providers' counts against the ledger, once a day and when staff ask for it."""

    change_list_template = "admin/reconciliation_change_list.html"
    list_display = ("at", "provider", "until", "lines_count", "standing")
    list_filter = ("provider", "at")
    paginator = CappedPaginator
    inlines = (DifferingLineInline,)
    fields = ("at", "provider", "until", "lines_count", "standing", "all_lines", "announced_at")

    def get_urls(self) -> list[URLPattern]:
        run = self.admin_site.admin_view(self.run)
        return [path("run/", run, name="billing_reconciliation_run"), *super().get_urls()]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        may_run = self.has_deed_permission(request)
        return super().changelist_view(request, {"may_run": may_run, **(extra_context or {})})

    def run(self, request: HttpRequest) -> HttpResponse:
        """Has every provider compared now, by a worker."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self.has_deed_permission(request):
            raise PermissionDenied
        try:
            tasks.reconcile_providers.delay()
        except OperationalError:
            messages.error(request, "The workers can’t be reached; nothing is compared.")
        else:
            messages.success(request, "A worker compares every provider now; reload to see it.")
        return HttpResponseRedirect(reverse("admin:billing_reconciliation_changelist"))

    @admin.display(description="outcome", ordering="differing")
    def standing(self, found: Reconciliation) -> SafeString:
        if not found.lines_count:
            return tag("nothing to compare")
        if not found.differing:
            return tag("agrees", "ok")
        return tag(
            "1 line differs" if found.differing == 1 else f"{found.differing:,} differ", "bad"
        )

    @admin.display(description="lines")
    def all_lines(self, found: Reconciliation) -> SafeString:
        address = reverse("admin:billing_reconciliationline_changelist")
        return format_html(
            '<a href="{}?reconciliation__id__exact={}">All lines</a>', address, found.pk
        )


@admin.register(ReconciliationLine)
class ReconciliationLineAdmin(Facts[ReconciliationLine]):
    """Each comparison of one customer's meter and period."""

    list_display = (
        "reconciliation",
        "of_account",
        "meter",
        "period_start",
        "ledger_units",
        "provider_units",
        "standing",
        "cost",
    )
    list_filter = ("differs", "reconciliation__provider", "meter")
    list_select_related = ("reconciliation", "subscription__account")
    search_fields = ("subscription__account__name", "subscription__account__billing_email")
    search_help_text = "Account, or its billing email."
    paginator = CappedPaginator
    fields = (
        "reconciliation",
        "of_account",
        "subscription",
        "meter",
        "period_start",
        "ledger_units",
        "provider_units",
        "waiting_units",
        "written_off_units",
        "standing",
        "cost",
        "note",
    )

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        return lookup == "reconciliation__id__exact" or super().lookup_allowed(
            lookup, value, request
        )

    @admin.display(description="account", ordering="subscription__account__name")
    def of_account(self, line: ReconciliationLine) -> str:
        return link(line.subscription.account)

    @admin.display(description="difference", ordering="differs")
    def standing(self, line: ReconciliationLine) -> SafeString:
        if line.difference is None:
            return tag("not known", "bad")
        return tag(f"{line.difference:+,}", "bad") if line.difference else tag("none", "ok")

    @admin.display(description="costs", ordering="difference_minor")
    def cost(self, line: ReconciliationLine) -> str:
        return money.text(line.difference_minor, line.currency)
