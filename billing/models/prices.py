"""What is offered and for how much: plans, their frozen versions, contracts, wishes for one."""

from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from billing import rating
from billing.models.allowances import MAX_CREDITS
from gateway.models import Api, Meter, Operation


class PastIncluded(models.TextChoices):
    REFUSE = "refuse", "refuse further calls"
    BILL = "bill", "bill further units by the price tiers"
    CREDITS = "credits", "pay further units with prepaid credits"


class TierMode(models.TextChoices):
    GRADUATED = "graduated", "graduated: each unit at the price of its own tier"
    VOLUME = "volume", "volume: all units at the price of the tier reached"
    PACKAGE = "package", "package: whole packages, a started one counts"


# The gateway keeps time in microseconds: one call each is as fast as it can count.
MAX_RATE_PER_SECOND = 1_000_000
MAX_TRIAL_DAYS = 365

_FROZEN = "A published version is a promise and never changes: make a new version."


SPECIAL_PRICES_HELP = (
    "Other tiers for some of the units: "
    '[{"api": "holidays", "operation": "GET /v1/next/{country}", "dimensions": {"model": "large"}, '
    '"tiers": […]}, …]; of the first three, what matters. The first that fits a unit is its '
    "price, and included units are used up in the same order."
)


def _check_past(
    past_included: str, mode: str, tiers: Any, special_prices: Any, credits_per_unit: int
) -> None:
    """ValidationError where prices can't be rated, or are missing or in vain."""
    try:
        parsed = rating.parse_tiers(tiers, mode)
    except ValueError as error:
        raise ValidationError({"tiers": str(error)}) from error
    try:
        special = rating.parse_special(special_prices, mode)
    except ValueError as error:
        raise ValidationError({"special_prices": str(error)}) from error
    if special and past_included != PastIncluded.BILL:
        raise ValidationError({"special_prices": "For what is billed past the included units."})
    if bool(parsed) != (past_included == PastIncluded.BILL):
        raise ValidationError(
            {"tiers": "Prices are needed to bill past what is included, and only then."}
        )
    if bool(credits_per_unit) != (past_included == PastIncluded.CREDITS):
        raise ValidationError(
            {"credits_per_unit": "Needed where credits pay past what is included, and only then."}
        )


def _check_on_sale(meter: Meter, special_prices: Any, mode: str) -> None:
    """ValidationError where a special price is for units that can't come.

    Asked of what people write; what is taken off sale afterwards makes no row invalid.
    """
    for one in rating.parse_special(special_prices, mode):
        wanted = one.filter
        for name, _ in wanted.dimensions:
            if name not in meter.dimensions:
                raise ValidationError(
                    {"special_prices": f"“{name}” is not among the dimensions of {meter.name}."}
                )
        if wanted.api and not Api.objects.filter(slug=wanted.api).exists():
            raise ValidationError({"special_prices": f"There is no API “{wanted.api}”."})
        if wanted.operation and not _operation_exists(wanted):
            raise ValidationError(
                {"special_prices": f"“{wanted.operation}” is not an operation on sale."}
            )


def _operation_exists(wanted: rating.Filter) -> bool:
    method, _, path = wanted.operation.partition(" ")
    found = Operation.objects.filter(method=method, path_template=path)
    return (found.filter(api__slug=wanted.api) if wanted.api else found).exists()


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
    concurrency = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Calls that may run at the same time; empty: any number.",
    )
    apis = models.JSONField(
        null=True, blank=True, help_text="Slugs of the APIs that may be called; null: all."
    )
    test_quota_per_day = models.PositiveIntegerField(default=200)
    key_limit = models.PositiveSmallIntegerField(default=10)
    trial_days = models.PositiveSmallIntegerField(
        default=0,
        db_default=0,
        validators=[MaxValueValidator(MAX_TRIAL_DAYS)],
        help_text="Days before the first payment, for an account’s first purchase; 0: no trial.",
    )
    trial_credits = models.PositiveBigIntegerField(
        default=0,
        db_default=0,
        validators=[MaxValueValidator(MAX_CREDITS)],
        help_text="Credits given for the trial; what is left of them ends with it.",
    )
    monthly_credits = models.PositiveBigIntegerField(
        default=0,
        db_default=0,
        validators=[MaxValueValidator(MAX_CREDITS)],
        help_text="Credits given for each month of usage; what is left of them ends with it.",
    )
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
        max_length=7, choices=PastIncluded, default=PastIncluded.REFUSE
    )
    credits_per_unit = models.PositiveIntegerField(
        default=0, db_default=0, help_text="What a unit past the included ones costs in credits."
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
    special_prices = models.JSONField(
        default=list,
        db_default=models.Value([], models.JSONField()),
        blank=True,
        help_text=SPECIAL_PRICES_HELP,
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["version", "meter"], name="planmeter_unique")
        ]

    def __str__(self) -> str:
        return f"{self.included_units} {self.meter}"

    def save(self, **options: Any) -> None:
        self._check()
        super().save(**options)

    def clean(self) -> None:
        self._check()
        _check_on_sale(self.meter, self.special_prices, self.tier_mode)

    def _check(self) -> None:
        if self.version.frozen:
            raise ValidationError(_FROZEN)
        _check_past(
            self.past_included,
            self.tier_mode,
            self.tiers,
            self.special_prices,
            self.credits_per_unit,
        )


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
        max_length=7, choices=PastIncluded, default=PastIncluded.REFUSE
    )
    credits_per_unit = models.PositiveIntegerField(
        default=0, db_default=0, help_text="What a call past the included ones costs in credits."
    )
    tiers = models.JSONField(default=list, blank=True, help_text="As in a plan version.")
    special_prices = models.JSONField(
        default=list,
        db_default=models.Value([], models.JSONField()),
        blank=True,
        help_text=SPECIAL_PRICES_HELP,
    )
    concurrency = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Calls that may run at the same time; empty: any number.",
    )
    apis = models.JSONField(
        null=True, blank=True, help_text="Slugs of the APIs that may be called; null: all."
    )
    sla_text = models.TextField(blank=True)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-starts_at", "-pk"]

    def __str__(self) -> str:
        return f"{self.title} of {self.account}"

    def clean(self) -> None:
        _check_past(
            self.past_included,
            TierMode.GRADUATED,
            self.tiers,
            self.special_prices,
            self.credits_per_unit,
        )
        if self.special_prices:
            calls = Meter.objects.get(name="calls")
            _check_on_sale(calls, self.special_prices, TierMode.GRADUATED)
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
