"""What staff write about APIs and operations, judged before it is stored.

A form for hands has the rules of an imported document; both are `gateway.openapi`'s and
`gateway.catalogue`'s. Upstream headers go in and never come out again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from django import forms
from django.core.exceptions import ValidationError
from django.forms import BaseInlineFormSet, ModelForm

from gateway import addresses, catalogue, cors, openapi, settle
from gateway.models import Api, Meter, Operation
from portal.staff.plan_forms import LinesField

Judged = TypeVar("Judged")

TIMEOUTS = {
    "connect": "Connect",
    "first_byte": "First byte",
    "idle": "Idle",
    "total": "Total",
}
PRIVATE = "The upstream is a private address, which the gateway calls only where it is allowed."
MOST_DIMENSIONS = 4
METADATA_NAME = re.compile(r"[A-Za-z0-9_.-]{1,40}", re.ASCII)
STATUS = re.compile(r"[0-9]{3}", re.ASCII)
SETTLED_BY_API = range(201, 500)
"""Statuses of which an API says whether they are billed."""
NEVER = "That is a link-local address or cloud metadata, which no backend may be on."


def is_refused(upstream: str, private: addresses.Networks) -> bool:
    """Whether an upstream is written as an address that the gateway would not call.

    A name is judged when it is connected to: what it resolves to may change.

    private: the networks that it may be in besides the internet
    """
    host = urlsplit(upstream).hostname or ""
    try:
        return not addresses.is_allowed("127.0.0.1" if host == "localhost" else host, private)
    except ValueError:  # a name
        return False


class WriteOnly(forms.Textarea):
    """Takes a secret and never gives it back, not even to a form with errors."""

    def get_context(self, name: str, value: Any, attrs: dict[str, Any] | None) -> dict[str, Any]:
        return super().get_context(name, "", attrs)


class StatusesField(forms.CharField):
    """A JSON list of statuses below 500 that are not billed, written in one line: “404, 409”.

    Those that never are billed, whatever the API, are not kept.
    """

    def __init__(self, **kwargs: Any) -> None:
        widget = forms.TextInput(attrs={"class": "vTextField"})
        super().__init__(widget=widget, max_length=400, required=False, **kwargs)

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(map(str, value)) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        parts = (super().to_python(value) or "").replace(",", " ").split()
        for part in parts:
            if not STATUS.fullmatch(part) or int(part) not in SETTLED_BY_API:
                first, last = SETTLED_BY_API[0], SETTLED_BY_API[-1]
                raise ValidationError(
                    f"“{part}” is not a status from {first} to {last}. 200 is always billed; 5xx, "
                    "408 and 429 never are. Write “404, 409”."
                )
        return sorted({int(part) for part in parts} - settle.UNBILLED)

    def has_changed(self, initial: Any, data: Any) -> bool:
        return super().has_changed(self.prepare_value(initial), data)


class ApiForm(ModelForm[Api]):
    """An API's settings; the upstream headers can be replaced or removed and never read."""

    upstream_headers = forms.CharField(
        required=False,
        label="Replace upstream headers",
        widget=WriteOnly(attrs={"rows": 3, "autocomplete": "off", "spellcheck": "false"}),
        help_text=(
            "One per line, Name: value. Added to every upstream request and stored encrypted. "
            "What you write replaces all of them; left empty, they stay as they are."
        ),
    )
    remove_upstream_headers = forms.BooleanField(required=False, label="Remove upstream headers")

    private_networks = LinesField(
        label="or in these private networks",
        help_text=(
            "One per line, such as 10.20.0.0/16, fd12:3456::/48 or 127.0.0.1. Where the backend’s "
            "name leads to any other private address, calls are answered with 502. Link-local "
            "addresses and cloud metadata are always refused. Empty: the internet only."
        ),
    )
    cors_origins = LinesField(
        label="Origins of web pages",
        help_text=(
            "Whose pages may call from a browser, one per line: https://app.example, "
            "https://*.example.com, or * for all. Empty: the backend’s own CORS fields pass."
        ),
    )

    unbilled_statuses = StatusesField(
        label="Statuses that are not billed",
        help_text=(
            "Answers below 500 that cost nothing, such as 404, 409. They are recorded, and what "
            "the call took from quotas and credits is given back. 5xx, 408 and 429 never cost "
            "anything. Customers read this in the docs. Empty: all other answers are billed."
        ),
    )

    class Meta:
        model = Api
        fields = (
            "name",
            "slug",
            "description",
            "enabled",
            "listed",
            "unlisted",
            "upstream_url",
            "test_upstream_url",
            "allow_private_upstream",
            "private_networks",
            "cors_origins",
            "unbilled_statuses",
            "connect_timeout_seconds",
            "first_byte_timeout_seconds",
            "idle_timeout_seconds",
            "total_timeout_seconds",
            "max_body_bytes",
        )
        labels = {
            "upstream_url": "Upstream",
            "test_upstream_url": "Test upstream",
            "allow_private_upstream": "The backend may be on any private address",
            **{f"{name}_timeout_seconds": f"{label} timeout" for name, label in TIMEOUTS.items()},
            "max_body_bytes": "Largest body",
        }
        help_texts = {
            "slug": "The part of every call’s address after /gateway/.",
            "allow_private_upstream": "Loopback, too. Naming its networks below allows less.",
        }

    def clean_upstream_url(self) -> str:
        return _clean(catalogue.upstream_url, self.cleaned_data["upstream_url"])

    def clean_test_upstream_url(self) -> str:
        given = self.cleaned_data["test_upstream_url"]
        return _clean(catalogue.upstream_url, given) if given else ""

    def clean_upstream_headers(self) -> dict[str, str]:
        return _clean(catalogue.parse_headers, self.cleaned_data["upstream_headers"])

    def clean_private_networks(self) -> list[str]:
        given: list[str] = self.cleaned_data["private_networks"]
        try:
            addresses.networks(given)
        except ValueError as error:
            raise ValidationError(str(error)) from None
        return given

    def clean_cors_origins(self) -> list[str]:
        try:
            return [cors.parse(origin) for origin in self.cleaned_data["cors_origins"]]
        except ValueError as error:
            raise ValidationError(str(error)) from None

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        first, total = (
            cleaned.get(name) for name in ("first_byte_timeout_seconds", "total_timeout_seconds")
        )
        if first and total and total < first:
            self.add_error(
                "total_timeout_seconds",
                "The whole call can't have less time than its first byte; 0 is no limit.",
            )
        private = addresses.networks(cleaned.get("private_networks", ()))
        if cleaned.get("allow_private_upstream"):
            private = addresses.EVERYWHERE
        for field in ("upstream_url", "test_upstream_url"):
            upstream = cleaned.get(field, "")
            if is_refused(upstream, addresses.EVERYWHERE):
                self.add_error(field, NEVER)
            elif is_refused(upstream, private):
                self.add_error(field, PRIVATE)
        if cleaned.get("upstream_headers") and cleaned.get("remove_upstream_headers"):
            self.add_error("remove_upstream_headers", "Replace the headers or remove them.")
        return cleaned

    def save(self, commit: bool = True) -> Api:
        headers = self.cleaned_data["upstream_headers"]
        if headers or self.cleaned_data["remove_upstream_headers"]:
            self.instance.upstream_headers_sealed = catalogue.seal_headers(headers)
        return super().save(commit)


