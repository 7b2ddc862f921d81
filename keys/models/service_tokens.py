"""Service tokens, and the trail of what was done to them."""

from datetime import datetime

from django.conf import settings
from django.db import models

from keys import peppers
from keys.identifiers import new_id
from keys.models.api_keys import EMPTY


class ServiceToken(models.Model):
    """Lets a program act through the control plane: for one account, or for the seller.

    active → revoked. `expires_at` ends a token without a state of its own. Kept as the keyed
    digest of its text, as keys are.
    """

    class Scope(models.TextChoices):
        KEYS_READ = "keys:read", "Look at keys"
        KEYS_WRITE = "keys:write", "Create, change, rotate and revoke keys"
        USAGE_READ = "usage:read", "Read usage"
        INVOICES_READ = "invoices:read", "Read invoices"
        VERIFY = "verify", "Ask whether a call may go on (/gateway/.verify)"
        EVENTS_WRITE = "events:write", "Report usage"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey(
        "portal.Account",
        models.CASCADE,
        null=True,
        blank=True,
        related_name="service_tokens",
        help_text="Whom it acts for; empty: the seller, for every account.",
    )
    name = models.CharField(max_length=80)
    scopes = models.JSONField(default=list)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    pepper_id = models.CharField(
        max_length=8, blank=True, default="", db_default="", editable=False
    )
    last_four = models.CharField(max_length=4)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    revision = models.BigIntegerField(default=1)
    published_revision = models.BigIntegerField(default=0)

    class Meta:
        ordering = ["-created_at"]
        indexes = [
            models.Index(
                fields=["id"],
                name="servicetoken_unpublished",
                condition=models.Q(published_revision__lt=models.F("revision")),
            )
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.hint})"

    @property
    def hint(self) -> str:
        """What may be shown of the token: `kst_…a1b2`."""
        return f"kst_…{self.last_four}"

    @property
    def is_published(self) -> bool:
        """Whether the data plane has confirmed the row as it is, a revocation for example."""
        return self.published_revision >= self.revision

    @property
    def has_older_pepper(self) -> bool:
        """Whether the token stops when the pepper before the current one is accepted no more."""
        return peppers.is_older(self.pepper_id)

    def is_alive(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > now)


class ServiceTokenEvent(models.Model):
    """Who made or revoked a service token, or that it leaked: that one a mail tells of."""

    class Kind(models.TextChoices):
        CREATED = "created", "created"
        REVOKED = "revoked", "revoked"
        LEAKED = "leaked", "leaked and revoked"

    token = models.ForeignKey(ServiceToken, models.CASCADE, related_name="events")
    kind = models.CharField(max_length=10, choices=Kind)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    address = models.GenericIPAddressField(null=True, blank=True)
    details = models.JSONField(
        default=list, db_default=EMPTY, blank=True, help_text="Sentences: where it was found."
    )
    at = models.DateTimeField()
    announced_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-at"]
        indexes = [
            models.Index(
                fields=["at"],
                name="tokenevent_unannounced",
                condition=models.Q(kind="leaked", announced_at__isnull=True),
            )
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.at:%Y-%m-%d %H:%M}"
