"""What is on sale, made at Dodo before its first buyer comes; for a trial, when one comes."""

from __future__ import annotations

from collections.abc import Sequence

from billing.providers import Offer
from billing.providers.dodo import products, usage
from billing.providers.dodo.client import asking


def unlisted(offers: Sequence[Offer]) -> list[Offer]:
    with asking() as client:
        return [one for one in offers if not products.is_listed(client, one, usage.of_new(one))]


def list_offer(offer: Offer) -> None:
    with asking() as client:
        if products.is_add_on(offer):
            products.ensure_add_on(client, offer)
        else:
            products.ensure(client, offer, usage.of_new(offer))
