"""Django looks here for the admin; the staff's rooms are in `portal/staff/`."""

from portal.staff import (
    allowances,
    apis,
    bookkeeping,
    customers,
    invoices,
    keys,
    payments,
    plans,
    price_changes,
    shipping,
    tokens,
)

__all__ = [
    "allowances",
    "apis",
    "bookkeeping",
    "customers",
    "invoices",
    "keys",
    "payments",
    "plans",
    "price_changes",
    "shipping",
    "tokens",
]
