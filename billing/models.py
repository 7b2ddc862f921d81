"""Plans and their frozen versions, checkouts, subscriptions, contracts, the provider inbox."""

from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from billing import rating
from billing.sandbox import models as sandbox_models  # noqa: F401 - registers its tables
from keys.identifiers import new_id


class PastIncluded(models.TextChoices):
    REFUSE = "refuse", "refuse further calls"
    BILL = "bill", "bill further units by the price tiers"


class TierMode(models.TextChoices):
    GRADUATED = "graduated", "graduated: each unit at the price of its own tier"
    VOLUME = "volume", "volume: all units at the price of the tier reached"
    PACKAGE = "package", "package: whole packages, a started one counts"


# The gateway keeps time in microseconds: one call each is as fast as it can count.
MAX_RATE_PER_SECOND = 1_000_000

_FROZEN = "A published version is a promise and never changes: make a new version."


def _check_tiers(past_included: str, mode: str, tiers: Any) -> None:
    """ValidationError on `tiers` where they can't be rated, or are missing or in vain."""
    try:
        parsed = rating.parse_tiers(tiers, mode)
    except ValueError as error:
        raise ValidationError({"tiers": str(error)}) from error
    if bool(parsed) != (past_included == PastIncluded.BILL):
        raise ValidationError(
            {"tiers": "Prices are needed to bill past what is included, and only then."}
        )


class Plan(models.Model):
    """A product on the price list. What it costs and grants stands in its versions."""

    class Kind(models.TextChoices):
        FREE = "free", "free"
        PAID = "paid", "paid, self-service"
        ENTERPRISE = "enterprise", "enterprise: a form that reaches staff"

    slug = models.SlugField(max_length=40, unique=True)
    name = models.CharField(max_length=60)
    tagline = models.CharField(max_length=120, blank=True)
    kind = models.CharField(max_length=10, choices=Kind, default=Kind.PAID)
    highlights = models.JSONField(
        default=list, blank=True, help_text="Further lines of the price list, strings."
    )
    recommended = models.BooleanField(default=False)
    listed = models.BooleanField(default=True)
    position = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ["position", "id"]

    def __str__(self) -> str:
        return self.name


class PlanVersion(models.Model):
    """Price and terms of a plan, frozen when published; a change is a new version.

    `billing.catalogue.publish` publishes. A trigger in the database refuses what gets past
    the checks here.
    """

    class Interval(models.TextChoices):
        MONTH = "month", "monthly"
        YEAR = "year", "yearly"

    plan = models.ForeignKey(Plan, models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    currency = models.CharField(max_length=3, default="USD", help_text="ISO 4217, upper case.")
    interval = models.CharField(max_length=5, choices=Interval, default=Interval.MONTH)
    base_price_minor = models.PositiveBigIntegerField(
        default=0, help_text="Minor units: 5000 is $50.00."
    )
    rate_per_second = models.PositiveIntegerField(
        default=5, validators=[MinValueValidator(1), MaxValueValidator(MAX_RATE_PER_SECOND)]
    )
    burst = models.PositiveIntegerField(
        default=10, validators=[MinValueValidator(1)], help_text="Calls at once."
    )
    test_quota_per_day = models.PositiveIntegerField(default=200)
    key_limit = models.PositiveSmallIntegerField(default=10)
    published_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["plan", "-number"]
        constraints = [
            models.UniqueConstraint(fields=["plan", "number"], name="planversion_number")
        ]

    def __str__(self) -> str:
        return f"{self.plan.name}, version {self.number}"

    def save(self, **options: Any) -> None:
        self.clean()
        super().save(**options)

    @property
    def frozen(self) -> bool:
        """Whether the stored row is published: customers rely on what it says."""
        return PlanVersion.objects.filter(pk=self.pk, published_at__isnull=False).exists()

    def clean(self) -> None:
        if self.frozen:
            raise ValidationError(_FROZEN)


class PlanMeter(models.Model):
    """What a plan version includes of one meter and what happens past it."""

    version = models.ForeignKey(PlanVersion, models.CASCADE, related_name="meters")
    meter = models.ForeignKey("gateway.Meter", models.PROTECT, related_name="+")
    included_units = models.PositiveBigIntegerField(help_text="Per billing period.")
    past_included = models.CharField(
        max_length=6, choices=PastIncluded, default=PastIncluded.REFUSE
    )
    tier_mode = models.CharField(max_length=9, choices=TierMode, default=TierMode.GRADUATED)
    tiers = models.JSONField(
        default=list,
        blank=True,
        help_text=(
            "Units past the included ones: "
            '[{"up_to": 10000, "price": "6.00", "per": 1000}, …, {"up_to": null, …}]; '
            "price in major units as a decimal string."
        ),
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["version", "meter"], name="planmeter_unique")
        ]

    def __str__(self) -> str:
        return f"{self.included_units} {self.meter}"

    def save(self, **options: Any) -> None:
        self.clean()
        super().save(**options)

    def clean(self) -> None:
        if self.version.frozen:
            raise ValidationError(_FROZEN)
        _check_tiers(self.past_included, self.tier_mode, self.tiers)


