"""API keys, and the trail of what was done to them."""

from django.conf import settings
from django.db import models

from keys import peppers
from keys.identifiers import new_id

EMPTY = models.Value([], models.JSONField())
"""Rows that a process of the version before inserts have this list, too."""


class ApiKey(models.Model):
    """One key of an account.

    unclaimed → active → revoked; an unclaimed key may be revoked too, nothing comes back.
    `expires_at` ends a key without a state of its own (the old key of a rotation).
    """

    class Mode(models.TextChoices):
        LIVE = "live", "live"
        TEST = "test", "test"

    class State(models.TextChoices):
        UNCLAIMED = "unclaimed", "not claimed yet"
        ACTIVE = "active", "active"
        REVOKED = "revoked", "revoked"

    class Origin(models.TextChoices):
        FIRST = "first", "issued with the subscription"
        CREATED = "created", "created by a member"
        ROTATED = "rotated", "made by rotation"
        LEAKED = "leaked", "prepared for a leaked key"
        CONSOLE = "console", "the portal's own, for “Try it”"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey("portal.Account", models.CASCADE, related_name="keys")
    name = models.CharField(max_length=80)
    mode = models.CharField(max_length=4, choices=Mode)
    state = models.CharField(max_length=10, choices=State, default=State.UNCLAIMED)
    origin = models.CharField(max_length=8, choices=Origin)
    partition = models.PositiveSmallIntegerField(default=0)
    digest = models.CharField(
        max_length=64,
        unique=True,
        null=True,
        blank=True,
        editable=False,
        help_text="HMAC-SHA256 of the secret under the pepper, hex; empty until claimed.",
    )
    pepper_id = models.CharField(
        max_length=8,
        blank=True,
        default="",
        db_default="",
        editable=False,
        help_text="Which pepper the digest was made under (keys.peppers).",
    )
    last_four = models.CharField(max_length=4, blank=True)
    replaces = models.ForeignKey(
        "self", models.SET_NULL, null=True, blank=True, related_name="successors"
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField()
    claimed_at = models.DateTimeField(null=True, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    last_used_address = models.GenericIPAddressField(null=True, blank=True)
    last_used_operation = models.CharField(
        max_length=400,
        blank=True,
        default="",
        db_default="",
        help_text="holidays GET /v1/next/{country}",
    )
    allowed_networks = models.JSONField(
        default=list,
        db_default=EMPTY,
        blank=True,
        help_text="CIDR strings that calls may come from, IPv4 or IPv6; empty: anywhere.",
    )
    allowed_referrers = models.JSONField(
        default=list,
        db_default=EMPTY,
        blank=True,
        help_text="Sites whose pages may call: example.com, *.example.com, https://a.example:8443.",
    )
    allowed_operations = models.JSONField(
        default=list,
        db_default=EMPTY,
        blank=True,
        help_text="Operations behind their API's slug: holidays GET /v1/holidays/{country}.",
    )
    read_only = models.BooleanField(
        default=False, db_default=False, help_text="Only GET, HEAD and OPTIONS."
    )
    rate_per_second = models.DecimalField(
        max_digits=9,
        decimal_places=3,
        null=True,
        blank=True,
        help_text="The key's own, below the account's; empty: the account's alone.",
    )
    burst = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="Calls at once at most; empty: as many as come in a second, at least one.",
    )
    monthly_quota = models.PositiveBigIntegerField(
        null=True, blank=True, help_text="Calls in the account's billing period at most."
    )
    leaked_at = models.DateTimeField(null=True, blank=True)
    leak_source = models.CharField(max_length=40, blank=True, default="", db_default="")
    leak_url = models.CharField(max_length=500, blank=True, default="", db_default="")
    revision = models.BigIntegerField(default=1)
    published_revision = models.BigIntegerField(default=0)

    class Meta:
        verbose_name = "API key"
        ordering = ["-created_at"]
        constraints = [
            models.CheckConstraint(
                name="apikey_claimed_has_digest",
                condition=models.Q(state="unclaimed", digest__isnull=True)
                | models.Q(state="active", digest__isnull=False)
                | models.Q(state="revoked"),
            ),
            models.CheckConstraint(
                name="apikey_rate_is_positive",
                condition=models.Q(rate_per_second__isnull=True) | models.Q(rate_per_second__gt=0),
            ),
            models.CheckConstraint(
                name="apikey_burst_is_positive",
                condition=models.Q(burst__isnull=True) | models.Q(burst__gt=0),
            ),
            models.UniqueConstraint(
                name="apikey_one_first_per_account",
                fields=["account"],
                condition=models.Q(origin="first"),
            ),
            models.UniqueConstraint(
                name="apikey_one_console_per_account",
                fields=["account"],
                condition=models.Q(origin="console"),
            ),
        ]
        indexes = [
            models.Index(
                fields=["id"],
                name="apikey_unpublished",
                condition=models.Q(published_revision__lt=models.F("revision")),
            )
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.hint})"

    @property
    def hint(self) -> str:
        """What may be shown of the key: `ks_live_…a1b2`."""
        return f"ks_{self.mode}_…{self.last_four}" if self.last_four else f"ks_{self.mode}_…"

    @property
    def is_published(self) -> bool:
        """Whether the data plane has confirmed the row as it is, a revocation for example."""
        return self.published_revision >= self.revision

    @property
    def has_older_pepper(self) -> bool:
        """Whether the key stops when the pepper before the current one is accepted no more."""
        return self.digest is not None and peppers.is_older(self.pepper_id)


