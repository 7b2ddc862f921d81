"""The staff's view of prices and money, in two rooms."""

from billing.admin import history, prices

__all__ = ["history", "prices"]
