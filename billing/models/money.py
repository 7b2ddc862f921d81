"""Money that a provider took or shall take: payments, charges of ours, refunds; for whom."""

from uuid import UUID

from django.conf import settings
from django.db import models

from billing.models.invoices import Invoice
from billing.models.purchases import Subscription
from keys.identifiers import new_id


class Payment(models.Model):
    """One payment as its provider has it: taken, failed, paid back, disputed.

    Written by `billing.payments` alone, from what was fetched. Tax and the number are the
    provider's where it issues the legal invoice.
    """

    class Kind(models.TextChoices):
        SUBSCRIPTION = "subscription", "a period of the plan"
        CHANGE = "change", "a change within a period"
        CHARGE = "charge", "usage, or credits bought by themselves"
        SALE = "sale", "credits"

    class State(models.TextChoices):
        PENDING = "pending", "on its way"
        PAID = "paid", "paid"
        FAILED = "failed", "failed"

    class Dispute(models.TextChoices):
        NONE = "", "not disputed"
        OPEN = "open", "disputed"
        WON = "won", "dispute won"
        LOST = "lost", "dispute lost"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey("portal.Account", models.PROTECT, related_name="payments")
    subscription = models.ForeignKey(
        Subscription, models.PROTECT, null=True, blank=True, related_name="payments"
    )
    provider = models.CharField(max_length=20)
    provider_payment_id = models.CharField(max_length=255)
    kind = models.CharField(max_length=12, choices=Kind)
    reference = models.CharField(
        max_length=64, blank=True, help_text="The charge or top-up of ours that it pays."
    )
    state = models.CharField(max_length=7, choices=State)
    amount_minor = models.BigIntegerField(help_text="With tax; minor units.")
    tax_minor = models.BigIntegerField(default=0)
    currency = models.CharField(max_length=3)
    refunded_minor = models.BigIntegerField(default=0)
    dispute = models.CharField(max_length=4, choices=Dispute, blank=True, default=Dispute.NONE)
    failure = models.CharField(max_length=200, blank=True, help_text="In the provider’s words.")
    number = models.CharField(max_length=100, blank=True, help_text="Of the provider’s invoice.")
    page_url = models.URLField(max_length=2000, blank=True)
    pdf_url = models.URLField(max_length=2000, blank=True)
    tax_lines = models.JSONField(
        default=list, help_text='[{"text": "VAT 19 % (DE)", "amount_minor": 950}, …]'
    )
    buyer = models.JSONField(
        default=dict, help_text='As the provider has it: {"name", "address": [lines], "tax_id"}.'
    )
    at = models.DateTimeField()
    applied_ticket = models.BigIntegerField(default=0)
    dispute_announced_at = models.DateTimeField(
        null=True, blank=True, help_text="When staff were told how the dispute stands."
    )

    class Meta:
        ordering = ["-at", "-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["provider", "provider_payment_id"], name="payment_provider_id"
            )
        ]
        indexes = [
            models.Index(fields=["account", "-at"], name="payment_of_account"),
            models.Index(
                fields=["at"],
                name="payment_dispute_to_tell",
                condition=~models.Q(dispute="") & models.Q(dispute_announced_at=None),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.provider} {self.provider_payment_id}"

    @property
    def our_id(self) -> UUID | None:
        """The charge or top-up that it pays; None where a provider's reference is not of ours."""
        try:
            return UUID(self.reference)
        except ValueError:
            return None


class Charge(models.Model):
    """Money that we ask a provider to take from its customer, once.

        due → unknown → pending → paid | failed;  unknown → due (it never left)
        failed → due (asked again: the payment method was updated, or staff)
        due, failed → dropped (staff)

    `unknown` from the moment before it is asked for until its outcome is heard: asking again with
    the same reference is what settles it, and takes no money twice. `billing.charges` makes the
    moves. Without a provider (`none`) it is an invoice to be paid by transfer: nobody is asked,
    staff say when it is paid.
    """

    class State(models.TextChoices):
        DUE = "due", "due"
        UNKNOWN = "unknown", "asked for, outcome not heard"
        PENDING = "pending", "on its way"
        PAID = "paid", "paid"
        FAILED = "failed", "failed"
        DROPPED = "dropped", "dropped by staff"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey("portal.Account", models.PROTECT, related_name="charges")
    subscription = models.ForeignKey(
        Subscription, models.PROTECT, null=True, blank=True, related_name="charges"
    )
    provider = models.CharField(max_length=20)
    invoice = models.OneToOneField(
        Invoice, models.PROTECT, null=True, blank=True, related_name="charge"
    )
    description = models.CharField(max_length=200)
    amount_minor = models.PositiveBigIntegerField(help_text="Before tax; minor units.")
    currency = models.CharField(max_length=3)
    lines = models.JSONField(default=list, help_text='[{"text", "amount_minor"}, …], their sum.')
    state = models.CharField(max_length=7, choices=State, default=State.DUE)
    reason = models.CharField(max_length=300, blank=True, help_text="Of the last failure.")
    attempts = models.PositiveIntegerField(default=0)
    failed_since = models.DateTimeField(
        null=True, blank=True, help_text="An invoice is owed since then: its charge failed first."
    )
    next_attempt_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField()
    settled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        indexes = [
            models.Index(
                fields=["next_attempt_at"],
                name="charge_to_ask_for",
                condition=models.Q(next_attempt_at__isnull=False),
            ),
            models.Index(
                fields=["failed_since"],
                name="charge_owed",
                condition=models.Q(failed_since__isnull=False),
            ),
            models.Index(fields=["account", "-created_at"], name="charge_of_account"),
        ]

    def __str__(self) -> str:
        return self.description


class Refund(models.Model):
    """Money that staff pay back, and the credit note that says so.

    due → unknown → done | failed;  unknown → due
    """

    class State(models.TextChoices):
        DUE = "due", "due"
        UNKNOWN = "unknown", "asked for, outcome not heard"
        DONE = "done", "paid back"
        FAILED = "failed", "failed"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    payment = models.ForeignKey(Payment, models.PROTECT, related_name="refunds")
    invoice = models.ForeignKey(
        Invoice, models.PROTECT, null=True, blank=True, related_name="refunds"
    )
    number = models.PositiveBigIntegerField(
        null=True, unique=True, help_text="Of the credit note, without a gap; given when done."
    )
    amount_minor = models.PositiveBigIntegerField()
    currency = models.CharField(max_length=3)
    reason = models.CharField(max_length=300)
    ends_subscription = models.BooleanField(
        default=False, db_default=False, help_text="Ended at its provider before it is paid back."
    )
    state = models.CharField(max_length=7, choices=State, default=State.DUE)
    error = models.CharField(max_length=300, blank=True)
    attempts = models.PositiveIntegerField(default=0)
    next_attempt_at = models.DateTimeField(null=True, blank=True)
    seller = models.JSONField(
        default=dict,
        db_default=models.Value({}, models.JSONField()),
        help_text='As it was when it was done: {"name", "address": [lines], "tax_id"}.',
    )
    buyer = models.JSONField(
        default=dict, db_default=models.Value({}, models.JSONField()), help_text="Likewise."
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField()
    settled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        indexes = [
            models.Index(
                fields=["next_attempt_at"],
                name="refund_to_ask_for",
                condition=models.Q(next_attempt_at__isnull=False),
            )
        ]

    def __str__(self) -> str:
        return f"CN-{self.number:06}" if self.number else f"refund of {self.payment}"


class BuyerDetails(models.Model):
    """Who is billed, as the account says: on invoices that we issue."""

    account = models.OneToOneField(
        "portal.Account", models.CASCADE, primary_key=True, related_name="buyer_details"
    )
    name = models.CharField("company or name", max_length=120, blank=True)
    address = models.TextField(max_length=400, blank=True)
    country = models.CharField(max_length=2, blank=True, help_text="ISO 3166, two letters.")
    tax_id = models.CharField("tax number", max_length=40, blank=True)

    def __str__(self) -> str:
        return f"details of {self.account}"
