"""Service tokens in the admin: the seller's own are made here, everybody's can be revoked."""

from datetime import datetime
from typing import Any, cast

from django.contrib import admin, messages
from django.contrib.auth.models import AbstractBaseUser
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils.cache import add_never_cache_headers
from django.utils.safestring import SafeString

from keys import clock, service_tokens
from keys.models import ServiceToken, ServiceTokenEvent
from portal import once
from portal.models import User
from portal.staff.desk import CappedPaginator, Deed, Facts, FactsInline, Outcome, link, tag
from portal.token_pages import NewToken


def revoke(request: HttpRequest, token: ServiceToken, now: datetime) -> Outcome:
    """Revokes, and says so only when the data plane has confirmed it."""
    actor = request.user if isinstance(request.user, AbstractBaseUser) else None
    address = request.META.get("REMOTE_ADDR")
    if service_tokens.revoke(token, actor=actor, address=address, now=now).confirmed:
        return Outcome(True, f"{token} is revoked; the gateway has confirmed it.")
    return Outcome(
        False,
        f"{token} is refused by the management API, and the gateway has not confirmed it yet. "
        "Publishing is repeated every few seconds; revoke it again to see whether it holds.",
    )


class ServiceTokenEventInline(FactsInline[ServiceTokenEvent, ServiceToken]):
    model = ServiceTokenEvent
    fields = ("kind", "actor", "address", "details", "at", "announced_at")
    readonly_fields = fields
    verbose_name_plural = "what was done to it"


@admin.register(ServiceToken)
class ServiceTokenAdmin(Facts[ServiceToken]):
    list_display = ("hint", "name", "of_whom", "scopes", "state_tag", "created_at", "last_used_at")
    list_filter = (("account", admin.EmptyFieldListFilter), "created_at")
    list_select_related = ("account",)
    search_fields = ("id__exact", "=last_four", "name", "account__name")
    search_help_text = "Last four characters, name of the token, or its account."
    paginator = CappedPaginator
    inlines = (ServiceTokenEventInline,)
    fields = (
        "hint",
        "name",
        "of_whom",
        "scopes",
        "state_tag",
        "created_by",
        "created_at",
        "expires_at",
        "revoked_at",
        "last_used_at",
    )
    deeds = (
        Deed(
            "revoke",
            "Revoke",
            "Programs that send this token are refused from their next request on. "
            "A revoked token never comes back.",
            revoke,
            offered=lambda token: token.revoked_at is None or not token.is_published,
            grave=True,
        ),
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("keys.add_servicetoken")

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """A token of the seller's; its text is in the answer to this POST and nowhere else."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        user = cast(User, request.user)
        form = NewToken(service_tokens.SELLER_SCOPES, request.POST or None)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Add a token of the seller’s",
            "form": form,
            "once": once.draw(user, "seller's token"),
        }
        if form.is_valid():
            if not self._is_first_time(request, user):
                return redirect("admin:keys_servicetoken_changelist")
            token, text = service_tokens.create(
                None,
                **form.cleaned_data,
                actor=user,
                address=request.META.get("REMOTE_ADDR"),
                now=clock.now(),
            )
            self.log_addition(request, token, "Made a token of the seller’s")
            context |= {"title": token.name, "token": token, "text": text}
        response = TemplateResponse(request, "admin/service_token_add.html", context)
        add_never_cache_headers(response)
        return response

    def _is_first_time(self, request: HttpRequest, user: User) -> bool:
        try:
            if once.spend(request.POST.get("once", ""), user, "seller's token"):
                return True
        except once.NotChecked:
            sentence = "Whether this form was sent before can’t be checked now; nothing was made."
        else:
            sentence = "This form was sent already: its token was shown then, and none made now."
        messages.warning(request, sentence)
        return False

    @admin.display(description="of", ordering="account__name")
    def of_whom(self, token: ServiceToken) -> str:
        return tag("the seller", "ok") if token.account is None else link(token.account)

    @admin.display(description="state")
    def state_tag(self, token: ServiceToken) -> SafeString:
        if token.revoked_at is not None:
            return tag("revoked" if token.is_published else "revoking", "")
        alive = token.is_alive(clock.now())
        return tag("active", "ok") if alive else tag("expired")
