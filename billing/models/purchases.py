"""What was bought: checkouts, subscriptions, what the provider said of them, what happened."""

from django.conf import settings
from django.db import models

from billing.models.prices import PlanVersion
from keys.identifiers import new_id


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
    replaces = models.ForeignKey(
        "billing.Subscription",
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        help_text="The one at another provider that it takes the place of when that ends.",
    )
    started_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    created_at = models.DateTimeField()
    synced_at = models.DateTimeField(null=True, blank=True)
    applied_ticket = models.BigIntegerField(default=0)
    replaced_at = models.DateTimeField(
        null=True, blank=True, help_text="When the one that it replaces was cancelled there."
    )
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

    The states and their moves stand in `billing.states`, `billing.subscriptions` makes them.
    Nothing leaves `ended`: who pays again gets a new row. States are a provider's, reduced by
    its adapter; a free plan's subscription has the provider `none`. Money that is still on its
    way is the checkout's matter: there is no subscription before the first payment.
    """

    class Overage(models.TextChoices):
        BILL = "bill", "bill further units"
        STOP = "stop", "stop at what is included"

    class ChargedBy(models.TextChoices):
        KEYSTILE = "keystile", "Keystile: rates the usage and sends one charge"
        PROVIDER = "provider", "the provider, by its own metered prices"

    class State(models.TextChoices):
        TRIALING = "trialing", "in trial"
        ACTIVE = "active", "active"
        PAST_DUE = "past_due", "payment failed, in grace"
        PAUSED = "paused", "paused"
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
    charged_by = models.CharField(
        "usage charged by",
        max_length=8,
        choices=ChargedBy,
        default=ChargedBy.KEYSTILE,
        db_default=ChargedBy.KEYSTILE,
    )
    next_version = models.ForeignKey(
        PlanVersion,
        models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        help_text="Takes the version’s place when the period ends.",
    )
    next_told = models.BooleanField(
        default=True,
        db_default=True,
        help_text="Its provider knows what it consists of from the next period on.",
    )
    method = models.CharField(
        max_length=100,
        blank=True,
        db_default="",
        help_text="How it is paid: “Visa ending in 4242”.",
    )
    trial_ends_at = models.DateTimeField(null=True, blank=True)
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
        PLAN_CHANGED = "plan_changed", "plan changed"
        CHANGE_PLANNED = "change_planned", "plan change planned"
        CHANGE_WITHDRAWN = "change_withdrawn", "plan change withdrawn"
        ADD_ON_STARTED = "add_on_started", "add-on started"
        ADD_ON_ENDED = "add_on_ended", "add-on ended"
        TRIAL_ENDING = "trial_ending", "trial about to end"
        PAUSED = "paused", "paused"
        UNPAUSED = "unpaused", "goes on after a pause"
        METHOD_UPDATED = "method_updated", "payment method updated"
        GRACE_REMINDER = "grace_reminder", "reminded of a failed payment"
        PAYMENT_REQUIRED = "payment_required", "grace over, calls stopped"
        CHARGED = "charged", "usage charged"
        CHARGE_FAILED = "charge_failed", "charge of usage failed"
        REFUNDED = "refunded", "paid back"
        DISPUTED = "disputed", "payment disputed"
        DISPUTE_WON = "dispute_won", "dispute won"
        DISPUTE_LOST = "dispute_lost", "dispute lost"
        TOPPED_UP = "topped_up", "credits bought"
        TOP_UP_FAILED = "top_up_failed", "credits not bought"
        PROVIDER_CHANGED = "provider_changed", "payment provider changed"

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
