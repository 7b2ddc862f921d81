"""The forms of the keys pages: a key's settings, and what they may choose from.

The rules that settings must pass are `keys.restrictions`'; here are fields, labels and help.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any

from django import forms

from gateway.catalogue import on_sale
from keys import clock, restrictions
from keys.models import ApiKey, Entitlement

OVERLAPS = {
    "0": (timedelta(0), "Now: the old key stops at once"),
    "1": (timedelta(hours=1), "1 hour"),
    "24": (timedelta(hours=24), "24 hours"),
    "168": (timedelta(days=7), "7 days"),
}
ALL, SOME = "all", "some"


@dataclass(frozen=True)
class Choice:
    """An operation to tick. `value` is how restrictions name it: “holidays GET /v1/countries”."""

    value: str
    method_path: str
    summary: str
    is_chosen: bool


def operations_on_sale() -> dict[str, list[tuple[str, str]]]:
    """By API name: each operation as restrictions name it, with its summary."""
    return {
        api.name: [
            (f"{api.slug} {operation.method} {operation.path_template}", operation.summary)
            for operation in api.operations.all()
        ]
        for api in on_sale().prefetch_related("operations")
    }


class LastDay(forms.DateField):
    """A day until whose end something works; cleaned to the midnight after it, UTC, or None."""

    def __init__(self, help_text: str):
        super().__init__(
            required=False,
            label="Last day",
            help_text=help_text,
            input_formats=["%Y-%m-%d"],
            widget=forms.DateInput(format="%Y-%m-%d", attrs={"type": "date"}),
        )

    def prepare_value(self, value: Any) -> Any:
        return (value - timedelta(microseconds=1)).date() if isinstance(value, datetime) else value

    def has_changed(self, initial: Any, data: Any) -> bool:
        return super().has_changed(self.prepare_value(initial), data)

    def clean(self, value: Any) -> Any:
        day = super().clean(value)
        try:
            return day and datetime.combine(day + timedelta(days=1), time(), UTC)
        except OverflowError:
            raise forms.ValidationError("Choose an earlier day.") from None


class KeySettings(forms.Form):
    """What a key may do. After `is_valid`, `settings` are in the normal form of restrictions."""

    name = forms.CharField(
        max_length=restrictions.NAME_CHARACTERS,
        label="Name",
        help_text="Where it is used: “Production”, “Laptop”.",
    )
    expires_at = LastDay(
        "The key works until this day is over, in UTC. Empty: it does not end by itself."
    )
    allowed_networks = forms.CharField(
        required=False,
        max_length=10_000,
        label="Networks",
        help_text="One address or network a line, such as 203.0.113.7 or 2001:db8::/32. "
        "Empty: calls may come from anywhere.",
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
    )
    allowed_referrers = forms.CharField(
        required=False,
        max_length=30_000,
        label="Web pages",
        help_text="One site a line whose pages may call: example.com, or *.example.com for all "
        "sites under it. Empty: any page, and programs that name none.",
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
    )
    which_operations = forms.ChoiceField(
        label="Operations",
        required=False,
        widget=forms.RadioSelect,
        initial=ALL,
        choices=[(ALL, "All operations"), (SOME, "Only those ticked below")],
    )
    allowed_operations = forms.MultipleChoiceField(required=False, label="Operations")
    read_only = forms.BooleanField(
        required=False, label="Read only: GET, HEAD and OPTIONS and nothing else"
    )
    rate_per_second = forms.DecimalField(
        required=False,
        max_digits=9,
        decimal_places=3,
        label="Calls a second",
        help_text="0.5 is a call every two seconds. Empty: as fast as the account may.",
    )
    burst = forms.IntegerField(
        required=False, label="Calls at once", help_text="Empty: as many as come in a second."
    )
    monthly_quota = forms.IntegerField(
        required=False,
        label="Calls in a billing period",
        help_text="Empty: as many as the account has.",
    )

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        *,
        entitlement: Entitlement | None,
        held: ApiKey | None = None,
        initial: Mapping[str, Any] | None = None,
    ):
        self._entitlement = entitlement
        self._held = held
        self._on_sale = operations_on_sale()
        self.settings: dict[str, Any] = {}
        super().__init__(data, initial={**(_initial(held) if held else {}), **(initial or {})})
        for name in ("rate_per_second", "burst", "monthly_quota"):
            self.fields[name].widget.attrs["min"] = "0"
        operations: Any = self.fields["allowed_operations"]
        operations.choices = [(value, value) for value in self._known()]

    def _known(self) -> list[str]:
        offered = [value for listed in self._on_sale.values() for value, _ in listed]
        held = self._held.allowed_operations if self._held else []
        return offered + [value for value in held if value not in offered]

    @property
    def operations(self) -> dict[str, list[Choice]]:
        """By API, for the boxes to tick; what the key holds is listed though it is sold no more."""
        chosen = set(self["allowed_operations"].value() or ())
        offered = {
            api: [
                Choice(value, value.partition(" ")[2], summary, value in chosen)
                for value, summary in listed
            ]
            for api, listed in self._on_sale.items()
        }
        known = {choice.value for listed in offered.values() for choice in listed}
        gone = [Choice(v, v, "", v in chosen) for v in self._known() if v not in known]
        return {**offered, **({"No longer on sale": gone} if gone else {})}

    @property
    def is_opened(self) -> bool:
        """Whether the optional part has something in it that should be seen at once."""
        return bool(set(self.errors) - {"name", "mode"})

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        given = {name: cleaned[name] for name in ("name", *restrictions.FIELDS) if name in cleaned}
        for name in ("allowed_networks", "allowed_referrers"):
            if name in given:
                given[name] = given[name].splitlines()
        if cleaned.get("which_operations") != SOME:
            given["allowed_operations"] = []
        elif not given.get("allowed_operations") and "allowed_operations" not in self.errors:
            self.add_error("allowed_operations", "Tick at least one, or choose all operations.")
        if "expires_at" in cleaned and "expires_at" in self.changed_data:
            given["expires_at"] = cleaned["expires_at"]
        try:
            self.settings = restrictions.checked(
                given,
                on_sale=self._known(),
                entitlement=self._entitlement,
                now=clock.now(),
                held=self._held,
            )
        except restrictions.Invalid as invalid:
            for name, sentences in invalid.errors.items():
                self.add_error(name, sentences)
        return cleaned


class CreateKey(KeySettings):
    mode = forms.ChoiceField(
        label="Mode",
        widget=forms.RadioSelect,
        initial=ApiKey.Mode.LIVE,
        choices=[
            (ApiKey.Mode.LIVE, "Live: calls count towards your plan"),
            (ApiKey.Mode.TEST, "Test: a small daily quota of its own, never billed"),
        ],
    )


class RotateKey(forms.Form):
    overlap = forms.ChoiceField(
        label="How long the old key keeps working",
        widget=forms.RadioSelect,
        initial="24",
        choices=[(hours, label) for hours, (_, label) in OVERLAPS.items()],
    )


def _initial(key: ApiKey) -> dict[str, Any]:
    held = {name: getattr(key, name) for name in ("name", *restrictions.FIELDS)}
    if key.rate_per_second is not None:
        held["rate_per_second"] = f"{key.rate_per_second.normalize():f}"
    return held | {
        "expires_at": key.expires_at,
        "allowed_networks": "\n".join(key.allowed_networks),
        "allowed_referrers": "\n".join(key.allowed_referrers),
        "which_operations": SOME if key.allowed_operations else ALL,
    }
