"""What is on sale: meters, APIs, operations, and the version that the gateway routes by."""

from typing import Any

from django.core.validators import MinValueValidator, RegexValidator
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg.types.json import Json

from gateway import addresses

CALLS = "calls"
"""The meter that always exists."""
SCOPE = r"^[a-z0-9-]{1,40}\Z"


class WrittenJSONField(models.JSONField):
    """JSON as it was written: Postgres' `json` keeps the order of keys, `jsonb` does not."""

    def db_type(self, connection: BaseDatabaseWrapper) -> str:  # noqa: ARG002
        return "json"

    def from_db_value(self, value: Any, *_: Any) -> Any:
        return value  # psycopg has parsed it

    def get_db_prep_value(self, value: Any, *_: Any, **__: Any) -> Any:
        return None if value is None else Json(value)


class Meter(models.Model):
    """A named quantity that calls consume: `calls` always exists, a seller adds others."""

    name = models.SlugField(max_length=40, unique=True)
    label = models.CharField(max_length=60, help_text="As customers read it: “rows”.")
    description = models.CharField(max_length=200, blank=True)
    dimensions = models.JSONField(
        default=list,
        db_default=models.Value([], models.JSONField()),
        blank=True,
        help_text='Metadata that usage is summed by, and a price may depend on: ["model"].',
    )

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return self.name


class Api(models.Model):
    """An HTTP API on sale, with the private upstream that answers it."""

    class Unlisted(models.TextChoices):
        REFUSE = "refuse", "refuse with unknown_operation"
        FORWARD = "forward", "forward and meter as “other”"

    slug = models.SlugField(max_length=40, unique=True, help_text="/gateway/<slug>/…")
    name = models.CharField(max_length=80)
    description = models.TextField(blank=True)
    upstream_url = models.CharField(
        max_length=500, help_text="Scheme, host, port and base path of the private backend."
    )
    test_upstream_url = models.CharField(
        max_length=500, blank=True, help_text="Where test keys go; empty: the same backend."
    )
    upstream_headers_sealed = models.TextField(
        blank=True,
        editable=False,
        help_text="Headers added to every upstream request, JSON, encrypted under FIELD_KEY.",
    )
    identity_sealed = models.TextField(
        blank=True,
        default="",
        db_default="",
        editable=False,
        help_text="Secrets that sign Keystile-Identity (gateway.identity), under FIELD_KEY.",
    )
    allow_private_upstream = models.BooleanField(
        default=False, help_text="The backend may live on any private or loopback address."
    )
    private_networks = models.JSONField(
        default=list,
        db_default=models.Value([], models.JSONField()),
        blank=True,
        help_text="Private networks that the backend may live in, CIDR: 10.20.0.0/16, fd12::/48.",
    )
    unlisted = models.CharField(
        max_length=8,
        choices=Unlisted,
        default=Unlisted.REFUSE,
        help_text="What happens to calls that match no operation below.",
    )
    cors_origins = models.JSONField(
        default=list,
        db_default=models.Value([], models.JSONField()),
        blank=True,
        help_text="Origins whose pages may call: https://app.example, https://*.example.com, *.",
    )
    unbilled_statuses = models.JSONField(
        default=list,
        db_default=models.Value([], models.JSONField()),
        blank=True,
        help_text="Statuses below 500 that cost nothing: [404, 409]. 408 and 429 never do.",
    )
    connect_timeout_seconds = models.PositiveSmallIntegerField(
        default=5,
        validators=[MinValueValidator(1)],
        help_text="Seconds to resolve, connect and, over https, agree on TLS. Usually 5.",
    )
    first_byte_timeout_seconds = models.PositiveSmallIntegerField(
        default=30,
        validators=[MinValueValidator(1)],
        help_text="Seconds from the end of the request to the head of the answer. Usually 30.",
    )
    idle_timeout_seconds = models.PositiveSmallIntegerField(
        default=60,
        validators=[MinValueValidator(1)],
        help_text="Seconds that a body may pause, in either direction. Usually 60.",
    )
    total_timeout_seconds = models.PositiveSmallIntegerField(
        default=300,
        help_text="Seconds for the whole exchange; 0: no limit, for streams. Usually 300.",
    )
    max_body_bytes = models.PositiveBigIntegerField(
        default=100 * 1024 * 1024,
        help_text="Bytes of a request’s body; more is refused with 413. Usually 104857600.",
    )
    document = WrittenJSONField(
        null=True, blank=True, editable=False, help_text="The imported OpenAPI document."
    )
    listed = models.BooleanField(default=True, help_text="Shown in the public docs.")
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = "API"
        ordering = ["id"]

    def __str__(self) -> str:
        return self.name

    @property
    def backend_networks(self) -> addresses.Networks:
        """The networks that the backend may live in besides the internet."""
        if self.allow_private_upstream:
            return addresses.EVERYWHERE
        return addresses.networks(self.private_networks)


class Operation(models.Model):
    """One method and path template of an API, with what a call of it costs."""

    api = models.ForeignKey(Api, models.CASCADE, related_name="operations")
    method = models.CharField(max_length=10)
    path_template = models.CharField(max_length=300)
    summary = models.CharField(max_length=200, blank=True)
    weights = models.JSONField(
        default=dict, blank=True, help_text='Units per call by meter; {} means {"calls": 1}.'
    )
    max_units = models.JSONField(
        default=dict,
        blank=True,
        help_text="Meters the backend reports, with the most that one call may use.",
    )
    scope = models.CharField(
        max_length=40,
        blank=True,
        default="",
        db_default="",
        validators=[RegexValidator(SCOPE, "Small letters, digits and “-”, such as history.")],
        help_text="What an account must have to call it, such as history; empty: open to all.",
    )

    class Meta:
        ordering = ["path_template", "method"]
        constraints = [
            models.UniqueConstraint(
                fields=["api", "method", "path_template"], name="operation_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.method} {self.path_template}"


class Routes(models.Model):
    """The version of everything the gateway routes by; one row, bumped by each change."""

    version = models.BigIntegerField(default=1)
    published_version = models.BigIntegerField(default=0)

    class Meta:
        verbose_name_plural = "routes"

    def __str__(self) -> str:
        return f"version {self.version}"
