"""Django looks here for the admin; the staff's rooms are in `portal/staff/`."""

from portal.staff import apis, customers, keys, payments, plans

__all__ = ["apis", "customers", "keys", "payments", "plans"]
