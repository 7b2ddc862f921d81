"""Plans and their frozen versions, purchases, contracts, invoices, the provider inbox."""

from billing.models.add_ons import AddOn, SubscriptionAddOn
from billing.models.allowances import CreditGrant, SpendCap
from billing.models.credits import AutoTopUp, CreditPack, TopUp
from billing.models.drift import Drift
from billing.models.invoices import Invoice, InvoiceCounter, InvoiceLine
from billing.models.money import BuyerDetails, Charge, Payment, Refund
from billing.models.price_changes import PriceChange, PriceMove
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
    "AddOn",
    "AutoTopUp",
    "BillingEvent",
    "BuyerDetails",
    "Charge",
    "Checkout",
    "Contract",
    "CreditGrant",
    "CreditPack",
    "Drift",
    "EnterpriseRequest",
    "Invoice",
    "InvoiceCounter",
    "InvoiceLine",
    "PastIncluded",
    "Payment",
    "Plan",
    "PlanMeter",
    "PlanVersion",
    "PriceChange",
    "PriceMove",
    "ProviderEvent",
    "Reconciliation",
    "ReconciliationLine",
    "Refund",
    "Shipment",
    "ShippingClock",
    "SpendCap",
    "Subscription",
    "SubscriptionAddOn",
    "TierMode",
    "TopUp",
    "sandbox_models",  # registers its tables
]
