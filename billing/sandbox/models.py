"""The sandbox's orders and the webhooks it has still to send."""

from django.db import models


class SandboxOrder(models.Model):
    """The sandbox provider's own world: one hosted checkout and the subscription it became.

    Read and written only by `billing.sandbox` and its adapter, as if it were on the other
    side of the internet; the rest of billing sees it through the provider protocol.
    """

    class State(models.TextChoices):
        OPEN = "open", "open"
        PENDING = "pending", "payment pending"
        ACTIVE = "active", "active"
        PAST_DUE = "past_due", "past due"
        DECLINED = "declined", "declined"
        ENDED = "ended", "ended"

    id = models.CharField(primary_key=True, max_length=40)
    reference = models.CharField(max_length=64, unique=True, help_text="The seller's checkout id.")
    customer_id = models.CharField(max_length=40)
    customer_email = models.EmailField()
    description = models.CharField(max_length=200)
    amount_minor = models.PositiveBigIntegerField()
    currency = models.CharField(max_length=3)
    interval = models.CharField(max_length=5)
    return_url = models.URLField(max_length=1000)
    cancel_url = models.URLField(max_length=1000)
    subscription_id = models.CharField(max_length=40, blank=True)
    state = models.CharField(max_length=10, choices=State, default=State.OPEN)
    decline_reason = models.CharField(max_length=120, blank=True)
    period_start = models.DateTimeField(null=True)
    period_end = models.DateTimeField(null=True)
    anchor_day = models.PositiveSmallIntegerField(null=True)
    cancel_at_period_end = models.BooleanField(default=False)
    refunded = models.BooleanField(default=False)
    ended_at = models.DateTimeField(null=True)
    settles_at = models.DateTimeField(null=True, help_text="When a delayed payment arrives.")
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.id} ({self.state})"


class SandboxDelivery(models.Model):
    """A webhook that the sandbox sends until it is answered with 2xx, or gives up."""

    id = models.CharField(primary_key=True, max_length=40)
    order = models.ForeignKey(SandboxOrder, models.CASCADE, related_name="deliveries")
    type = models.CharField(max_length=60)
    created_at = models.DateTimeField()
    attempts = models.PositiveSmallIntegerField(default=0)
    next_attempt_at = models.DateTimeField(null=True)
    delivered_at = models.DateTimeField(null=True)
    last_status = models.PositiveSmallIntegerField(null=True)

    def __str__(self) -> str:
        return f"{self.type} {self.id}"


class SandboxMeterEvent(models.Model):
    """Usage that arrived at the sandbox's meter; an id counts once."""

    id = models.CharField(primary_key=True, max_length=100)
    customer_id = models.CharField(max_length=40)
    name = models.CharField(max_length=100)
    units = models.BigIntegerField()
    at = models.DateTimeField(help_text="When it was used, as the seller says.")
    metadata = models.JSONField(default=dict)
    received_at = models.DateTimeField()

    class Meta:
        ordering = ["-received_at", "-at"]
        indexes = [
            models.Index(fields=["customer_id", "name", "at"], name="sandboxmeterevent_total"),
            models.Index(fields=["-received_at", "-at"], name="sandboxmeterevent_latest"),
        ]

    def __str__(self) -> str:
        return f"{self.units} of {self.name}"
