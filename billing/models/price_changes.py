"""A new price for those who have an old one: announced, dated, then applied one by one."""

from django.conf import settings
from django.db import models

from billing.models.prices import PlanVersion
from billing.models.purchases import Subscription


class PriceChange(models.Model):
    """Moves the subscriptions of older versions of a plan to a newer one.

        draft → announced → done;  draft, announced → withdrawn

    Announced at least 30 days before `effective_at`; each subscription moves with its first
    period that begins at or after it. `billing.price_changes` makes the moves.
    """

    class State(models.TextChoices):
        DRAFT = "draft", "draft"
        ANNOUNCED = "announced", "announced"
        DONE = "done", "done"
        WITHDRAWN = "withdrawn", "withdrawn"

    to_version = models.ForeignKey(PlanVersion, models.PROTECT, related_name="price_changes")
    effective_at = models.DateTimeField()
    reason = models.TextField(max_length=2000, help_text="For the customers, in the mail.")
    state = models.CharField(max_length=9, choices=State, default=State.DRAFT)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    announced_at = models.DateTimeField(
        null=True, blank=True, help_text="When its customers began to be told."
    )

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.to_version} from {self.effective_at:%Y-%m-%d}"


class PriceMove(models.Model):
    """One subscription's part in a price change.

    planned → moved | kept (by staff: it keeps the old price) | left (it ended or changed)
    """

    class State(models.TextChoices):
        PLANNED = "planned", "planned"
        MOVED = "moved", "moved"
        KEPT = "kept", "keeps the old price"
        LEFT = "left", "left before"
        WITHDRAWN = "withdrawn", "called off"

    change = models.ForeignKey(PriceChange, models.PROTECT, related_name="moves")
    subscription = models.ForeignKey(Subscription, models.PROTECT, related_name="price_moves")
    from_version = models.ForeignKey(PlanVersion, models.PROTECT, related_name="+")
    old_minor = models.BigIntegerField(help_text="The bill of the last period as it was.")
    new_minor = models.BigIntegerField(help_text="The same usage at the new price.")
    currency = models.CharField(max_length=3)
    state = models.CharField(max_length=9, choices=State, default=State.PLANNED)
    scheduled_at = models.DateTimeField(
        null=True, blank=True, help_text="When the provider was told, days before the new period."
    )
    moved_at = models.DateTimeField(null=True, blank=True)
    announced_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="When the mail was out: of the change, or that it is called off.",
    )

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(fields=["change", "subscription"], name="pricemove_once")
        ]
        indexes = [
            models.Index(
                fields=["id"],
                name="pricemove_unannounced",
                condition=models.Q(announced_at__isnull=True),
            )
        ]

    def __str__(self) -> str:
        return f"{self.subscription} to {self.change}"
