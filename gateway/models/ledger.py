"""What was used: the ledger, its rollups and hours, and what could not be stored."""

from django.contrib.postgres.indexes import BrinIndex
from django.db import models

from keys.models import ApiKey


class UsageEvent(models.Model):
    """The ledger: one immutable row per admitted call or reported use, by `admitted_at`.

    The migration makes the table by SQL and `gateway.partitions` its months; rows name their
    account, key and API by id only, so that the ledger outlives them. Written by
    `gateway.ledger`, read through `gateway.usage`.
    """

    class Outcome(models.TextChoices):
        COMPLETED = "completed", "completed"
        ABANDONED = "abandoned", "abandoned by a gateway that died"
        REPORTED = "reported", "reported later by the backend; no call of its own"

    pk = models.CompositePrimaryKey("id", "admitted_at")
    id = models.UUIDField(editable=False)
    admitted_at = models.DateTimeField()
    recorded_at = models.DateTimeField(
        help_text="When it entered the ledger: never earlier than any row that was there."
    )
    account_id = models.UUIDField()
    key_id = models.UUIDField()
    api = models.CharField(max_length=40)
    operation = models.CharField(max_length=311)
    mode = models.CharField(max_length=4, choices=ApiKey.Mode)
    outcome = models.CharField(max_length=9, choices=Outcome)
    status = models.SmallIntegerField(help_text="As the client saw it; 0: abandoned.")
    code = models.CharField(max_length=40, blank=True, help_text="The gateway's own error.")
    billable = models.BooleanField()
    units = models.JSONField(help_text="Units by meter, integers.")
    metadata = models.JSONField(default=dict)
    latency_us = models.BigIntegerField()
    upstream_us = models.BigIntegerField()
    request_bytes = models.BigIntegerField()
    response_bytes = models.BigIntegerField()
    period_start = models.DateTimeField()
    terms_id = models.CharField(max_length=40)
    credits = models.JSONField(
        null=True, help_text="Prepaid credits drawn by grant, integers; null: none."
    )

    class Meta:
        ordering = ["-admitted_at", "-id"]
        indexes = [
            models.Index(fields=["account_id", "-admitted_at"], name="usageevent_recent"),
            BrinIndex(fields=["recorded_at"], name="usageevent_recorded"),
        ]

    def __str__(self) -> str:
        return f"{self.operation} {self.status}"


class UsageRollup(models.Model):
    """Usage by quarter hour, fed in the ledger's transaction by rows really inserted.

    A call has one row per meter it used and always one for the meter `calls`, which alone
    counts it: `calls` and the sums of time and bytes are 0 on every other meter's rows, so
    that a sum over all rows counts each call once. What a backend reported later is no call:
    its rows have units only.
    """

    quarter = models.DateTimeField(help_text="Start of the quarter hour of admission, UTC.")
    account_id = models.UUIDField()
    key_id = models.UUIDField()
    api = models.CharField(max_length=40)
    operation = models.CharField(max_length=311)
    meter = models.CharField(max_length=40)
    dimensions = models.TextField(
        default="",
        db_default="",
        help_text="The meter's dimensions of the call as JSON, keys sorted; empty: none.",
    )
    status_class = models.SmallIntegerField(help_text="Status divided by 100; 0: abandoned.")
    mode = models.CharField(max_length=4, choices=ApiKey.Mode)
    period_start = models.DateTimeField()
    terms_id = models.CharField(max_length=40)
    calls = models.BigIntegerField(default=0)
    units = models.BigIntegerField(default=0)
    billable_units = models.BigIntegerField(default=0)
    latency_us_sum = models.BigIntegerField(default=0)
    request_bytes_sum = models.BigIntegerField(default=0, db_default=0)
    response_bytes_sum = models.BigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                name="rollup_unique",
                fields=[
                    "account_id",
                    "quarter",
                    "key_id",
                    "api",
                    "operation",
                    "meter",
                    "dimensions",
                    "status_class",
                    "mode",
                    "period_start",
                    "terms_id",
                ],
            )
        ]
        indexes = [models.Index(fields=["quarter"], name="rollup_quarter")]

    def __str__(self) -> str:
        return f"{self.quarter:%Y-%m-%d %H:%M} {self.operation}"


class LatencyRollup(models.Model):
    """Calls by quarter hour and latency, fed like `UsageRollup`; abandoned ones have none."""

    quarter = models.DateTimeField(help_text="Start of the quarter hour of admission, UTC.")
    account_id = models.UUIDField()
    api = models.CharField(max_length=40)
    operation = models.CharField(max_length=311)
    mode = models.CharField(max_length=4, choices=ApiKey.Mode)
    bucket = models.SmallIntegerField(help_text="Of gateway.histogram.")
    calls = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account_id", "quarter", "api", "operation", "mode", "bucket"],
                name="latencyrollup_unique",
            )
        ]

    def __str__(self) -> str:
        return f"{self.quarter:%Y-%m-%d %H:%M} {self.operation}"


