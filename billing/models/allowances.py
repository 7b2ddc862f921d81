"""What stands beside an account's terms: prepaid credits, and the customer's own spend cap."""

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

# The gateway counts credits in doubles, exact far beyond this.
MAX_CREDITS = 10**12
MAX_CAP_MINOR = 10**11


class CreditGrant(models.Model):
    """Credits given to an account. What is drawn of it is the ledger's to say.

    Used in the order of priority (the lowest first), of expiry, of age. Never changes, but that
    what is left of it may be taken back, once.
    """

    class Source(models.TextChoices):
        STAFF = "staff", "given by staff"
        TRIAL = "trial", "of a trial"
        PLAN = "plan", "of the plan, for a month"
        BOUGHT = "bought", "bought"

    account = models.ForeignKey("portal.Account", models.CASCADE, related_name="credit_grants")
    source = models.CharField(
        max_length=6, choices=Source, default=Source.STAFF, db_default=Source.STAFF
    )
    cause = models.CharField(
        max_length=100,
        blank=True,
        db_default="",
        help_text="What it was given for, once: a top-up, a month of a subscription.",
    )
    amount = models.PositiveBigIntegerField(
        validators=[MinValueValidator(1), MaxValueValidator(MAX_CREDITS)]
    )
    priority = models.PositiveSmallIntegerField(
        default=100, help_text="Grants with a lower number are used first."
    )
    expires_at = models.DateTimeField(null=True, blank=True)
    reason = models.CharField(max_length=200)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField()
    taken_back_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="Nothing is drawn of it since.",
    )

    class Meta:
        ordering = ["priority", models.F("expires_at").asc(nulls_last=True), "created_at", "pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["cause"], name="creditgrant_once", condition=~models.Q(cause="")
            )
        ]

    def __str__(self) -> str:
        return f"{self.amount:,} credits for {self.account}"


class SpendCap(models.Model):
    """The most that an account's usage of a billing period may cost, by its own wish.

    In minor units of the account's currency; base prices are paid ahead and don't count.
    """

    account = models.OneToOneField(
        "portal.Account", models.CASCADE, primary_key=True, related_name="spend_cap"
    )
    cap_minor = models.PositiveBigIntegerField(validators=[MaxValueValidator(MAX_CAP_MINOR)])
    set_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    set_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"spend cap of {self.account}"
