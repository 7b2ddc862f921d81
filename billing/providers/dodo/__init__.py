"""The adapter of Dodo Payments, a merchant of record, through its official library.

`client` opens it and says what its errors mean, `products` keeps a product for each plan version,
`checkouts` sends buyers to its hosted page, `subscriptions` asks and changes what they bought,
`webhooks` reads its deliveries, `metering` sends usage to `/events/ingest`.
"""

from billing.providers.dodo.checkouts import create_checkout, fetch_checkout
from billing.providers.dodo.subscriptions import (
    cancel,
    fetch_subscription,
    refund_and_cancel,
    resume,
)
from billing.providers.dodo.webhooks import subject, verify

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