def _clean(judge: Callable[[str], Judged], given: str) -> Judged:
    try:
        return judge(given)
    except catalogue.InvalidTerms as invalid:
        raise ValidationError(str(invalid)) from None


class MeterForm(ModelForm[Meter]):
    dimensions = LinesField(
        label="Dimensions",
        help_text="Metadata of a call that usage is summed by and that a price may depend on, one "
        f"name per line, {MOST_DIMENSIONS} at most: “model”. For calls from then on.",
    )

    class Meta:
        model = Meter
        fields = ("name", "label", "description", "dimensions")

    def clean_dimensions(self) -> list[str]:
        names: list[str] = self.cleaned_data["dimensions"]
        if len(names) > MOST_DIMENSIONS:
            raise ValidationError(f"There are {MOST_DIMENSIONS} dimensions at most.")
        for name in names:
            if not METADATA_NAME.fullmatch(name):
                raise ValidationError(
                    f"“{name}” is no name of metadata: letters, digits, “_”, “.” and “-”, "
                    "40 at most."
                )
        if len(set(names)) < len(names):
            raise ValidationError("Each dimension is named once.")
        return names


class OperationForm(ModelForm[Operation]):
    class Meta:
        model = Operation
        fields = ("method", "path_template", "summary", "weights", "max_units", "scope")
        widgets = {
            "method": forms.Select(choices=[(name.upper(),) * 2 for name in openapi.METHODS]),
            "weights": forms.TextInput,
            "max_units": forms.TextInput,
        }

    def clean_path_template(self) -> str:
        template: str = self.cleaned_data["path_template"]
        try:
            openapi.check_paths([template])
        except openapi.InvalidDocument as invalid:
            raise ValidationError(str(invalid)) from None
        return template

    def clean_weights(self) -> dict[str, int]:
        return self.clean_meters("weights", openapi.MAX_WEIGHT)

    def clean_max_units(self) -> dict[str, int]:
        return self.clean_meters("max_units", openapi.MAX_UNITS)

    def clean_meters(self, field: str, most: int) -> dict[str, int]:
        """Units by meter: an object of known meters and whole numbers from 1 to `most`."""
        value = self.cleaned_data[field] or {}
        if not isinstance(value, dict):
            raise ValidationError('Write units by meter, such as {"calls": 1}.')
        unknown = set(value) - set(Meter.objects.values_list("name", flat=True))
        if unknown:
            raise ValidationError(f"There is no meter “{min(unknown)}”; add it under Meters first.")
        for meter, units in value.items():
            if type(units) is not int or not 1 <= units <= most:
                raise ValidationError(f"“{meter}” needs a whole number from 1 to {most:,}.")
        return value

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        weights, max_units = cleaned.get("weights") or {}, cleaned.get("max_units") or {}
        if "calls" in max_units:
            self.add_error("max_units", "Calls are counted by the gateway, not reported.")
        elif both := set(weights) & set(max_units):
            self.add_error(
                "max_units",
                f"“{min(both)}” is in weights already: units are known before the call or "
                "reported after it.",
            )
        return cleaned


class OperationFormSet(BaseInlineFormSet[Operation, Api, OperationForm]):
    def clean(self) -> None:
        super().clean()
        shapes: dict[tuple[str, str], str] = {}
        for form in self.forms:
            cleaned = form.cleaned_data if form.is_valid() else {}
            if not cleaned.get("path_template") or cleaned.get("DELETE"):
                continue
            template = cleaned["path_template"]
            shape = (cleaned["method"], re.sub(r"\{[^{}]+\}", "{}", template))
            if shapes.setdefault(shape, template) != template:
                raise ValidationError(
                    f"“{shapes[shape]}” and “{template}” differ in the names of their "
                    "parameters only, so a call would match both."
                )
