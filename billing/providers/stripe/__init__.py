"""The adapter of Stripe, through its official library.

`client` opens it, `webhooks` reads its deliveries, `metering` sends usage to its billing meters.
"""

from billing.providers.stripe.webhooks import subject, verify

__all__ = ["subject", "verify"]
