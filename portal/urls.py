"""Every address of the site, room by room. `/gateway/…` is answered before Django (asgi.py)."""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, path

urlpatterns: list[URLPattern | URLResolver] = [
    # public pages: landing, pricing, enterprise form, health
    # people: sign-up, login, address verification, mailbox of the demo
    # dashboard
    # keys
    # purchase: checkout, success, claim; the sandbox's own pages; webhooks
    # docs
    # the DRF door: `/gateway/…` under WSGI, “Try it”
    # staff
    path("admin/", admin.site.urls),
]
