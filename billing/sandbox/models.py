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
        TRIALING = "trialing", "in trial"
        PAST_DUE = "past_due", "past due"
        PAUSED = "paused", "paused"
        DECLINED = "declined", "declined"
        ENDED = "ended", "ended"

    id = models.CharField(primary_key=True, max_length=40)
    reference = models.CharField(max_length=64, unique=True, help_text="The seller's checkout id.")
    customer_id = models.CharField(max_length=40)
    customer_email = models.EmailField()
    description = models.CharField(max_length=200)
    amount_minor = models.PositiveBigIntegerField()
    currency = models.CharField(max_length=3)
    interval = models.CharField(max_length=5, blank=True, help_text="Empty: paid once.")
    items = models.JSONField(
        default=list,
        db_default=models.Value([], models.JSONField()),
        help_text='[{"key", "description", "amount_minor"}, …], the plan first.',
    )
    next_items = models.JSONField(
        null=True, help_text="What it consists of from the next period on, and at what interval."
    )
    trial_days = models.PositiveSmallIntegerField(default=0, db_default=0)
    starts_at = models.DateTimeField(null=True, help_text="Its first payment is due then.")
    declines = models.BooleanField(
        default=False, db_default=False, help_text="Its card is declined from now on."
    )
    card = models.CharField(
        max_length=20, blank=True, db_default="", help_text="The name of its test card."
    )
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


class SandboxPayment(models.Model):
    """Money that the sandbox took, or could not take."""

    class State(models.TextChoices):
        PENDING = "pending", "on its way"
        PAID = "paid", "paid"
        FAILED = "failed", "failed"

    id = models.CharField(primary_key=True, max_length=40)
    order = models.ForeignKey(SandboxOrder, models.CASCADE, related_name="payments")
    kind = models.CharField(max_length=12)
    reference = models.CharField(max_length=64, blank=True)
    description = models.CharField(max_length=200)
    amount_minor = models.PositiveBigIntegerField()
    tax_minor = models.PositiveBigIntegerField(default=0)
    currency = models.CharField(max_length=3)
    state = models.CharField(max_length=7, choices=State)
    failure = models.CharField(max_length=120, blank=True)
    refunds = models.JSONField(default=dict, help_text="Minor units by the seller’s reference.")
    dispute = models.CharField(max_length=4, blank=True)
    at = models.DateTimeField()

    class Meta:
        ordering = ["-at", "-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "reference"],
                name="sandboxpayment_once",
                condition=~models.Q(reference=""),
            )
        ]

    def __str__(self) -> str:
        return f"{self.description} ({self.state})"


class SandboxFaults(models.Model):
    """What goes wrong with webhooks and answers, by the wish of staff; one row."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    drop = models.PositiveSmallIntegerField(default=0, help_text="Percent never sent.")
    repeat = models.PositiveSmallIntegerField(default=0, help_text="Times each is sent again.")
    delay_seconds = models.PositiveIntegerField(default=0)
    reorder = models.BooleanField(default=False)
    unanswered = models.PositiveSmallIntegerField(
        default=0, help_text="Percent of requests that are done and not answered."
    )
    refused = models.PositiveSmallIntegerField(
        default=0, help_text="Percent of requests that are answered with an error and not done."
    )

    def __str__(self) -> str:
        return "faults"


class SandboxJourney(models.Model):
    """The way to a later time that staff sent the demo's clock on last; one row."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    began_at = models.DateTimeField()
    until = models.DateTimeField()

    def __str__(self) -> str:
        return f"to {self.until:%Y-%m-%d %H:%M}"


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
