"""Importing an OpenAPI document in the admin: choose it, see what would change, apply.

Owns the two forms and what is kept between them: the document's text, in the cache, for an hour
and for the one who brought it. What a document means is `gateway.openapi`'s, what it does to the
rows is `gateway.catalogue`'s.
"""

from __future__ import annotations

import secrets
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin import site
from django.core.cache import cache
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.text import slugify

from gateway import addresses, catalogue, openapi, plain_data
from gateway.models import Api
from portal.models import User
from portal.staff.api_forms import NEVER, PRIVATE, is_refused

KEPT_SECONDS = 3600


class ImportForm(forms.Form):
    """The document (a file, a URL, or the one kept from the last try) and where its calls go."""

    document = forms.FileField(
        required=False, label="File", help_text="JSON or YAML, 5 MB at most."
    )
    document_url = forms.CharField(
        required=False,
        max_length=1000,
        label="or URL",
        widget=forms.TextInput(attrs={"class": "vLargeTextField", "inputmode": "url"}),
        help_text="Fetched once, now; from a private address only where the backend may have one.",
    )
    kept = forms.CharField(required=False, widget=forms.HiddenInput)
    name = forms.CharField(
        required=False,
        max_length=80,
        help_text="As customers read it; empty: the document's title.",
    )
    slug = forms.SlugField(
        required=False,
        max_length=40,
        help_text="Calls go to /gateway/<slug>/…; empty: made from the name.",
    )
    upstream_url = forms.CharField(
        required=False,
        max_length=500,
        label="Upstream",
        widget=forms.TextInput(attrs={"class": "vLargeTextField", "inputmode": "url"}),
        help_text=(
            "Your backend, which only the gateway needs to reach; "
            "empty: the first server of the document."
        ),
    )
    allow_private_upstream = forms.BooleanField(
        required=False,
        help_text="The backend, and a document fetched by URL, may be on a private address.",
    )

    def __init__(self, *args: Any, user_id: int, api: Api | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.user_id = user_id
        self.api = api
        self.text = b""
        self.read: openapi.Document | None = None
        if api is not None:
            for field in ("name", "slug", "upstream_url", "allow_private_upstream"):
                del self.fields[field]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if {"document", "document_url"} & set(self.errors):
            return cleaned
        try:
            self.text = self.document_text(cleaned)
            self.read = openapi.read(self.text)
        except openapi.InvalidDocument as invalid:
            source = "document_url" if cleaned.get("document_url") else "document"
            self.add_error(source, str(invalid))
            return cleaned
        # A document that could be read is not asked for again when another field is wrong.
        data = QueryDict(mutable=True)
        data.update(self.data)
        data["kept"] = keep(self.user_id, {"text": self.text})
        self.data = data
        if self.api is None:
            self.complete(cleaned, self.read)
        return cleaned

    def document_text(self, cleaned: dict[str, Any]) -> bytes:
        upload, url = cleaned.get("document"), cleaned.get("document_url")
        if upload and url:
            raise ValidationError("Give a file or a URL, not both.")
        if upload:
            if upload.size > plain_data.MAX_BYTES:
                raise openapi.InvalidDocument("The document is larger than 5 MB.")
            text: bytes = upload.read()
            return text
        if url:
            if self.api is not None:
                return openapi.fetch(url, private=self.api.backend_networks)
            anywhere = cleaned["allow_private_upstream"]
            return openapi.fetch(url, private=addresses.EVERYWHERE if anywhere else ())
        kept = recall(self.user_id, cleaned.get("kept", ""))
        if kept is None:
            raise ValidationError("Choose a file or give a URL.")
        return bytes(kept["text"])

    def complete(self, cleaned: dict[str, Any], document: openapi.Document) -> None:
        """Takes from the document what was left empty, and judges the whole."""
        cleaned["name"] = cleaned.get("name") or document.title[:80]
        if "slug" not in self.errors:
            cleaned["slug"] = cleaned.get("slug") or slugify(cleaned["name"])[:40]
            if not cleaned["slug"]:
                self.add_error("slug", "The title has no letter for a slug; write one.")
            elif Api.objects.filter(slug=cleaned["slug"]).exists():
                self.add_error(
                    "slug",
                    f"There is an API “{cleaned['slug']}” already. To change it, import from its "
                    "own page; to sell another one, choose another slug.",
                )
        given = cleaned.get("upstream_url") or first_server(document)
        if not given:
            self.add_error(
                "upstream_url", "The document names no server with a full address; write one."
            )
            return
        try:
            cleaned["upstream_url"] = catalogue.upstream_url(given)
        except catalogue.InvalidTerms as invalid:
            self.add_error("upstream_url", str(invalid))
            return
        if is_refused(cleaned["upstream_url"], addresses.EVERYWHERE):
            self.add_error("upstream_url", NEVER)
        elif not cleaned["allow_private_upstream"] and is_refused(cleaned["upstream_url"], ()):
            self.add_error("allow_private_upstream", PRIVATE)


def first_server(document: openapi.Document) -> str:
    """The document's first server, where that is an address without variables."""
    servers = document.raw.get("servers") or [{}]
    address = str(servers[0].get("url", ""))
    return address if "{" not in address and address.startswith(("http://", "https://")) else ""


def keep(user_id: int, import_: dict[str, Any]) -> str:
    """Puts an import aside for an hour; the token brings it back to the same user only."""
    token = secrets.token_urlsafe(16)
    cache.set(_name(user_id, token), import_, timeout=KEPT_SECONDS)
    return token


def recall(user_id: int, token: str) -> dict[str, Any] | None:
    kept: dict[str, Any] | None = cache.get(_name(user_id, token))
    return kept


def _name(user_id: int, token: str) -> str:
    return f"import:{user_id}:{token}"


def staff_id(request: HttpRequest) -> int:
    """Who brings the document; the admin has let nobody in who isn't staff."""
    if not isinstance(request.user, User):
        raise PermissionDenied
    return request.user.pk


def choose(request: HttpRequest) -> HttpResponse:
    """Step 1: the document, and for a new API where it goes. `?api=` imports into that one."""
    api = None
    if asked := request.GET.get("api"):
        api = get_object_or_404(Api, pk=asked) if asked.isdecimal() else None
    check_permission(request, api)
    user_id = staff_id(request)
    form = ImportForm(request.POST or None, request.FILES or None, user_id=user_id, api=api)
    if request.method == "POST" and form.is_valid():
        fields = ("name", "slug", "upstream_url", "allow_private_upstream")
        token = keep(
            user_id,
            {
                "text": form.text,
                "api": api.pk if api else None,
                "choices": {name: form.cleaned_data.get(name) for name in fields},
            },
        )
        return HttpResponseRedirect(reverse("admin:gateway_api_import_confirm", args=[token]))
    context = {
        **site.each_context(request),
        "title": f"Import a document into {api}" if api else "Import an OpenAPI document",
        "form": form,
        "api": api,
        "kept": form.read,
        "opts": Api._meta,
    }
    return TemplateResponse(request, "admin/import_choose.html", context)


def confirm(request: HttpRequest, token: str) -> HttpResponse:
    """Step 2: every operation that would be added, kept or removed; POST applies it."""
    import_ = recall(staff_id(request), token)
    if import_ is None:
        messages.error(request, "What was chosen is kept for an hour; choose it again.")
        return HttpResponseRedirect(reverse("admin:gateway_api_import"))
    api = Api.objects.filter(pk=import_["api"]).first() if import_["api"] else None
    check_permission(request, api)
    document = openapi.read(import_["text"])
    if request.method == "POST":
        return apply(request, token, document, import_, api)
    on_sale = api.operations.values_list("method", "path_template") if api else ()
    changes = openapi.preview(document, on_sale)
    context = {
        **site.each_context(request),
        "title": f"Import {document.title} {document.version}",
        "document": document,
        "removed": changes.removed,
        "added": [(spec, cost(spec)) for spec in changes.added],
        "kept": [(spec, cost(spec)) for spec in changes.kept],
        "api": api,
        "choices": import_["choices"],
        "opts": Api._meta,
    }
    return TemplateResponse(request, "admin/import_confirm.html", context)


def cost(spec: openapi.OperationSpec) -> str:
    """What a call uses and needs, in words: “2 calls, up to 1,000 rows, needs history”."""
    fixed = {openapi.CALLS: 1, **spec.weights}
    words = [
        "1 call" if (meter, units) == (openapi.CALLS, 1) else f"{units:,} {meter}"
        for meter, units in fixed.items()
    ]
    words += [f"up to {units:,} {meter}" for meter, units in spec.max_units.items()]
    return ", ".join([*words, f"needs {spec.scope}"] if spec.scope else words)


def apply(
    request: HttpRequest,
    token: str,
    document: openapi.Document,
    import_: dict[str, Any],
    api: Api | None,
) -> HttpResponse:
    choices = import_["choices"]
    try:
        with transaction.atomic():
            if api is None:
                api = Api.objects.create(description=document.description, **choices)
            changes = catalogue.apply_document(api, document)
    except IntegrityError:
        messages.error(request, f"There is an API “{choices['slug']}” by now; choose another slug.")
        return HttpResponseRedirect(reverse("admin:gateway_api_import"))
    cache.delete(_name(staff_id(request), token))
    desk = site.get_model_admin(Api)
    desk.log_change(request, api, f"Imported {document.title} {document.version}.")
    messages.success(
        request,
        f"{api.name} offers {len(document.operations)} operations: {len(changes.added)} added, "
        f"{len(changes.kept)} kept, {len(changes.removed)} removed.",
    )
    return HttpResponseRedirect(reverse("admin:gateway_api_change", args=[api.pk]))


def check_permission(request: HttpRequest, api: Api | None) -> None:
    needed = "gateway.change_api" if api else "gateway.add_api"
    if not request.user.has_perm(needed):
        raise PermissionDenied
