"""Prices at Stripe for what is on sale: found again by a lookup key, made where they are missing.

What is asked for a plan version or an add-on never changes, so its price doesn't either. One that
asks something else (of another site, or of a database that is gone) is not used, and loses its
lookup key to the one that is made in its place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import stripe
from django.conf import settings
from stripe.params import PriceCreateParams, PriceCreateParamsProductData
from stripe.params.checkout import (
    SessionCreateParamsLineItem,
    SessionCreateParamsLineItemPriceData,
    SessionCreateParamsLineItemPriceDataProductData,
)

from billing.providers import Interval, Item, Offer, ProviderUnavailable
from billing.providers.stripe import amounts, shapes
from billing.providers.stripe.client import asking

# The key of what is sold, in the metadata of its price or product.
ITEM = "keystile_item"
# Stripe looks up so many at once.
_AT_ONCE = 10


def unlisted(offers: Sequence[Offer]) -> list[Offer]:
    with asking() as client:
        found = find(client, offers)
    return [offer for offer in offers if offer.item.key not in found]


def list_offer(offer: Offer) -> None:
    with asking() as client:
        ensure(client, [offer])


def find(client: stripe.StripeClient, offers: Sequence[Offer]) -> dict[str, str]:
    """The ids of the prices that there are, by the key of their item."""
    by_lookup = {_lookup_key(offer.item): offer for offer in offers}
    keys = list(by_lookup)
    found = {}
    for start in range(0, len(keys), _AT_ONCE):
        listed = client.v1.prices.list(
            {"lookup_keys": keys[start : start + _AT_ONCE], "active": True, "limit": _AT_ONCE}
        )
        for price in shapes.entries(listed.to_dict(), "data"):
            offer = by_lookup.get(shapes.text(price, "lookup_key"))
            if offer and _asks(price, offer):
                found[offer.item.key] = shapes.id_of(price)
    return found


def ensure(client: stripe.StripeClient, offers: Sequence[Offer]) -> dict[str, str]:
    """Likewise, made where there is none. Two at once may make two: the later one is used."""
    found = find(client, offers)
    for offer in offers:
        if offer.item.key not in found:
            made = client.v1.prices.create(_params(offer)).id
            if not made:
                raise ProviderUnavailable("Stripe's price has no id.")
            found[offer.item.key] = made
    return found


def line_items(
    client: stripe.StripeClient, items: Sequence[Item], currency: str, interval: Interval
) -> list[SessionCreateParamsLineItem]:
    """What a checkout sells: by its price, or with the price written out where there is none."""
    offers = [Offer(item, currency, interval) for item in items]
    found = find(client, offers)
    lines: list[SessionCreateParamsLineItem] = []
    for item in items:
        if item.key in found:
            lines.append({"quantity": 1, "price": found[item.key]})
        else:
            data = price_data(item.description, item.amount_minor, currency)
            data["recurring"] = {"interval": interval}
            data["product_data"]["metadata"] = {ITEM: item.key}
            lines.append({"quantity": 1, "price_data": data})
    return lines


def price_data(
    description: str, amount_minor: int, currency: str
) -> SessionCreateParamsLineItemPriceData:
    product: SessionCreateParamsLineItemPriceDataProductData = {"name": description}
    if settings.STRIPE_TAX_CODE:
        product["tax_code"] = settings.STRIPE_TAX_CODE
    data: SessionCreateParamsLineItemPriceData = {
        "currency": currency.lower(),
        "unit_amount": amounts.stripes(amount_minor, currency),
        "product_data": product,
    }
    if settings.STRIPE_TAX == "automatic":
        data["tax_behavior"] = "exclusive"
    return data


def key_of(subscription_item: dict[str, Any]) -> str:
    """What a subscription's item sells; empty for what was not put there by us."""
    price = shapes.part(subscription_item, "price")
    own = shapes.text(shapes.part(price, "metadata"), ITEM)
    return own or shapes.text(shapes.part(price, "product", "metadata"), ITEM)


def _lookup_key(item: Item) -> str:
    """Of this site: another one at the same account has versions of its own."""
    site = hashlib.sha256(settings.SITE_URL.encode()).hexdigest()[:8]
    return f"keystile_{site}_{item.key.replace(':', '_')}"


def _asks(price: dict[str, Any], offer: Offer) -> bool:
    recurring = shapes.part(price, "recurring")
    asked = (
        price.get("unit_amount"),
        price.get("currency"),
        recurring.get("interval"),
        recurring.get("interval_count", 1),
        shapes.text(shapes.part(price, "metadata"), ITEM),
    )
    # Without its own word a price follows the account, which may include tax.
    taxed = settings.STRIPE_TAX != "automatic" or price.get("tax_behavior") == "exclusive"
    return taxed and asked == (
        amounts.stripes(offer.item.amount_minor, offer.currency),
        offer.currency.lower(),
        offer.interval,
        1,
        offer.item.key,
    )


def _params(offer: Offer) -> PriceCreateParams:
    item = offer.item
    product: PriceCreateParamsProductData = {
        "name": item.description,
        "metadata": {ITEM: item.key},
    }
    if settings.STRIPE_TAX_CODE:
        product["tax_code"] = settings.STRIPE_TAX_CODE
    params: PriceCreateParams = {
        "currency": offer.currency.lower(),
        "unit_amount": amounts.stripes(item.amount_minor, offer.currency),
        "recurring": {"interval": offer.interval},
        "product_data": product,
        "lookup_key": _lookup_key(item),
        "transfer_lookup_key": True,
        "metadata": {ITEM: item.key},
    }
    if settings.STRIPE_TAX != "managed":
        params["tax_behavior"] = "exclusive"
    return params
