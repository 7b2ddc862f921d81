"""What a customer may have besides the plan, and has."""

import re
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator
from django.db import models

from billing.models.prices import MAX_RATE_PER_SECOND, Plan, PlanVersion
from billing.models.purchases import Subscription
from gateway.models import SCOPE

_FROZEN = "A published add-on is a promise and never changes: retire it and make another."


def _is_scope(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(SCOPE, name) is not None


class AddOn(models.Model):
    """A price and what it grants beside any plan version, until it is dropped.

    Published it never changes; retired it is no longer sold, and whoever has it keeps it. Billed
    with the plan: at the same rhythm, in the same currency.
    """

    slug = models.SlugField(max_length=40)
    name = models.CharField(max_length=60)
    tagline = models.CharField(max_length=120, blank=True)
    currency = models.CharField(max_length=3, default="USD", help_text="ISO 4217, upper case.")
    interval = models.CharField(
        max_length=5, choices=PlanVersion.Interval, default=PlanVersion.Interval.MONTH
    )
    price_minor = models.PositiveBigIntegerField(help_text="Per interval; minor units.")
    meter = models.ForeignKey(
        "gateway.Meter",
        models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        help_text="Of which it includes further units.",
    )
    included_units = models.PositiveBigIntegerField(
        default=0, help_text="Further units per month of usage."
    )
    rate_per_second = models.PositiveIntegerField(
        default=0,
        validators=[MaxValueValidator(MAX_RATE_PER_SECOND)],
        help_text="Further calls a second.",
    )
    scopes = models.JSONField(
        default=list, blank=True, help_text="Scopes of operations that it opens, such as history."
    )
    features = models.JSONField(
        default=list, blank=True, help_text="What else it promises, lines of text."
    )
    plans = models.ManyToManyField(
        Plan, blank=True, related_name="+", help_text="For these plans only; none: for all paid."
    )
    position = models.PositiveSmallIntegerField(default=0)
    published_at = models.DateTimeField(null=True, blank=True, editable=False)
    retired_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["position", "slug", "-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["slug", "currency", "interval"],
                name="addon_one_on_sale",
                condition=models.Q(published_at__isnull=False, retired_at__isnull=True),
            )
        ]

    def __str__(self) -> str:
        return self.name

    def save(self, **options: Any) -> None:
        self.clean()
        super().save(**options)

    @property
    def frozen(self) -> bool:
        return AddOn.objects.filter(pk=self.pk, published_at__isnull=False).exists()

    def clean(self) -> None:
        if self.frozen:
            raise ValidationError(_FROZEN)
        if bool(self.meter) != bool(self.included_units):
            raise ValidationError({"included_units": "Units are of a meter, and a meter has some."})
        if not isinstance(self.scopes, list) or not all(map(_is_scope, self.scopes)):
            raise ValidationError({"scopes": "Small letters, digits and “-”, such as history."})
        if not isinstance(self.features, list) or not all(
            isinstance(line, str) for line in self.features
        ):
            raise ValidationError({"features": "Lines of text."})


class SubscriptionAddOn(models.Model):
    """An add-on that a subscription has, or had until `ended_at`."""

    subscription = models.ForeignKey(Subscription, models.CASCADE, related_name="add_ons")
    add_on = models.ForeignKey(AddOn, models.PROTECT, related_name="+")
    started_at = models.DateTimeField()
    ends_at_period_end = models.BooleanField(default=False)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["started_at", "pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["subscription", "add_on"],
                name="subscriptionaddon_one_alive",
                condition=models.Q(ended_at__isnull=True),
            )
        ]

    def __str__(self) -> str:
        return f"{self.add_on} of {self.subscription}"
