"""The adapter of Stripe, through its official library.

`client` opens it, `shapes` and `amounts` read what it answers. `checkouts` sends buyers to its
hosted pages, `subscriptions` asks and tells it of what they bought, `plans` and `changes` make
that another, `charges` takes money for usage, `payments` reads what was paid and pays it back,
`prices` lists what is on sale, `webhooks` reads its deliveries, `metering` sends usage to its
billing meters.
"""

from billing.providers.stripe.changes import change, preview
from billing.providers.stripe.charges import charge
from billing.providers.stripe.checkouts import create_checkout, create_sale, fetch_checkout
from billing.providers.stripe.payments import refund
from billing.providers.stripe.portal import portal
from billing.providers.stripe.prices import list_offer, unlisted
from billing.providers.stripe.subscriptions import (
    cancel,
    fetch_subscription,
    refund_and_cancel,
    resume,
)
from billing.providers.stripe.webhooks import subject, verify

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