class Contract(models.Model):
    """An enterprise customer's own terms, in place of those of any plan version.

    Whoever saves or deletes one calls `billing.contracts.apply` in the same transaction.
    """

    account = models.ForeignKey("portal.Account", models.PROTECT, related_name="contracts")
    title = models.CharField(max_length=120, default="Enterprise agreement")
    currency = models.CharField(max_length=3, default="USD")
    base_price_minor = models.PositiveBigIntegerField(help_text="Per month, minor units.")
    rate_per_second = models.PositiveIntegerField(
        validators=[MinValueValidator(1), MaxValueValidator(MAX_RATE_PER_SECOND)]
    )
    burst = models.PositiveIntegerField(validators=[MinValueValidator(1)])
    included_calls = models.PositiveBigIntegerField(help_text="Per billing period.")
    past_included = models.CharField(
        max_length=6, choices=PastIncluded, default=PastIncluded.REFUSE
    )
    tiers = models.JSONField(default=list, blank=True, help_text="As in a plan version.")
    sla_text = models.TextField(blank=True)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-starts_at", "-pk"]

    def __str__(self) -> str:
        return f"{self.title} of {self.account}"

    def clean(self) -> None:
        _check_tiers(self.past_included, TierMode.GRADUATED, self.tiers)
        if self.ends_at and self.starts_at and self.ends_at <= self.starts_at:
            raise ValidationError({"ends_at": "The end lies after the start."})


class EnterpriseRequest(models.Model):
    """A visitor's or customer's wish for own terms, for staff to answer."""

    class State(models.TextChoices):
        NEW = "new", "new"
        ANSWERED = "answered", "answered"
        CLOSED = "closed", "closed"

    name = models.CharField(max_length=120)
    email = models.EmailField()
    company = models.CharField(max_length=120)
    calls_per_month = models.CharField(max_length=40, blank=True)
    message = models.TextField(max_length=4000)
    account = models.ForeignKey(
        "portal.Account", models.SET_NULL, null=True, blank=True, related_name="+"
    )
    state = models.CharField(max_length=10, choices=State, default=State.NEW)
    created_at = models.DateTimeField(auto_now_add=True)
    announced_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.company}: {self.email}"


class Checkout(models.Model):
    """One visit to a provider's hosted checkout.

    open → completed | failed | expired | superseded. `open` includes delayed payment: the
    provider has the order and not yet the money.
    """

    class State(models.TextChoices):
        OPEN = "open", "open"
        COMPLETED = "completed", "completed"
        FAILED = "failed", "failed"
        EXPIRED = "expired", "expired"
        SUPERSEDED = "superseded", "cancelled and refunded: the account had a subscription"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey("portal.Account", models.CASCADE, related_name="checkouts")
    version = models.ForeignKey(PlanVersion, models.PROTECT, related_name="+")
    provider = models.CharField(max_length=20)
    provider_session_id = models.CharField(max_length=255, blank=True)
    url = models.URLField(max_length=2000, blank=True)
    state = models.CharField(max_length=10, choices=State, default=State.OPEN)
    payment_pending = models.BooleanField(default=False)
    error = models.CharField(max_length=200, blank=True, help_text="As the provider said it.")
    started_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    created_at = models.DateTimeField()
    synced_at = models.DateTimeField(null=True, blank=True)
    applied_ticket = models.BigIntegerField(default=0)
    refunded_at = models.DateTimeField(
        null=True, blank=True, help_text="When the provider had paid back a superseded one."
    )

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["provider", "provider_session_id"],
                name="checkout_session_unique",
                condition=~models.Q(provider_session_id=""),
            )
        ]
        indexes = [
            models.Index(
                fields=["synced_at"],
                name="checkout_to_ask_about",
                condition=models.Q(state__in=["open", "superseded"]),
            )
        ]

    def __str__(self) -> str:
        return f"{self.version} ({self.get_state_display()})"


