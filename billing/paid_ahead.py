"""What falls due when a period ends, for the one that begins: the plan's price and its add-ons'.

A first base price is paid at the checkout, or when a contract is signed, and is no line here.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from uuid import UUID

from billing import catalogue, periods, pricing, terms
from billing.models import AddOn, InvoiceLine, Subscription, SubscriptionAddOn


def lines(account_id: UUID, at: datetime) -> Iterator[InvoiceLine]:
    """The lines of what began at that moment, and was paid ahead then."""
    contract = terms.standing(account_id, at).contract
    if contract is not None:
        if contract.starts_at < at and contract.base_price_minor:
            its_id = pricing.id_of_contract(contract)
            text = terms.CONTRACT_PLAN_NAME
            yield _line(text, its_id, contract.base_price_minor, contract.currency, at)
        return
    held = Subscription.objects.filter(account_id=account_id, started_at__lt=at)
    for subscription in held.select_related("version__plan", "next_version__plan"):
        if _renewed(subscription, at):
            version = subscription.version
            if subscription.period_end == at and subscription.next_version is not None:
                version = subscription.next_version
            plan, *others = catalogue.items(version, _add_ons(subscription, at))
            named = [(version.plan.name, plan), *((one.description, one) for one in others)]
            for name, item in named:
                if item.amount_minor:
                    yield _line(name, item.key, item.amount_minor, version.currency, at)
            return


def _line(text: str, its_id: str, amount_minor: int, currency: str, at: datetime) -> InvoiceLine:
    return InvoiceLine(
        text=f"{text}, from {at.day} {at:%B %Y}",
        period_start=at,
        terms_id=its_id,
        units=1,
        included_units=0,
        amount_minor=amount_minor,
        currency=currency,
    )


def _renewed(subscription: Subscription, at: datetime) -> bool:
    """Whether a period that is paid ahead began at that moment, and was not the first one."""
    if subscription.state != Subscription.State.ENDED and subscription.period_end == at:
        paused = subscription.state == Subscription.State.PAUSED
        return not subscription.cancel_at_period_end and not paused
    months = pricing.months_of(subscription.version)
    start, back = subscription.period_start, 0
    while start > at:
        back += months
        start = periods.add_months(subscription.period_start, -back, subscription.anchor_day)
    return start == at


def _add_ons(subscription: Subscription, at: datetime) -> list[AddOn]:
    """Those that the subscription had before that moment and went on with.

    One that was to end with the period is marked as ended only when the renewal is learned of.
    """
    rows = SubscriptionAddOn.objects.filter(subscription=subscription, started_at__lt=at)
    return [row.add_on for row in rows.select_related("add_on") if _goes_on(row, subscription, at)]


def _goes_on(row: SubscriptionAddOn, subscription: Subscription, at: datetime) -> bool:
    if not row.ends_at_period_end:
        return row.ended_at is None or row.ended_at > at
    if row.ended_at is None:
        return subscription.period_end != at
    months = pricing.months_of(subscription.version)
    return row.ended_at >= periods.add_months(at, months, subscription.anchor_day)
