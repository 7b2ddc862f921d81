"""What we write into the metadata of what is Dodo's, to find it again and to know it by.

Dodo copies the metadata of a checkout to its payment and its subscription, and those of a
subscription to its renewals. A charge, a change and a refund have their own.
"""

from __future__ import annotations

from collections.abc import Mapping

CHECKOUT = "keystile_checkout"
TOP_UP = "keystile_top_up"
CHARGE = "keystile_charge"
CHANGE = "keystile_change"
REFUND = "keystile_refund"
# The subscription that a charge is for, where the payment isn't the subscription's own.
SUBSCRIPTION = "keystile_subscription"
# Who charges the usage: "dodo" where its meters do. It holds as long as the subscription.
USAGE = "keystile_usage"
# When the first period begins of what is bought before it shall, in ISO 8601.
STARTS_AT = "keystile_starts_at"


def text(metadata: object, name: str) -> str:
    """What stands under a name; empty where nothing does, or no text."""
    found = metadata.get(name) if isinstance(metadata, Mapping) else None
    return found if isinstance(found, str) else ""
