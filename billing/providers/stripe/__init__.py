"""The adapter of Stripe, through its official library.

`client` opens it, `checkouts` sends buyers to its hosted page, `subscriptions` asks and tells it
of what they bought, `webhooks` reads its deliveries, `metering` sends usage to its billing meters.
"""

from billing.providers.stripe.checkouts import create_checkout, fetch_checkout
from billing.providers.stripe.subscriptions import (
    cancel,
    fetch_subscription,
    refund_and_cancel,
    resume,
)
from billing.providers.stripe.webhooks import subject, verify

__all__ = [
    "cancel",
    "create_checkout",
    "fetch_checkout",
    "fetch_subscription",
    "refund_and_cancel",
    "resume",
    "subject",
    "verify",
]