class LedgerClock(models.Model):
    """The latest moment that `gateway.recording` gave out, by partition."""

    partition = models.PositiveSmallIntegerField(primary_key=True)
    at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.partition}: {self.at}"


class LedgerHour(models.Model):
    """A closed hour of an account's ledger, chained to the account's closed hour before it.

    Holds what was recorded in that hour, whenever it was admitted. Written by `gateway.chain`,
    never changed; hours in which nothing was recorded have no row.
    """

    account_id = models.UUIDField()
    hour = models.DateTimeField(help_text="Start of the hour of `recorded_at`, UTC.")
    entries = models.PositiveIntegerField()
    entries_digest = models.CharField(
        max_length=64, help_text="SHA-256 of the entries as they are exported, hexadecimal."
    )
    totals = models.JSONField(
        help_text="Live usage by period, terms, API, operation, meter and dimensions."
    )
    earliest_admitted_at = models.DateTimeField()
    latest_admitted_at = models.DateTimeField()
    previous = models.CharField(
        max_length=64, help_text="Digest of the hour before; the first: “”."
    )
    digest = models.CharField(max_length=64, help_text="SHA-256, hexadecimal.")
    closed_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account_id", "hour"], name="ledgerhour_unique")
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H:00} {self.digest[:12]}"


class LedgerClosing(models.Model):
    """How far the ledger's hours are closed; one row."""

    closed_until = models.DateTimeField(help_text="All hours before it are closed.")

    def __str__(self) -> str:
        return f"closed until {self.closed_until:%Y-%m-%d %H:%M}"


class ReportedEvent(models.Model):
    """A use that a backend reported under an id of its own: the id counts once per account."""

    account_id = models.UUIDField()
    event_id = models.CharField(max_length=100)
    usage_id = models.UUIDField(help_text="Of its row in the ledger.")
    admitted_at = models.DateTimeField(help_text="When it happened, as reported.")
    content = models.CharField(max_length=64, help_text="SHA-256 of what was reported.")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account_id", "event_id"], name="reportedevent_unique")
        ]

    def __str__(self) -> str:
        return self.event_id


class CreditUse(models.Model):
    """Credits drawn of one grant, fed in the ledger's transaction by rows really inserted."""

    grant_id = models.BigIntegerField(primary_key=True)
    account_id = models.UUIDField(db_index=True)
    credits = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.credits} of grant {self.grant_id}"


class CreditDay(models.Model):
    """Credits that an account drew on one day of admission, UTC; fed likewise."""

    account_id = models.UUIDField()
    day = models.DateField()
    credits = models.BigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account_id", "day"], name="creditday_unique")
        ]

    def __str__(self) -> str:
        return f"{self.credits} on {self.day}"


class RefusalRollup(models.Model):
    """Refused calls of known keys, by minute. Nobody is billed for these."""

    minute = models.DateTimeField()
    account_id = models.UUIDField()
    key_id = models.UUIDField()
    code = models.CharField(max_length=40)
    count = models.BigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account_id", "minute", "key_id", "code"], name="refusal_unique"
            )
        ]
        indexes = [models.Index(fields=["minute"], name="refusal_minute")]

    def __str__(self) -> str:
        return f"{self.minute:%Y-%m-%d %H:%M} {self.code}"


class QuarantinedEntry(models.Model):
    """A stream entry that the ledger could not store, kept for staff; never blocks the drain."""

    class Resolution(models.TextChoices):
        REPLAYED = "replayed", "tried again"
        DISCARDED = "discarded", "given up"

    stream_id = models.CharField(max_length=40)
    partition = models.PositiveSmallIntegerField(default=0)
    payload = models.BinaryField()
    error = models.TextField()
    at = models.DateTimeField(auto_now_add=True)
    closed_at = models.DateTimeField(null=True)
    resolution = models.CharField(max_length=9, choices=Resolution, blank=True, db_default="")
    reason = models.CharField(max_length=200, blank=True, db_default="", help_text="As staff say.")

    class Meta:
        verbose_name_plural = "quarantined entries"
        constraints = [
            models.UniqueConstraint(fields=["partition", "stream_id"], name="quarantine_unique")
        ]

    def __str__(self) -> str:
        return self.stream_id


class CounterCorrection(models.Model):
    """A counter of the data plane that differed from the books and was corrected.

    Units of a meter, or credits of a grant. Written by `gateway.counters`.
    """

    at = models.DateTimeField()
    account_id = models.UUIDField()
    counter = models.CharField(max_length=200, help_text="Its name in Redis.")
    counted = models.BigIntegerField(help_text="What it held.")
    booked = models.BigIntegerField(help_text="What ledger, stream and open calls said.")

    class Meta:
        indexes = [models.Index(fields=["-at"], name="countercorrection_at")]

    def __str__(self) -> str:
        return self.counter