class Subscription(models.Model):
    """An account's base subscription: one that lives at most, enforced by the database.

        (start) → trialing → active ⇄ past_due → ended
        (start) → active;  trialing → past_due;  trialing, active → ended

    Nothing leaves `ended`: who pays again gets a new row. `billing.subscriptions` makes the
    moves and refuses others. States are a provider's, reduced by its adapter; a free plan's
    subscription has the provider `none`. Money that is still on its way is the checkout's
    matter: there is no subscription before the first payment.
    """

    class Overage(models.TextChoices):
        BILL = "bill", "bill further units"
        STOP = "stop", "stop at what is included"

    class State(models.TextChoices):
        TRIALING = "trialing", "in trial"
        ACTIVE = "active", "active"
        PAST_DUE = "past_due", "payment failed, in grace"
        ENDED = "ended", "ended"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey("portal.Account", models.CASCADE, related_name="subscriptions")
    version = models.ForeignKey(PlanVersion, models.PROTECT, related_name="subscriptions")
    provider = models.CharField(max_length=20)
    provider_subscription_id = models.CharField(max_length=255, blank=True)
    provider_customer_id = models.CharField(max_length=255, blank=True)
    state = models.CharField(max_length=10, choices=State)
    started_at = models.DateTimeField()
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()
    anchor_day = models.PositiveSmallIntegerField(
        help_text="Day of the month on which periods start; shorter months end sooner."
    )
    cancel_at_period_end = models.BooleanField(default=False)
    overage = models.CharField(
        max_length=4,
        choices=Overage,
        default=Overage.BILL,
        help_text="The customer's choice where the plan bills past what it includes.",
    )
    started_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    past_due_since = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    applied_ticket = models.BigIntegerField(
        default=0, help_text="The newest fetch of the provider's state that was applied."
    )
    synced_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-started_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["account"],
                name="subscription_one_alive_per_account",
                condition=~models.Q(state="ended"),
            ),
            models.UniqueConstraint(
                fields=["started_by"],
                name="subscription_one_free_per_user",
                condition=models.Q(provider="none") & ~models.Q(state="ended"),
            ),
            models.UniqueConstraint(
                fields=["provider", "provider_subscription_id"],
                name="subscription_provider_id",
                condition=~models.Q(provider_subscription_id=""),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.version} ({self.get_state_display()})"


class ProviderEvent(models.Model):
    """The inbox: one row per delivery of a provider, a hint to go and fetch its state."""

    provider = models.CharField(max_length=20)
    external_id = models.CharField(max_length=255)
    type = models.CharField(max_length=120)
    payload = models.JSONField()
    received_at = models.DateTimeField()
    processed_at = models.DateTimeField(null=True, blank=True)
    ignored = models.BooleanField(default=False, help_text="Of no interest to Keystile.")
    attempts = models.PositiveSmallIntegerField(default=0)
    next_attempt_at = models.DateTimeField(null=True, blank=True)
    dead_at = models.DateTimeField(null=True, blank=True, help_text="Given up; replay by hand.")
    error = models.TextField(blank=True)

    class Meta:
        ordering = ["-received_at"]
        constraints = [
            models.UniqueConstraint(fields=["provider", "external_id"], name="providerevent_unique")
        ]
        indexes = [
            models.Index(
                fields=["received_at"],
                name="providerevent_waiting",
                condition=models.Q(processed_at__isnull=True, dead_at__isnull=True),
            )
        ]

    def __str__(self) -> str:
        return f"{self.provider} {self.type}"


class BillingEvent(models.Model):
    """What happened to an account's subscription, in its own words and order.

    The history that staff and analytics read, and what the account must be told
    (`announced_at` is set when the mail is out).
    """

    class Kind(models.TextChoices):
        STARTED = "started", "subscription started"
        RENEWED = "renewed", "renewed"
        CANCEL_PLANNED = "cancel_planned", "cancellation planned"
        CANCEL_WITHDRAWN = "cancel_withdrawn", "cancellation withdrawn"
        PAYMENT_FAILED = "payment_failed", "payment failed"
        PAYMENT_RECOVERED = "payment_recovered", "payment recovered"
        ENDED = "ended", "subscription ended"
        PURCHASE_FAILED = "purchase_failed", "delayed payment of a purchase failed"
        DUPLICATE_REFUNDED = "duplicate_refunded", "second purchase refunded"
        CONTRACT_CHANGED = "contract_changed", "contract changed"

    account = models.ForeignKey("portal.Account", models.CASCADE, related_name="billing_events")
    subscription = models.ForeignKey(
        Subscription, models.CASCADE, null=True, blank=True, related_name="events"
    )
    kind = models.CharField(max_length=20, choices=Kind)
    data = models.JSONField(default=dict)
    mrr_minor = models.BigIntegerField(
        default=0, help_text="Monthly recurring revenue of the account after the event."
    )
    currency = models.CharField(max_length=3, default="USD")
    at = models.DateTimeField()
    announced_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-at", "-id"]
        indexes = [
            models.Index(fields=["at"], name="billingevent_at"),
            models.Index(fields=["account", "-at", "-id"], name="billingevent_of_account"),
            models.Index(
                fields=["at"],
                name="billingevent_unannounced",
                condition=models.Q(announced_at__isnull=True),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.at:%Y-%m-%d %H:%M}"
