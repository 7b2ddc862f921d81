"""Stripe's own pages for its customers: how they pay, their address and tax id, their invoices."""

from __future__ import annotations

from billing.providers.stripe.client import asking


def portal(customer_id: str, return_url: str) -> str:
    """What can be done there is set in Stripe's dashboard; the address is good for minutes."""
    with asking() as client:
        made = client.v1.billing_portal.sessions.create(
            {"customer": customer_id, "return_url": return_url, "locale": "auto"}
        )
    return made.url
