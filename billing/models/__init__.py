"""Plans and their frozen versions, checkouts, subscriptions, contracts, the provider inbox."""

from billing.models.prices import (
    Contract,
    EnterpriseRequest,
    PastIncluded,
    Plan,
    PlanMeter,
    PlanVersion,
    TierMode,
)
from billing.models.purchases import BillingEvent, Checkout, ProviderEvent, Subscription
from billing.sandbox import models as sandbox_models

__all__ = [
    "BillingEvent",
    "Checkout",
    "Contract",
    "EnterpriseRequest",
    "PastIncluded",
    "Plan",
    "PlanMeter",
    "PlanVersion",
    "ProviderEvent",
    "Subscription",
    "TierMode",
    "sandbox_models",  # registers its tables
]
