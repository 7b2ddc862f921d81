"""Django looks here for the admin; the staff's rooms are in `portal/staff/`."""

from portal.staff import allowances, apis, customers, keys, payments, plans, tokens

__all__ = ["allowances", "apis", "customers", "keys", "payments", "plans", "tokens"]
