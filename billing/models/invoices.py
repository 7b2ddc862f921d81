"""What was charged for each month of usage, and by which hours of the ledger: kept for good."""

from typing import Any

from django.core.exceptions import ValidationError
from django.db import models

from keys.identifiers import new_id

_CLOSED = "A closed invoice never changes: what comes later stands on the next one."


class Invoice(models.Model):
    """One period of an account's usage, and what was charged when it ended.

        open → closed

    Opened with its period by `billing.opening`, closed by `billing.invoices`. While it is open
    it says nothing but the period, whose end may still move. A trigger in the database refuses
    changes of a closed one that get past `save` here.
    """

    class State(models.TextChoices):
        OPEN = "open", "open"
        CLOSED = "closed", "closed"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey("portal.Account", models.PROTECT, related_name="invoices")
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()
    state = models.CharField(max_length=6, choices=State, default=State.OPEN)
    number = models.PositiveBigIntegerField(
        null=True, help_text="Without a gap, of those that we issue and that charge something."
    )
    currency = models.CharField(max_length=3, blank=True)
    total_minor = models.BigIntegerField(
        default=0, help_text="Minor units; lines in another currency are not in it."
    )
    cut = models.DateTimeField(
        null=True, help_text="It has what the ledger's hours before this one recorded."
    )
    closed_at = models.DateTimeField(null=True)
    seller = models.JSONField(
        default=dict,
        db_default=models.Value({}, models.JSONField()),
        help_text='As it was then: {"name", "address": [lines], "tax_id"}.',
    )
    buyer = models.JSONField(
        default=dict, db_default=models.Value({}, models.JSONField()), help_text="Likewise."
    )

    class Meta:
        ordering = ["-period_start"]
        constraints = [
            models.UniqueConstraint(fields=["account", "period_start"], name="invoice_period"),
            models.UniqueConstraint(fields=["number"], name="invoice_number"),
            models.CheckConstraint(
                condition=models.Q(state="open", cut=None, closed_at=None, number=None)
                | models.Q(state="closed", cut__isnull=False, closed_at__isnull=False),
                name="invoice_closed_or_not",
            ),
        ]
        indexes = [
            models.Index(
                fields=["period_end"], name="invoice_open", condition=models.Q(state="open")
            )
        ]

    def __str__(self) -> str:
        return f"INV-{self.number:06}" if self.number else f"Statement {self.period_start:%Y-%m-%d}"

    def save(self, **options: Any) -> None:
        if Invoice.objects.filter(pk=self.pk, state=Invoice.State.CLOSED).exists():
            raise ValidationError(_CLOSED)
        super().save(**options)


class InvoiceLine(models.Model):
    """A line of a closed invoice: the base price, a payment for a change of plan within the
    period, or usage of one meter at one price.

    `period_start` is earlier than the invoice's on a line of what was recorded late. The units
    are those of a meter in the entries of the named hours that `selects` describes: of this
    period, used under these terms, matching the filter and none of the excepted ones.
    """

    invoice = models.ForeignKey(Invoice, models.PROTECT, related_name="lines")
    position = models.PositiveSmallIntegerField()
    text = models.TextField()
    meter = models.CharField(
        max_length=40, blank=True, help_text="Empty: the base price, or a payment."
    )
    payment = models.OneToOneField(
        "billing.Payment",
        models.PROTECT,
        null=True,
        blank=True,
        related_name="line",
        help_text="It was taken when the plan was changed.",
    )
    period_start = models.DateTimeField()
    terms_id = models.CharField(max_length=40, blank=True, help_text="Whose price it is.")
    selects = models.JSONField(
        default=dict, help_text='{"terms": [ids], "filter": {…}, "except": [filters]}'
    )
    units = models.BigIntegerField()
    included_units = models.BigIntegerField()
    amount_minor = models.BigIntegerField()
    currency = models.CharField(max_length=3, blank=True)
    entries = models.BigIntegerField(default=0, help_text="Of the ledger, unbilled ones too.")
    root = models.CharField(
        max_length=64, blank=True, help_text="SHA-256 over the hours and their digests."
    )
    hours = models.JSONField(
        default=list, help_text='[{"hour", "digest", "events", "units"}], in order.'
    )

    class Meta:
        ordering = ["invoice", "position"]
        constraints = [
            models.UniqueConstraint(fields=["invoice", "position"], name="invoiceline_position")
        ]

    def __str__(self) -> str:
        return self.text


class InvoiceCounter(models.Model):
    """The numbers given last; one row, held by whoever gives one."""

    latest = models.PositiveBigIntegerField(default=0)
    latest_credit_note = models.PositiveBigIntegerField(default=0, db_default=0)

    def __str__(self) -> str:
        return str(self.latest)
