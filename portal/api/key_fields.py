"""The fields of a key as the control plane reads and writes them.

The rules of settings are `keys.restrictions`'; here are types, bounds and the document's words.
"""

from __future__ import annotations

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from keys import clock, restrictions
from keys.models import ApiKey
from portal.access import entitlement_of
from portal.key_forms import operations_on_sale
from portal.models import Account

LONGEST_OVERLAP_SECONDS = 30 * 86_400


@extend_schema_field(OpenApiTypes.DOUBLE)
class Rate(serializers.DecimalField):
    """A number with three decimal places at most, written as one."""

    def __init__(self, **options: Any):
        super().__init__(max_digits=9, decimal_places=3, **options)

    def to_representation(self, value: Any) -> Any:
        return float(value)


def texts(help_text: str, **options: Any) -> serializers.ListField:
    child = serializers.CharField(max_length=400, allow_blank=True)
    return serializers.ListField(child=child, help_text=help_text, **options)


class Settings(serializers.Serializer[Any]):
    """What a key may do. Context: `account`, and `held`, the key that is changed."""

    name = serializers.CharField(max_length=restrictions.NAME_CHARACTERS)
    allowed_networks = texts("Addresses and networks that calls may come from; []: anywhere.")
    allowed_referrers = texts("Sites whose pages may call: example.com, *.example.com; []: any.")
    allowed_operations = texts("Operations on sale, “holidays GET /v1/countries”; []: all.")
    read_only = serializers.BooleanField(  # type: ignore[assignment]
        help_text="GET, HEAD and OPTIONS and nothing else."
    )
    rate_per_second = Rate(allow_null=True, help_text="The key's own; null: the account's.")
    burst = serializers.IntegerField(
        allow_null=True, max_value=2**31 - 1, help_text="Calls at once; with a rate only."
    )
    monthly_quota = serializers.IntegerField(
        allow_null=True,
        max_value=restrictions.LARGEST_QUOTA,
        help_text="Calls in the account's billing period; null: the account's quota.",
    )
    expires_at = serializers.DateTimeField(allow_null=True, help_text="null: never.")

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        for name, field in self.fields.items():
            field.required = name == "name"

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        unknown = set(self.initial_data) - set(self.fields)
        if unknown:
            raise serializers.ValidationError({n: ["There is no such field."] for n in unknown})
        account: Account = self.context["account"]
        labels = set()
        if attrs.get("allowed_operations"):
            labels = {label for listed in operations_on_sale().values() for label, _ in listed}
        try:
            settings = restrictions.checked(
                attrs,
                on_sale=labels,
                entitlement=entitlement_of(account),
                now=clock.now(),
                held=self.context.get("held"),
            )
        except restrictions.Invalid as invalid:
            raise serializers.ValidationError(dict(invalid.errors)) from None
        return {**attrs, **settings}


class NewKey(Settings):
    mode = serializers.ChoiceField(choices=ApiKey.Mode.choices, default=ApiKey.Mode.LIVE)
    account = serializers.UUIDField(help_text="With a seller's token: whose key it is to be.")


class Rotation(serializers.Serializer[Any]):
    overlap_seconds = serializers.IntegerField(
        default=86_400,
        min_value=0,
        max_value=LONGEST_OVERLAP_SECONDS,
        help_text="How long the old key goes on; 0: it is revoked at once.",
    )


class Key(serializers.ModelSerializer[ApiKey]):
    """A key, without its secret."""

    account = serializers.UUIDField(source="account_id")
    hint = serializers.CharField(help_text="What may be shown of it: ks_live_…a1b2.")
    replaces = serializers.UUIDField(source="replaces_id", allow_null=True)
    allowed_networks = texts("")
    allowed_referrers = texts("")
    allowed_operations = texts("")
    rate_per_second = Rate(allow_null=True)
    confirmed = serializers.BooleanField(
        source="is_published", help_text="Whether the gateway applies the key as it is here."
    )

    class Meta:
        model = ApiKey
        fields = (
            "id",
            "account",
            "name",
            "mode",
            "state",
            "hint",
            *restrictions.FIELDS,
            "expires_at",
            "created_at",
            "claimed_at",
            "revoked_at",
            "last_used_at",
            "last_used_address",
            "last_used_operation",
            "leaked_at",
            "replaces",
            "confirmed",
        )
        read_only_fields = fields


class ShownKey(Key):
    """A key with its secret: the only answer that ever has it."""

    secret = serializers.CharField(read_only=True)

    class Meta(Key.Meta):
        fields = (*Key.Meta.fields, "secret")  # type: ignore[assignment]
        read_only_fields = fields  # type: ignore[assignment]


class KeyPage(serializers.Serializer[Any]):
    data = Key(many=True)  # type: ignore[assignment]
    next_cursor = serializers.UUIDField(allow_null=True, help_text="null on the last page.")


class PageOf(serializers.Serializer[Any]):
    """Which part of a list is asked for."""

    cursor = serializers.UUIDField(required=False, help_text="`next_cursor` of the page before.")
    limit = serializers.IntegerField(default=50, min_value=1, max_value=200)
