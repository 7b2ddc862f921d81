"""A product at Dodo for each plan version: its checkouts sell products only.

A version never changes, so its product doesn't either. One that somebody changed at Dodo, or
that another site made, is not used.
"""

from __future__ import annotations

from typing import cast

from django.conf import settings
from dodopayments import DodoPayments
from dodopayments.types import Currency, MetadataParam, Product, ProductListResponse, TimeInterval
from dodopayments.types.price import RecurringPrice
from dodopayments.types.price_param import RecurringPrice as RecurringPriceParam

from billing.providers import Order
from billing.providers.dodo.client import every, moment, understood

# How long a subscription may renew itself at most; Dodo wants to know.
_YEARS = 20
_INTERVALS: dict[str, TimeInterval] = {"month": "Month", "year": "Year"}


def ensure(client: DodoPayments, order: Order) -> str:
    """The id of the product that sells this order's plan version, made on its first use.

    Two first buyers at once may make two: the older one is used from then on, and both sell
    the same. So may a lost answer, and nothing is asked twice here.
    """
    listed = every(
        lambda number, size: client.products.list(
            recurring=True, archived=False, page_number=number, page_size=size
        )
    )
    found = [one for one in listed if _sells(understood(one, ProductListResponse), order)]
    if found:
        return min(found, key=lambda one: (moment(one.created_at), one.product_id)).product_id
    made = client.products.create(
        name=order.plan.description,
        tax_category="saas",
        price=_price(order),
        metadata=_marks(order),
    )
    return understood(understood(made, Product).product_id, str)


def _sells(product: ProductListResponse, order: Order) -> bool:
    marks = product.metadata or {}
    if any(marks.get(name) != value for name, value in _marks(order).items()):
        return False
    price = product.price_detail
    return (
        isinstance(price, RecurringPrice)
        and (price.price, price.currency) == (order.plan.amount_minor, order.currency)
        and (price.payment_frequency_count, price.payment_frequency_interval)
        == (1, _INTERVALS[order.interval])
    )


def _marks(order: Order) -> MetadataParam:
    return {
        "keystile_site": settings.SITE_URL,
        "keystile_plan_version": order.plan.key.removeprefix("version:"),
    }


def _price(order: Order) -> RecurringPriceParam:
    """No discount and no other price by country: the price seen is the price paid."""
    return {
        "type": "recurring_price",
        "price": order.plan.amount_minor,
        "currency": cast(Currency, order.currency),
        "discount": 0,
        "purchasing_power_parity": False,
        "payment_frequency_count": 1,
        "payment_frequency_interval": _INTERVALS[order.interval],
        "subscription_period_count": _YEARS,
        "subscription_period_interval": "Year",
    }
