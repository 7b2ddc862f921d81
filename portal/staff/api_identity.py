"""The secrets that sign an API's calls: drawn, shown once, used, removed.

A secret leaves in the response to the POST that draws it and in no other: not by way of a message,
which would be kept in the session. The rules of the secrets are `gateway.catalogue`'s.
"""

from __future__ import annotations

from django.contrib import messages
from django.contrib.admin import site
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.views.decorators.cache import never_cache

from gateway import catalogue, identity
from gateway.models import Api

SWITCHED = "Calls are signed with the next secret from now on; the one before is gone."
REMOVED = "Calls are no longer signed."


@never_cache
def page(request: HttpRequest, pk: int) -> HttpResponse:
    """Says which secrets there are, by `kid`, and does what its buttons say."""
    if not request.user.has_perm("gateway.change_api"):
        raise PermissionDenied
    api = get_object_or_404(Api.objects.defer("document"), pk=pk)
    drawn = None
    if request.method == "POST":
        if "draw" in request.POST:
            drawn = catalogue.draw_identity_secret(api)
            _note(request, api, f"Drew the signing secret {drawn.kid}.")
        elif "switch" in request.POST:
            catalogue.use_next_identity_secret(api)
            _note(request, api, SWITCHED)
        elif "remove" in request.POST:
            catalogue.remove_identity_secrets(api)
            _note(request, api, REMOVED)
        if drawn is None:
            return HttpResponseRedirect(request.path)
        api.refresh_from_db(fields=["identity_sealed"])
    kids = [secret.kid for secret in identity.unseal(api.identity_sealed)]
    context = {
        **site.each_context(request),
        "title": f"Signed identity of {api}",
        "api": api,
        "drawn": drawn,
        "signing": kids[0] if kids else None,
        "next": kids[1] if len(kids) > 1 else None,
        "opts": Api._meta,
    }
    return TemplateResponse(request, "admin/api_identity.html", context)


def _note(request: HttpRequest, api: Api, sentence: str) -> None:
    site.get_model_admin(Api).log_change(request, api, sentence)
    messages.success(request, sentence)
