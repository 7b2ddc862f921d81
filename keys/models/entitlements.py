"""What an account may do, as the data plane is told."""

from django.db import models


class Entitlement(models.Model):
    """What an account may do at the gateway: the terms of billing, compiled to integers.

    Written only by `keys.entitlements`; published to the data plane with its revision.
    """

    class State(models.TextChoices):
        ACTIVE = "active", "active"
        PAYMENT_REQUIRED = "payment_required", "payment required"
        ENDED = "ended", "subscription ended"

    account = models.OneToOneField(
        "portal.Account", models.CASCADE, primary_key=True, related_name="entitlement"
    )
    state = models.CharField(max_length=20, choices=State, default=State.ENDED)
    suspended = models.BooleanField(
        default=False, help_text="Staff stopped this account: every call is refused."
    )
    plan_name = models.CharField(max_length=80, blank=True)
    terms_id = models.CharField(
        max_length=40, blank=True, help_text="What set these terms: version:7, contract:…"
    )
    terms = models.JSONField(
        default=dict, help_text="keys.entitlements.Terms as JSON: rate, burst, meters."
    )
    periods = models.JSONField(
        default=list,
        help_text="Boundaries of billing periods, epoch seconds, ascending; half-open.",
    )
    ends_at = models.DateTimeField(
        null=True, blank=True, help_text="Calls are refused from this moment on."
    )
    revision = models.BigIntegerField(default=1)
    published_revision = models.BigIntegerField(default=0)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        indexes = [
            models.Index(
                fields=["account"],
                name="entitlement_unpublished",
                condition=models.Q(published_revision__lt=models.F("revision")),
            )
        ]

    def __str__(self) -> str:
        return f"{self.plan_name or 'no plan'} ({self.get_state_display()})"
