"""Usage on its way to payment providers, and how their counts compare with the ledger."""

from django.db import models

from billing.models.purchases import Subscription


class ShippingClock(models.Model):
    """How far the ledger has been read for shipping; one row.

    All that was recorded up to `at` has its shipments, nothing later has.
    """

    id = models.SmallIntegerField(primary_key=True, default=1)
    at = models.DateTimeField()

    def __str__(self) -> str:
        return f"shipped up to {self.at:%Y-%m-%d %H:%M:%S}"


class Shipment(models.Model):
    """Billable units of one kind that one provider has to be told of, as one event.

        pending ⇄ unknown → sent | refused | held;  sent → refused
        pending → held (too old);  pending, unknown → held (staff)
        refused, held → pending (staff replay) | sent (staff: it arrived) | written_off (staff)

    `unknown` from the moment before it is sent until its outcome is heard, so that a process
    killed in between leaves the truth. `sent → refused` is a provider's later report. Nothing
    leaves `written_off`. `billing.shipping` makes the moves.
    """

    class State(models.TextChoices):
        PENDING = "pending", "pending"
        UNKNOWN = "unknown", "sent, outcome not heard"
        SENT = "sent", "sent"
        REFUSED = "refused", "refused"
        HELD = "held", "held for staff"
        WRITTEN_OFF = "written_off", "written off"

    id = models.UUIDField(primary_key=True, editable=False)
    subscription = models.ForeignKey(Subscription, models.CASCADE, related_name="shipments")
    provider = models.CharField(max_length=20)
    customer_id = models.CharField(max_length=255)
    meter = models.CharField(max_length=40)
    period_start = models.DateTimeField()
    terms_id = models.CharField(max_length=40)
    api = models.CharField("API", max_length=40)
    operation = models.CharField(max_length=311)
    dimensions = models.TextField(blank=True, help_text="Of the meter, as JSON; empty: none.")
    units = models.BigIntegerField()
    at = models.DateTimeField("used at", help_text="When the latest of them was admitted.")
    recorded_after = models.DateTimeField(help_text="They were recorded later than this …")
    recorded_until = models.DateTimeField(help_text="… and up to this.")
    state = models.CharField(max_length=11, choices=State, default=State.PENDING)
    reason = models.CharField(
        max_length=300, blank=True, help_text="Why it isn’t sent, or wasn’t at the last attempt."
    )
    generation = models.PositiveSmallIntegerField(
        default=0, help_text="How often it was refused and replayed: each time under a new id."
    )
    attempts = models.PositiveIntegerField(default=0)
    next_attempt_at = models.DateTimeField()
    unsure_since = models.DateTimeField(
        null=True, blank=True, help_text="The first attempt that may have arrived unheard."
    )
    undated = models.BooleanField(
        default=False, help_text="Sent without its time, so that it counts from when it arrived."
    )
    released = models.BooleanField(
        default=False, help_text="Staff replayed it: too old for its time, it counts as of now."
    )
    sent_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-at", "-id"]
        constraints = [
            models.CheckConstraint(condition=models.Q(units__gt=0), name="shipment_has_units")
        ]
        indexes = [
            models.Index(
                fields=["provider", "next_attempt_at"],
                name="shipment_waiting",
                condition=models.Q(state__in=["pending", "unknown"]),
            ),
            models.Index(fields=["subscription", "meter", "at"], name="shipment_of_meter"),
            models.Index(fields=["-at", "-id"], name="shipment_latest"),
            models.Index(fields=["state", "-at"], name="shipment_state"),
        ]

    def __str__(self) -> str:
        return f"{self.units:,} {self.meter} at {self.at:%Y-%m-%d %H:%M}"

    @property
    def event_id(self) -> str:
        """What the provider knows it by."""
        return f"{self.id}.{self.generation}" if self.generation else str(self.id)


class Reconciliation(models.Model):
    """One comparison of a provider's counts with the ledger."""

    provider = models.CharField(max_length=20)
    at = models.DateTimeField()
    until = models.DateTimeField(help_text="Usage admitted before this was compared.")
    lines_count = models.PositiveIntegerField(default=0)
    differing = models.PositiveIntegerField(
        default=0, help_text="Lines that differ, or that the provider didn’t answer."
    )
    announced_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-at"]
        indexes = [
            models.Index(
                fields=["at"],
                name="reconciliation_unannounced",
                condition=models.Q(announced_at__isnull=True),
            )
        ]

    def __str__(self) -> str:
        return f"{self.provider}, {self.at:%Y-%m-%d %H:%M}"


class ReconciliationLine(models.Model):
    """One customer's usage of one meter in one period: ours beside the provider's."""

    reconciliation = models.ForeignKey(Reconciliation, models.CASCADE, related_name="lines")
    subscription = models.ForeignKey(Subscription, models.CASCADE, related_name="+")
    meter = models.CharField(max_length=40)
    period_start = models.DateTimeField()
    ledger_units = models.BigIntegerField()
    provider_units = models.BigIntegerField(
        null=True, blank=True, help_text="Empty: the provider could not say."
    )
    waiting_units = models.BigIntegerField(help_text="Of ours, not sent yet, refused or held.")
    written_off_units = models.BigIntegerField(help_text="Of ours, by staff.")
    differs = models.BooleanField(help_text="Or the provider could not say.")
    difference_minor = models.BigIntegerField(
        default=0, help_text="What the ledger’s units cost less what the provider’s cost."
    )
    currency = models.CharField(max_length=3)
    note = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.meter} of {self.period_start:%Y-%m-%d}"

    @property
    def difference(self) -> int | None:
        """The ledger's units less the provider's and less what staff wrote off."""
        if self.provider_units is None:
            return None
        return self.ledger_units - self.written_off_units - self.provider_units
