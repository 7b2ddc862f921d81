"""Plans and their frozen versions, purchases, contracts, invoices, the provider inbox."""

from billing.models.allowances import CreditGrant, SpendCap
from billing.models.invoices import Invoice, InvoiceCounter, InvoiceLine
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
from billing.models.shipments import (
    Reconciliation,
    ReconciliationLine,
    Shipment,
    ShippingClock,
)
from billing.sandbox import models as sandbox_models

__all__ = [
    "BillingEvent",
    "Checkout",
    "Contract",
    "CreditGrant",
    "EnterpriseRequest",
    "Invoice",
    "InvoiceCounter",
    "InvoiceLine",
    "PastIncluded",
    "Plan",
    "PlanMeter",
    "PlanVersion",
    "ProviderEvent",
    "Reconciliation",
    "ReconciliationLine",
    "Shipment",
    "ShippingClock",
    "SpendCap",
    "Subscription",
    "TierMode",
    "sandbox_models",  # registers its tables
]
