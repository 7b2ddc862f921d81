"""What staff write about prices, judged before it is stored: plans, versions, contracts.

Amounts are written in major units, as on the price list; rows keep minor ones.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from django import forms
from django.core.exceptions import ValidationError
from django.db.models import Model
from django.forms import ModelForm

from billing import money
from billing.models import AddOn, Contract, Plan, PlanMeter, PlanVersion
from billing.models.prices import SPECIAL_PRICES_HELP
from gateway.models import Api

Priced = TypeVar("Priced", bound=Model)


class LinesField(forms.CharField):
    """A JSON list of strings, written one per line."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(widget=forms.Textarea(attrs={"rows": 4}), required=False, **kwargs)

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        lines = (line.strip() for line in (super().to_python(value) or "").splitlines())
        return [line for line in lines if line]


class PricesField(forms.JSONField):
    """Tiers or special prices as JSON, a list that may be empty; the models have their rules."""

    def __init__(self, help_text: Any) -> None:
        area = forms.Textarea(attrs={"rows": 3, "cols": 60, "spellcheck": "false"})
        super().__init__(widget=area, required=False, initial=list, help_text=help_text)

    def clean(self, value: Any) -> Any:
        given = super().clean(value)
        return [] if given is None else given


class ApisField(forms.MultipleChoiceField):
    """Slugs of APIs as a JSON list; none chosen means all, also those that are added later."""

    def __init__(self) -> None:
        super().__init__(
            required=False,
            label="APIs",
            choices=lambda: [(api.slug, api.name) for api in Api.objects.defer("document")],
            help_text="Those that may be called; none chosen: all, also those added later.",
        )

    def clean(self, value: Any) -> Any:
        return super().clean(value) or None


class PricedForm(ModelForm[Priced]):
    """A row with a price and a currency. minor: the field that keeps it, in minor units"""

    minor: ClassVar[str] = "base_price_minor"

    base_price = forms.DecimalField(
        min_value=0,
        max_value=10**12,
        label="Base price",
        help_text="In major units: 50 or 49.90. A contract’s is per month.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        row: Any = self.instance
        amount_minor = getattr(row, self.minor)
        if amount_minor is not None:
            self.initial["base_price"] = money.to_major(amount_minor, row.currency)

    def clean_currency(self) -> str:
        currency: str = self.cleaned_data["currency"].upper()
        if not (len(currency) == 3 and currency.isascii() and currency.isalpha()):
            raise ValidationError("Write three letters, such as USD.")
        return currency

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        amount, currency = cleaned.get("base_price"), cleaned.get("currency")
        if amount is not None and currency:
            row: Any = self.instance
            amount_minor = money.to_minor(amount, currency)
            setattr(row, self.minor, amount_minor)
            if money.to_major(amount_minor, currency) != amount:
                places = money.exponent(currency)
                self.add_error("base_price", f"{currency} has {places} decimal places.")
        return cleaned


class PlanForm(ModelForm[Plan]):
    highlights = LinesField(help_text="Further lines of the price list, one per line.")

    class Meta:
        model = Plan
        fields = (
            "name",
            "slug",
            "tagline",
            "kind",
            "highlights",
            "recommended",
            "listed",
            "position",
        )


class VersionForm(PricedForm[PlanVersion]):
    apis = ApisField()

    class Meta:
        model = PlanVersion
        fields = (
            "plan",
            "currency",
            "interval",
            "rate_per_second",
            "burst",
            "concurrency",
            "apis",
            "key_limit",
            "test_quota_per_day",
            "trial_days",
            "trial_credits",
            "monthly_credits",
        )


class AddOnForm(PricedForm[AddOn]):
    minor = "price_minor"

    scopes = LinesField(
        help_text="Scopes of operations that it opens, one per line, such as history. "
        "An operation’s scope is set on its API’s page."
    )
    features = LinesField(help_text="What else it promises, one line each.")

    class Meta:
        model = AddOn
        fields = (
            "name",
            "slug",
            "tagline",
            "currency",
            "interval",
            "meter",
            "included_units",
            "rate_per_second",
            "scopes",
            "features",
            "plans",
            "position",
        )
        labels = {"meter": "Further units of", "included_units": "How many", "plans": "For plans"}
        widgets = {"plans": forms.CheckboxSelectMultiple}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["base_price"].label = "Price"
        self.fields["base_price"].help_text = "In major units: 40 or 39.90. Per interval."
        if "plans" in self.fields:
            paid: Any = self.fields["plans"]
            paid.queryset = Plan.objects.filter(kind=Plan.Kind.PAID)


class MeterTermsForm(ModelForm[PlanMeter]):
    tiers = PricesField(PlanMeter._meta.get_field("tiers").help_text)
    special_prices = PricesField(SPECIAL_PRICES_HELP)

    class Meta:
        model = PlanMeter
        fields = (
            "meter",
            "included_units",
            "past_included",
            "credits_per_unit",
            "tier_mode",
            "tiers",
            "special_prices",
        )


class ContractForm(PricedForm[Contract]):
    tiers = PricesField(PlanMeter._meta.get_field("tiers").help_text)
    special_prices = PricesField(SPECIAL_PRICES_HELP)
    apis = ApisField()

    class Meta:
        model = Contract
        fields = (
            "account",
            "title",
            "currency",
            "rate_per_second",
            "burst",
            "concurrency",
            "apis",
            "included_calls",
            "past_included",
            "credits_per_unit",
            "tiers",
            "special_prices",
            "sla_text",
            "starts_at",
            "ends_at",
        )
        labels = {"past_included": "Past the included calls", "sla_text": "Service level"}
        widgets = {"sla_text": forms.Textarea(attrs={"rows": 5})}
