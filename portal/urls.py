"""Every address of the site, room by room. `/gateway/…` is answered before Django (asgi.py)."""

from allauth.account import views as account
from django.contrib import admin
from django.urls import URLPattern, URLResolver, path, re_path

from billing import webhooks
from billing.sandbox import views as sandbox
from gateway.views import GatewayView
from portal import (
    access,
    billing_pages,
    credit_pages,
    dashboard,
    docs,
    export_pages,
    invoice_pages,
    key_pages,
    leak_pages,
    metrics,
    pages,
    payment_pages,
    plan_pages,
    purchase,
    signup,
    token_pages,
    verification,
)
from portal.api import access as api_access
from portal.api import credits as api_credits
from portal.api import events as api_events
from portal.api import invoices as api_invoices
from portal.api import keys as api_keys
from portal.api import usage as api_usage
from portal.api.schema import Schema
from portal.demo import mailbox
from portal.try_it import TryIt

urlpatterns: list[URLPattern | URLResolver] = [
    # public pages: landing, pricing, enterprise form, health
    path("", pages.landing, name="landing"),
    path("pricing", pages.pricing, name="pricing"),
    path("pricing/", pages.pricing),
    path("enterprise/", pages.enterprise, name="enterprise"),
    path("enterprise/sent/", pages.enterprise_sent, name="enterprise_sent"),
    path("healthz", pages.healthz, name="healthz"),
    path("readyz", pages.readyz, name="readyz"),
    path("metrics", metrics.metrics, name="metrics"),
    path("robots.txt", pages.robots_txt, name="robots_txt"),
    path("llms.txt", pages.llms_txt, name="llms_txt"),
    path(".well-known/security.txt", pages.security_txt, name="security_txt"),
    # people: sign-up, login, address verification, mailbox of the demo
    path("signup/", signup.signup, name="account_signup"),
    path("login/", signup.login, name="account_login"),
    path("logout/", account.logout, name="account_logout"),
    path("inactive/", account.account_inactive, name="account_inactive"),
    path("password/reset/", signup.password_reset, name="account_reset_password"),
    path("password/reset/done/", account.password_reset_done, name="account_reset_password_done"),
    path(
        "password/reset/key/done/",
        account.password_reset_from_key_done,
        name="account_reset_password_from_key_done",
    ),
    re_path(
        r"^password/reset/key/(?P<uidb36>[0-9A-Za-z]+)-(?P<key>[^/]+)/$",
        signup.set_password,
        name="account_reset_password_from_key",
    ),
    path("verify/", verification.verify, name="address_verify"),
    path("verify/send/", verification.send_code, name="address_send_code"),
    path("demo/mail/", mailbox.mailbox, name="mailbox"),
    path("demo/mail/<slug:name>/", mailbox.letter, name="letter"),
    path("demo/mail/<slug:name>/html", mailbox.letter_html, name="letter_html"),
    # dashboard
    path("dashboard/", dashboard.overview, name="overview"),
    path("dashboard/live/", dashboard.live_overview, name="live_overview"),
    path("dashboard/switch/", access.switch_account, name="switch_account"),
    path("dashboard/billing/", billing_pages.billing, name="billing"),
    path("dashboard/billing/cancel/", billing_pages.billing_cancel, name="billing_cancel"),
    path("dashboard/billing/resume/", billing_pages.billing_resume, name="billing_resume"),
    path("dashboard/billing/spend-cap/", billing_pages.billing_spend_cap, name="billing_spend_cap"),
    path("dashboard/billing/overage/", billing_pages.billing_overage, name="billing_overage"),
    # the plan changed, its add-ons, how it is paid
    path("dashboard/billing/change/", plan_pages.change, name="change"),
    path("dashboard/billing/change/withdraw/", plan_pages.change_withdraw, name="change_withdraw"),
    path("dashboard/billing/change/<int:version_id>/", plan_pages.change_to, name="change_to"),
    path("dashboard/billing/add-ons/", plan_pages.add_ons, name="add_ons"),
    path("dashboard/billing/add-ons/<int:add_on_id>/", plan_pages.add_on_buy, name="add_on_buy"),
    path(
        "dashboard/billing/add-ons/<int:add_on_id>/drop/",
        plan_pages.add_on_drop,
        name="add_on_drop",
    ),
    path(
        "dashboard/billing/add-ons/<int:add_on_id>/keep/",
        plan_pages.add_on_keep,
        name="add_on_keep",
    ),
    path("dashboard/billing/payment-method/", plan_pages.payment_method, name="payment_method"),
    path("dashboard/billing/move/", plan_pages.move, name="move"),
    path("dashboard/billing/credits/", credit_pages.credits_page, name="credits"),
    path(
        "dashboard/billing/credits/buy/<int:pack_id>/",
        credit_pages.credits_buy,
        name="credits_buy",
    ),
    path("dashboard/billing/credits/auto/", credit_pages.credits_auto, name="credits_auto"),
    path(
        "dashboard/billing/credits/auto/resume/",
        credit_pages.credits_auto_resume,
        name="credits_auto_resume",
    ),
    path(
        "dashboard/billing/credits/auto/off/",
        credit_pages.credits_auto_off,
        name="credits_auto_off",
    ),
    path("dashboard/billing/credits/<uuid:top_up_id>/", credit_pages.top_up_page, name="top_up"),
    # usage
    path("dashboard/usage/export/", export_pages.export_page, name="usage_export"),
    path(
        "dashboard/usage/export/<uuid:export_id>/file",
        export_pages.export_file,
        name="usage_export_file",
    ),
    path(
        "dashboard/usage/export/<uuid:export_id>/",
        export_pages.export_progress,
        name="usage_export_progress",
    ),
    path("dashboard/billing/payments/", payment_pages.payment_list, name="payments"),
    path(
        "dashboard/billing/payments/<uuid:payment_id>/",
        payment_pages.payment_page,
        name="payment",
    ),
    path(
        "dashboard/billing/payments/<uuid:payment_id>.pdf",
        payment_pages.payment_pdf,
        name="payment_pdf",
    ),
    path("dashboard/billing/refunds/<uuid:refund_id>/", payment_pages.refund_page, name="refund"),
    path(
        "dashboard/billing/refunds/<uuid:refund_id>.pdf",
        payment_pages.refund_pdf,
        name="refund_pdf",
    ),
    path("dashboard/billing/details/", payment_pages.details, name="billing_details"),
    path("dashboard/billing/pay/", payment_pages.charge_again, name="charge_again"),
    path("dashboard/billing/invoices/", invoice_pages.invoice_list, name="invoices"),
    path(
        "dashboard/billing/invoices/<uuid:invoice_id>/",
        invoice_pages.invoice_page,
        name="invoice",
    ),
    path(
        "dashboard/billing/invoices/<uuid:invoice_id>.pdf",
        invoice_pages.invoice_pdf,
        name="invoice_pdf",
    ),
    path(
        "dashboard/billing/invoices/<uuid:invoice_id>/file",
        invoice_pages.invoice_file,
        name="invoice_file",
    ),
    path(
        "dashboard/billing/invoices/<uuid:invoice_id>/<int:position>/",
        invoice_pages.line_page,
        name="invoice_line",
    ),
    path(
        "dashboard/billing/invoices/<uuid:invoice_id>/<int:position>/<str:hour>/",
        invoice_pages.hour_page,
        name="invoice_hour",
    ),
    # keys
    path("dashboard/keys/", key_pages.key_list, name="keys"),
    path("dashboard/keys/create/", key_pages.key_create, name="key_create"),
    path("dashboard/keys/<uuid:key_id>/", key_pages.key_page, name="key_page"),
    path("dashboard/keys/<uuid:key_id>/claim/", key_pages.key_claim, name="key_claim"),
    path("dashboard/keys/<uuid:key_id>/rotate/", key_pages.key_rotate, name="key_rotate"),
    path("dashboard/keys/<uuid:key_id>/revoke/", key_pages.key_revoke, name="key_revoke"),
    # leaked keys
    path("leaks/github", leak_pages.github_report, name="leak_github"),
    path("leaks/report/", leak_pages.report, name="leak_report"),
    path("leaks/report/thanks/", leak_pages.reported, name="leak_reported"),
    path("dashboard/keys/on-leak/", leak_pages.choose_policy, name="leak_policy"),
    # service tokens
    path("dashboard/tokens/", token_pages.token_list, name="tokens"),
    path("dashboard/tokens/create/", token_pages.token_create, name="token_create"),
    path(
        "dashboard/tokens/<uuid:token_id>/revoke/",
        token_pages.token_revoke,
        name="token_revoke",
    ),
    # purchase: checkout, success, claim; the sandbox's own pages; webhooks
    path("buy/<slug:plan>/", purchase.buy, name="buy"),
    path("checkout/<uuid:checkout_id>/", purchase.checkout_page, name="checkout_return"),
    path("claim/<str:token>/", purchase.claim_link, name="claim_link"),
    path("sandbox/checkout/<slug:order_id>/", sandbox.checkout, name="sandbox_checkout"),
    path("sandbox/customer/<slug:customer_id>/", sandbox.customer, name="sandbox_customer"),
    path("webhooks/<slug:provider>", webhooks.receive, name="webhook"),
    path("webhooks/<slug:provider>/", webhooks.receive),
    # docs
    path("docs/", docs.quickstart, name="docs"),
    re_path(r"^docs/authentication/?$", docs.authentication, name="docs_authentication"),
    re_path(r"^docs/limits/?$", docs.limits, name="docs_limits"),
    re_path(r"^docs/errors/?$", docs.errors, name="docs_errors"),
    re_path(r"^docs/management/?$", docs.management, name="docs_management"),
    path("docs/api/<slug:slug>/", docs.api, name="docs_api"),
    # control plane
    path("api/schema/", Schema.as_view(), name="api_schema"),
    path("api/v1/keys", api_keys.Keys.as_view(), name="api_keys"),
    path("api/v1/keys/<uuid:key_id>", api_keys.OneKey.as_view(), name="api_key"),
    path("api/v1/keys/<uuid:key_id>/rotate", api_keys.RotateKey.as_view(), name="api_key_rotate"),
    path("api/v1/keys/<uuid:key_id>/revoke", api_keys.RevokeKey.as_view(), name="api_key_revoke"),
    path("api/v1/events", api_events.Events.as_view(), name="api_events"),
    path("api/v1/usage", api_usage.Usage.as_view(), name="api_usage"),
    path("api/v1/usage/export", api_usage.UsageExport.as_view(), name="api_usage_export"),
    path("api/v1/credits", api_credits.Credits.as_view(), name="api_credits"),
    path("api/v1/invoices", api_invoices.Invoices.as_view(), name="api_invoices"),
    path(
        "api/v1/invoices/<uuid:invoice_id>",
        api_invoices.OneInvoice.as_view(),
        name="api_invoice",
    ),
    path("api/v1/invoices/", api_invoices.Invoices.as_view(schema=None)),
    re_path(r"^api/", api_access.NothingHere.as_view()),
    # the DRF door: `/gateway/…` under WSGI, “Try it”
    re_path(r"^gateway/", GatewayView.as_view(), name="gateway"),
    path("try/<slug:api>/", TryIt.as_view(), name="try_it"),
    # staff
    path("admin/", admin.site.urls),
]
