"""Credits that are bought: packs on sale, top-ups, and those that come by themselves."""

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from billing.models.allowances import MAX_CREDITS
from keys.identifiers import new_id


class CreditPack(models.Model):
    """Credits on sale at a price: as they are, or in any amount at that rate.

    Who bought keeps what was bought, so that a pack may be changed or taken off sale at any time.
    """

    name = models.CharField(max_length=60)
    credits = models.PositiveBigIntegerField(
        validators=[MinValueValidator(1), MaxValueValidator(MAX_CREDITS)]
    )
    price_minor = models.PositiveBigIntegerField(
        validators=[MinValueValidator(1)], help_text="For so many credits; minor units."
    )
    currency = models.CharField(max_length=3, default="USD", help_text="ISO 4217, upper case.")
    any_amount = models.BooleanField(
        default=False, help_text="Buyers choose how many, at this rate, from so many on."
    )
    expires_after_days = models.PositiveIntegerField(
        null=True, blank=True, help_text="What is left is gone then; empty: never."
    )
    listed = models.BooleanField(default=True)
    position = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ["position", "price_minor", "pk"]

    def __str__(self) -> str:
        return self.name


class TopUp(models.Model):
    """Credits that are being bought: in a hosted checkout, or charged by themselves.

        open → completed | failed | expired;  failed → completed (the charge was paid after all)

    What is bought is written here when it begins; `billing.topups` makes the moves.
    """

    class State(models.TextChoices):
        OPEN = "open", "open"
        COMPLETED = "completed", "completed"
        FAILED = "failed", "failed"
        EXPIRED = "expired", "expired"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey("portal.Account", models.CASCADE, related_name="top_ups")
    credits = models.PositiveBigIntegerField()
    amount_minor = models.PositiveBigIntegerField()
    currency = models.CharField(max_length=3)
    expires_after_days = models.PositiveIntegerField(null=True, blank=True)
    automatic = models.BooleanField(default=False)
    charge = models.OneToOneField(
        "billing.Charge", models.PROTECT, null=True, blank=True, related_name="top_up"
    )
    provider = models.CharField(max_length=20)
    provider_session_id = models.CharField(max_length=255, blank=True)
    url = models.URLField(max_length=2000, blank=True)
    state = models.CharField(max_length=10, choices=State, default=State.OPEN)
    payment_pending = models.BooleanField(default=False)
    error = models.CharField(max_length=200, blank=True, help_text="As the provider said it.")
    started_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField()
    synced_at = models.DateTimeField(null=True, blank=True)
    applied_ticket = models.BigIntegerField(default=0)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["provider", "provider_session_id"],
                name="topup_session_unique",
                condition=~models.Q(provider_session_id=""),
            ),
            models.UniqueConstraint(
                fields=["account"],
                name="topup_one_automatic_at_once",
                condition=models.Q(automatic=True, state="open"),
            ),
        ]
        indexes = [
            models.Index(
                fields=["synced_at"],
                name="topup_to_ask_about",
                condition=models.Q(state="open"),
            )
        ]

    def __str__(self) -> str:
        return f"{self.credits:,} credits for {self.account}"


class AutoTopUp(models.Model):
    """An account's wish that credits are bought by themselves when few are left.

    What it agreed to pay for how many is kept here: a pack that is changed or taken off sale
    since pauses it, and nothing is bought at a price that nobody has seen.
    """

    account = models.OneToOneField(
        "portal.Account", models.CASCADE, primary_key=True, related_name="auto_top_up"
    )
    pack = models.ForeignKey(CreditPack, models.PROTECT, related_name="+")
    credits = models.PositiveBigIntegerField()
    amount_minor = models.PositiveBigIntegerField(help_text="For so many credits; minor units.")
    currency = models.CharField(max_length=3)
    below = models.PositiveBigIntegerField(help_text="Buy when fewer credits than this are left.")
    most_per_month = models.PositiveSmallIntegerField(
        default=5, validators=[MinValueValidator(1), MaxValueValidator(100)]
    )
    paused_because = models.CharField(
        max_length=200, blank=True, help_text="Nothing is bought until it is resumed."
    )
    set_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    set_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"top-ups of {self.account}"
