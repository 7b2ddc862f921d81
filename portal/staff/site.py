"""The admin under the seller's name, arranged by what staff do instead of by app.

Owns the index, the addresses of the pages that no model has (analytics, sandbox, ledger, import,
secrets), and what waits for staff. The models' own pages stand in the modules beside this one.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.admin import AdminSite
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.urls import URLPattern, URLResolver, path, reverse

from billing.models import (
    Charge,
    Drift,
    EnterpriseRequest,
    Payment,
    ProviderEvent,
    Reconciliation,
    Refund,
    Shipment,
)
from gateway.models import QuarantinedEntry
from keys import issuance
from keys.models import ApiKey
from portal.ratelimits import by_address, by_field, limited
from portal.staff import analytics, api_identity, imports, ledger, sandbox

# What a group lists: models by label, in the order in which staff look for them.
GROUPS: dict[str, tuple[str, ...]] = {
    "Customers": ("portal.Account", "billing.EnterpriseRequest", "portal.User"),
    "Plans and billing": (
        "billing.Plan",
        "billing.PlanVersion",
        "billing.AddOn",
        "billing.PriceChange",
        "billing.PriceMove",
        "billing.Contract",
        "billing.CreditPack",
        "billing.CreditGrant",
        "billing.TopUp",
        "billing.Subscription",
        "billing.Checkout",
        "billing.Invoice",
        "billing.Charge",
        "billing.Payment",
        "billing.Refund",
        "billing.BillingEvent",
        "billing.Shipment",
        "billing.Reconciliation",
        "billing.Drift",
        "billing.SandboxMeterEvent",
    ),
    "APIs and usage": (
        "gateway.Api",
        "gateway.Meter",
        "gateway.UsageRollup",
        "gateway.RefusalRollup",
        "gateway.QuarantinedEntry",
        "gateway.CounterCorrection",
    ),
    "Keys": ("keys.ApiKey", "keys.KeyEvent", "keys.ServiceToken"),
    "Inbox": ("billing.ProviderEvent",),
    "Staff": ("auth.Group", "auditlog.LogEntry"),
}
# What they are called there, where the rows' own name says less.
NAMES = {
    "auditlog.LogEntry": "Audit log",
    "billing.AddOn": "Add-ons",
    "billing.BillingEvent": "Billing history",
    "billing.Drift": "Drift from providers",
    "billing.TopUp": "Credits bought",
    "gateway.CounterCorrection": "Corrected counters",
    "billing.Reconciliation": "Reconciliations with providers",
    "billing.SandboxMeterEvent": "Sandbox’s meter",
    "billing.Shipment": "Shipments of usage",
    "gateway.RefusalRollup": "Refusals by minute",
    "gateway.UsageRollup": "Usage by quarter hour",
    "keys.KeyEvent": "Key history",
}
# By then usage is late: the drain goes by every second.
LATE_SECONDS = 60
# auditlog's pages search a user's first and last name, which ours don't have.
REPLACED = {"auditlog.admin"}


class StaffSite(AdminSite):
    """Django's admin site with our groups, our pages and our look."""

    site_header = site_title = f"{settings.SITE_NAME} staff"
    index_title = "Staff"
    index_template = "admin/staff_index.html"
    empty_value_display = "–"

    def register(self, model_or_iterable: Any, admin_class: Any = None, **options: Any) -> None:
        """Leaves out the pages of libraries that ours replace, whichever comes first."""
        if admin_class is None or admin_class.__module__ not in REPLACED:
            super().register(model_or_iterable, admin_class, **options)

    def get_urls(self) -> list[URLPattern | URLResolver]:
        view = self.admin_view
        return [
            path("analytics/", view(analytics.page), name="analytics"),
            path("sandbox/", view(sandbox.page), name="sandbox"),
            path("sandbox/journey/", view(sandbox.journey), name="sandbox_journey"),
            path("gateway/usageevent/", view(ledger.page), name="ledger"),
            path("gateway/api/import/", view(imports.choose), name="gateway_api_import"),
            path(
                "gateway/api/import/<str:token>/",
                view(imports.confirm),
                name="gateway_api_import_confirm",
            ),
            path(
                "gateway/api/<int:pk>/identity/",
                view(api_identity.page),
                name="gateway_api_identity",
            ),
            *super().get_urls(),
        ]

    def get_app_list(
        self, request: HttpRequest, app_label: str | None = None
    ) -> list[dict[str, Any]]:
        """Our groups; an app's own index page, reached by breadcrumbs, stays Django's."""
        apps = super().get_app_list(request, app_label)
        if app_label is not None:
            return apps
        models = {model["model"]._meta.label: model for app in apps for model in app["models"]}
        for label, name in NAMES.items():
            if label in models:
                models[label]["name"] = name
        groups = []
        for name, labels in GROUPS.items():
            listed = [models[label] for label in labels if label in models]
            if name == "APIs and usage" and request.user.has_perm("gateway.view_usagerollup"):
                listed.insert(2, _entry("Calls", "ledger"))
            if name == "Plans and billing" and request.user.has_perm("billing.view_subscription"):
                listed.insert(0, _entry("Analytics", "analytics"))
                if settings.PAYMENT_PROVIDER == "sandbox":
                    listed.insert(1, _entry("Sandbox", "sandbox"))
            if listed:
                groups.append(
                    {
                        "name": name,
                        "app_label": name.lower().replace(" ", "-"),
                        "app_url": "",
                        "has_module_perms": True,
                        "models": listed,
                    }
                )
        return groups

    def login(  # type: ignore[override]
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        """The admin's own form, counted with everybody's sign-in."""
        guarded = limited("login", (by_address, "100/15m"), (by_field("username"), "10/15m"))
        return guarded(super().login)(request, extra_context)

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        return super().index(request, {**(extra_context or {}), "waiting": waiting(request)})


def _entry(name: str, url_name: str) -> dict[str, Any]:
    """A page of ours, listed as if it were a model that is only read."""
    address = reverse(f"admin:{url_name}")
    return {
        "name": name,
        "object_name": name,
        "admin_url": address,
        "add_url": None,
        "view_only": True,
    }


def _latest_reconciliations() -> QuerySet[Reconciliation]:
    return Reconciliation.objects.order_by("provider", "-at").distinct("provider")


def waiting(request: HttpRequest) -> list[dict[str, Any]]:
    """What asks for a member of staff, with the way there; only what is not zero."""
    on_the_way = ledger.on_the_way()
    is_late = on_the_way and on_the_way.lag_seconds >= LATE_SECONDS
    asked = (
        (
            "billing.view_enterpriserequest",
            EnterpriseRequest.objects.filter(state=EnterpriseRequest.State.NEW).count(),
            "enterprise request to answer",
            "enterprise requests to answer",
            reverse("admin:billing_enterpriserequest_changelist") + "?state__exact=new",
        ),
        (
            "billing.view_providerevent",
            ProviderEvent.objects.filter(dead_at__isnull=False).count(),
            "provider event given up",
            "provider events given up",
            reverse("admin:billing_providerevent_changelist") + "?standing=dead",
        ),
        (
            "billing.view_payment",
            Payment.objects.filter(dispute=Payment.Dispute.OPEN).count(),
            "payment disputed",
            "payments disputed",
            reverse("admin:billing_payment_changelist") + "?dispute=open",
        ),
        (
            "billing.view_charge",
            Charge.objects.filter(state=Charge.State.FAILED, invoice__isnull=False).count(),
            "invoice that could not be charged",
            "invoices that could not be charged",
            reverse("admin:billing_charge_changelist") + "?state__exact=failed",
        ),
        (
            "billing.view_refund",
            Refund.objects.filter(state=Refund.State.FAILED).count(),
            "refund that the provider declined",
            "refunds that the provider declined",
            reverse("admin:billing_refund_changelist") + "?state__exact=failed",
        ),
        (
            "billing.view_shipment",
            Shipment.objects.filter(state__in=("refused", "held")).count(),
            "shipment of usage refused or held",
            "shipments of usage refused or held",
            reverse("admin:billing_shipment_changelist") + "?state__in=refused%2Cheld",
        ),
        (
            "billing.view_reconciliation",
            sum(found.differing > 0 for found in _latest_reconciliations()),
            "provider counts other than the ledger",
            "providers count other than the ledger",
            reverse("admin:billing_reconciliation_changelist"),
        ),
        (
            "billing.view_drift",
            Drift.objects.filter(repaired_at=None).exclude(error="").count(),
            "subscription that can’t be made what its provider says",
            "subscriptions that can’t be made what their provider says",
            reverse("admin:billing_drift_changelist"),
        ),
        (
            "gateway.view_usagerollup",
            on_the_way.waiting if on_the_way and is_late else 0,
            "call waits for the ledger, for more than a minute",
            "calls wait for the ledger, for more than a minute",
            reverse("admin:ledger"),
        ),
        (
            "gateway.view_quarantinedentry",
            QuarantinedEntry.objects.filter(closed_at=None).count(),
            "usage entry in quarantine",
            "usage entries in quarantine",
            reverse("admin:gateway_quarantinedentry_changelist") + "?standing=waiting",
        ),
        (
            "keys.view_apikey",
            issuance.to_be_rotated(ApiKey.objects.all()).count(),
            "key under the older pepper",
            "keys under the older pepper",
            reverse("admin:keys_apikey_changelist") + "?pepper=older",
        ),
    )
    return [
        {"count": count, "text": one if count == 1 else many, "address": address}
        for permission, count, one, many, address in asked
        if count and request.user.has_perm(permission)
    ]
