"""What is on sale, made at Dodo before its first buyer comes."""

from __future__ import annotations

from collections.abc import Sequence

from billing.providers import Offer
from billing.providers.dodo import products, usage
from billing.providers.dodo.client import asking
from billing.providers.dodo.usage import Metered


def unlisted(offers: Sequence[Offer]) -> list[Offer]:
    with asking() as client:
        return [one for one in offers if not products.is_listed(client, one, _meters(one))]


def list_offer(offer: Offer) -> None:
    with asking() as client:
        if products.is_add_on(offer):
            products.ensure_add_on(client, offer)
        else:
            products.ensure(client, offer, _meters(offer))


def _meters(offer: Offer) -> tuple[Metered, ...]:
    """Of what is bought without a trial; with one, the product is made at the checkout."""
    return (usage.of_offer(offer) or ()) if offer.item.amount_minor else ()