class LeakPolicy(models.Model):
    """What an account wants done with a key that was found in public; no row: revoke."""

    class Act(models.TextChoices):
        REVOKE = "revoke", "Revoke it at once"
        THROTTLE = "throttle", "Slow it down to 1 call in 10 seconds, and prepare a successor"

    account = models.OneToOneField(
        "portal.Account", models.CASCADE, primary_key=True, related_name="leak_policy"
    )
    on_leak = models.CharField(max_length=8, choices=Act, default=Act.REVOKE)

    def __str__(self) -> str:
        return self.get_on_leak_display()


class ClaimLink(models.Model):
    """A one-time link, mailed to the buyer, that claims one key. Only its digest is kept."""

    key = models.ForeignKey(ApiKey, models.CASCADE, related_name="claim_links")
    digest = models.CharField(max_length=64, unique=True, editable=False)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"claim link for {self.key_id}"


class KeyEvent(models.Model):
    """Who did what to a key. Also what the account must be told: `announced_at` is set by mail."""

    class Kind(models.TextChoices):
        ISSUED = "issued", "issued"
        CREATED = "created", "created"
        CLAIMED = "claimed", "secret shown"
        CHANGED = "changed", "changed"
        ROTATED = "rotated", "rotated"
        REVOKED = "revoked", "revoked"
        LEAKED = "leaked", "leaked"

    key = models.ForeignKey(ApiKey, models.CASCADE, related_name="events")
    kind = models.CharField(max_length=10, choices=Kind)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    service_token = models.ForeignKey(
        "keys.ServiceToken", models.SET_NULL, null=True, blank=True, related_name="+"
    )
    address = models.GenericIPAddressField(null=True, blank=True)
    details = models.JSONField(
        default=list, db_default=EMPTY, blank=True, help_text="Sentences that say what changed."
    )
    at = models.DateTimeField()
    announced_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-at"]
        indexes = [
            models.Index(
                fields=["at"],
                name="keyevent_unannounced",
                condition=models.Q(announced_at__isnull=True),
            )
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.at:%Y-%m-%d %H:%M}"


class KeyRequest(models.Model):
    """A request that made a key, by its Idempotency-Key: sent again, it makes no other.

    fingerprint: SHA-256 of what was asked, hex; the same key with another wish is refused
    """

    account = models.ForeignKey("portal.Account", models.CASCADE, related_name="+")
    idempotency_key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64)
    key = models.ForeignKey(ApiKey, models.CASCADE, null=True, related_name="+")
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account", "idempotency_key"], name="keyrequest_once_per_account"
            )
        ]

    def __str__(self) -> str:
        return self.idempotency_key
