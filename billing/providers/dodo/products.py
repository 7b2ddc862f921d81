"""What Dodo sells for us: its checkouts take products and add-ons of theirs only.

A product for each plan version, an add-on for each of ours, and a product of any amount for what
is paid once. What is published never changes, so they don't either: one that somebody changed at
Dodo, or that another site made, is not used. Nothing is made twice but by two first buyers at
once, or after a lost answer; the older one is used from then on, and both sell the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Literal, cast

import structlog
from django.conf import settings
from dodopayments import DodoPayments
from dodopayments.types import (
    AddonResponse,
    Currency,
    MetadataParam,
    Meter,
    Price,
    PriceParam,
    Product,
    ProductListResponse,
    TimeInterval,
)
from dodopayments.types.price import OneTimePrice, RecurringPrice, UsageBasedPrice
from dodopayments.types.price_param import OneTimePrice as OneTimePriceParam

from billing.providers import Offer
from billing.providers.dodo.client import every, moment, understood
from billing.providers.dodo.usage import Metered
from billing.providers.metering import event_name

log = structlog.get_logger(__name__)

# How long a subscription may renew itself at most; Dodo wants to know.
_YEARS = 20
_INTERVALS: dict[str, TimeInterval] = {"month": "Month", "year": "Year"}
_VERSION = "keystile_plan_version"
_SELLS = "keystile_sells"
_ANY_AMOUNT = {"credits": "Prepaid credits", "usage": "Usage"}


def ensure(
    client: DodoPayments,
    offer: Offer,
    meters: Sequence[Metered] = (),
    add_ons: Sequence[Offer] = (),
) -> tuple[str, list[str]]:
    """The product of this plan version, and its add-ons, by their ids at Dodo."""
    price = _price(client, offer, meters)
    product = _find(client, offer, price) or _create(
        client, offer.item.description, price, _marks(offer)
    )
    add_on_ids = [ensure_add_on(client, one) for one in add_ons]
    offered = product.addons or []
    if missing := [one for one in add_on_ids if one not in offered]:
        client.products.update(product.product_id, addons=[*offered, *missing])
    return product.product_id, add_on_ids


def is_listed(client: DodoPayments, offer: Offer, meters: Sequence[Metered] = ()) -> bool:
    """Whether there is a product or an add-on for it; makes nothing."""
    if is_add_on(offer):
        return _find_add_on(client, offer) is not None
    known = [_find_meter(client, one.meter) for one in meters]
    if None in known:
        return False
    return _find(client, offer, _price(client, offer, meters)) is not None


def is_add_on(offer: Offer) -> bool:
    return offer.item.key.startswith("addon:")


def ensure_add_on(client: DodoPayments, offer: Offer) -> str:
    found = _find_add_on(client, offer)
    if found is None:
        found = understood(
            client.addons.create(
                name=offer.item.description[:100],
                price=offer.item.amount_minor,
                currency=cast(Currency, offer.currency),
                tax_category="saas",
                description=_add_on_mark(offer.item.key),
            ),
            AddonResponse,
        )
    return understood(found.id, str)


def ensure_any_amount(
    client: DodoPayments, sells: Literal["credits", "usage"], currency: str
) -> str:
    """The product of what is paid once: a cart says how much."""
    marks: MetadataParam = {"keystile_site": settings.SITE_URL, _SELLS: sells}
    price: OneTimePriceParam = {
        "type": "one_time_price",
        "price": 1,
        "pay_what_you_want": True,
        "currency": cast(Currency, currency),
        "discount": 0,
        "purchasing_power_parity": False,
    }
    found = [
        one
        for one in _marked(client, marks)
        if isinstance(one.price, OneTimePrice)
        and one.price.pay_what_you_want
        and one.price.currency == currency
    ]
    if found:
        return _oldest(found).product_id
    return _create(client, _ANY_AMOUNT[sells], price, marks).product_id


def key_of(client: DodoPayments, product_id: str) -> str | None:
    """Our key of the plan version that a product sells; None where it is none of ours."""
    marks = understood(client.products.retrieve(product_id), Product).metadata or {}
    version = marks.get(_VERSION)
    if marks.get("keystile_site") != settings.SITE_URL or version is None:
        log.warning("dodo.unknown_product", product=product_id)
        return None
    return f"version:{version}"


def add_on_key_of(client: DodoPayments, add_on_id: str) -> str | None:
    """Our key of an add-on; None where it is none of ours."""
    mark = understood(client.addons.retrieve(add_on_id), AddonResponse).description or ""
    key = mark.partition(" ")[0]
    if mark != _add_on_mark(key):
        log.warning("dodo.unknown_add_on", add_on=add_on_id)
        return None
    return key


# ------------------------------------------------------------------ plans


def _find(client: DodoPayments, offer: Offer, price: PriceParam) -> Product | None:
    found = [one for one in _marked(client, _marks(offer)) if _is_sold_at(one.price, price)]
    return _oldest(found) if found else None


def _marked(client: DodoPayments, marks: MetadataParam) -> list[Product]:
    """Products that bear these marks, with all that Dodo knows of them."""
    listed = every(
        lambda number, size: client.products.list(
            archived=False, page_number=number, page_size=size
        )
    )
    ours = [
        one
        for one in listed
        if marks.items() <= (understood(one, ProductListResponse).metadata or {}).items()
    ]
    return [understood(client.products.retrieve(one.product_id), Product) for one in ours]


def _create(client: DodoPayments, name: str, price: PriceParam, marks: MetadataParam) -> Product:
    made = understood(
        client.products.create(name=name, tax_category="saas", price=price, metadata=marks), Product
    )
    understood(made.product_id, str)
    return made


def _oldest(found: Sequence[Product]) -> Product:
    return min(found, key=lambda one: (moment(one.created_at), one.product_id))


def _marks(offer: Offer) -> MetadataParam:
    return {
        "keystile_site": settings.SITE_URL,
        _VERSION: offer.item.key.removeprefix("version:"),
    }


def _is_sold_at(price: Price, wanted: PriceParam) -> bool:
    if isinstance(price, OneTimePrice) or wanted["type"] == "one_time_price":
        return False
    every_so_often = (price.payment_frequency_count, price.payment_frequency_interval)
    if (price.currency, every_so_often) != (
        wanted["currency"],
        (wanted["payment_frequency_count"], wanted["payment_frequency_interval"]),
    ):
        return False
    if isinstance(price, UsageBasedPrice) and wanted["type"] == "usage_based_price":
        theirs = {
            (one.meter_id, Decimal(one.price_per_unit or 0), one.free_threshold or 0)
            for one in price.meters or ()
        }
        ours = {
            (one["meter_id"], Decimal(one["price_per_unit"] or 0), one["free_threshold"])
            for one in wanted.get("meters") or ()
        }
        return (price.fixed_price, theirs) == (wanted["fixed_price"], ours)
    if isinstance(price, RecurringPrice) and wanted["type"] == "recurring_price":
        return price.price == wanted["price"]
    return False


def _price(client: DodoPayments, offer: Offer, meters: Sequence[Metered]) -> PriceParam:
    """No discount and no other price by country: the price seen is the price paid."""
    currency, interval = cast(Currency, offer.currency), _INTERVALS[offer.interval]
    if not meters:
        return {
            "type": "recurring_price",
            "price": offer.item.amount_minor,
            "currency": currency,
            "discount": 0,
            "purchasing_power_parity": False,
            "payment_frequency_count": 1,
            "payment_frequency_interval": interval,
            "subscription_period_count": _YEARS,
            "subscription_period_interval": "Year",
        }
    return {
        "type": "usage_based_price",
        "fixed_price": offer.item.amount_minor,
        "currency": currency,
        "discount": 0,
        "purchasing_power_parity": False,
        "payment_frequency_count": 1,
        "payment_frequency_interval": interval,
        "subscription_period_count": _YEARS,
        "subscription_period_interval": "Year",
        "meters": [
            {
                "meter_id": _ensure_meter(client, one.meter),
                "price_per_unit": one.price_per_unit,
                "free_threshold": one.free_threshold,
            }
            for one in meters
        ],
    }


# ------------------------------------------------------------------ meters


def _ensure_meter(client: DodoPayments, meter: str) -> str:
    """The meter that sums what `metering` sends of one of ours."""
    found = _find_meter(client, meter)
    if found is None:
        made = client.meters.create(
            name=event_name(meter),
            event_name=event_name(meter),
            aggregation={"type": "sum", "key": "units"},
            measurement_unit=meter,
        )
        found = understood(made, Meter).id
    return understood(found, str)


def _find_meter(client: DodoPayments, meter: str) -> str | None:
    listed = every(
        lambda number, size: client.meters.list(archived=False, page_number=number, page_size=size)
    )
    found = [
        one
        for one in listed
        if understood(one, Meter).event_name == event_name(meter)
        and (one.aggregation.type, one.aggregation.key, one.filter) == ("sum", "units", None)
    ]
    return min(found, key=lambda one: (moment(one.created_at), one.id)).id if found else None


# ------------------------------------------------------------------ add-ons


def _add_on_mark(key: str) -> str:
    """Dodo's add-ons have no metadata, but a description."""
    return f"{key} of {settings.SITE_URL}"


def _find_add_on(client: DodoPayments, offer: Offer) -> AddonResponse | None:
    listed = every(lambda number, size: client.addons.list(page_number=number, page_size=size))
    found = [
        one
        for one in listed
        if understood(one, AddonResponse).description == _add_on_mark(offer.item.key)
        and (one.price, one.currency) == (offer.item.amount_minor, offer.currency)
    ]
    return min(found, key=lambda one: (moment(one.created_at), one.id)) if found else None
