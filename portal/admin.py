"""Django looks here for the admin; the staff's rooms are in `portal/staff/`."""

from portal.staff import (
    add_ons,
    allowances,
    apis,
    bookkeeping,
    customers,
    drift,
    invoices,
    keys,
    money,
    payments,
    plans,
    price_changes,
    shipping,
    tokens,
)

__all__ = [
    "add_ons",
    "allowances",
    "apis",
    "bookkeeping",
    "customers",
    "drift",
    "invoices",
    "keys",
    "money",
    "payments",
    "plans",
    "price_changes",
    "shipping",
    "tokens",
]
