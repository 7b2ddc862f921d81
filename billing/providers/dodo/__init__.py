"""The adapter of Dodo Payments, a merchant of record, through its official library.

`client` opens it and says what its errors mean. `products` keeps what is on sale, `usage` says who
charges what is used. `checkouts` sends buyers to its hosted page, `subscriptions` and `payments`
read what they have and paid, `changes`, `charges` and `refunds` ask for more, for money, and for
money back. `webhooks` reads its deliveries, `metering` sends usage to `/events/ingest`.
"""

from billing.providers.dodo.changes import change, preview
from billing.providers.dodo.charges import charge
from billing.providers.dodo.checkouts import create_checkout, create_sale, fetch_checkout
from billing.providers.dodo.offers import list_offer, unlisted
from billing.providers.dodo.refunds import refund, refund_and_cancel
from billing.providers.dodo.subscriptions import cancel, fetch_subscription, portal, resume
from billing.providers.dodo.webhooks import subject, verify

__all__ = [
    "cancel",
    "change",
    "charge",
    "create_checkout",
    "create_sale",
    "fetch_checkout",
    "fetch_subscription",
    "list_offer",
    "portal",
    "preview",
    "refund",
    "refund_and_cancel",
    "resume",
    "subject",
    "unlisted",
    "verify",
]
