"""What a subscription at Dodo consists of: previewed, changed now or at its period's end.

Dodo keeps no idempotency keys: what it consists of, and what is planned, is looked at before a
change is asked for. A change now is paid for or does not happen (`prevent_change`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from django.utils import timezone
from dodopayments import APIStatusError, DodoPayments, omit
from dodopayments.types import (
    AttachAddonParam,
    MetadataParam,
    Payment,
    Subscription,
    SubscriptionPreviewChangePlanResponse,
)

from billing.providers import Change, Changed, Offer, Preview, ProviderUnavailable
from billing.providers.dodo import marks, payments, products, subscriptions, usage
from billing.providers.dodo.client import asking, refused, said, understood

Mode = Literal[
    "prorated_immediately", "prorated_immediately_keep_cycle", "full_immediately", "do_not_bill"
]
# How long a payment of a card that isn't there may take.
_PATIENCE = (0.5, 1, 2, 3)
_PENDING = "The payment is on its way: the change holds when it has arrived."


@dataclass(frozen=True)
class _Target:
    product_id: str
    add_on_ids: list[str]

    @property
    def add_ons(self) -> list[AttachAddonParam]:
        return [{"addon_id": one, "quantity": 1} for one in self.add_on_ids]

    def is_of(self, product_id: str, add_on_ids: Sequence[str]) -> bool:
        return (self.product_id, sorted(self.add_on_ids)) == (product_id, sorted(add_on_ids))


class _Impossible(Exception):
    """Dodo can't do it, for a reason that a customer understands."""


def preview(subscription_id: str, change: Change) -> Preview:
    if change.at == "period_end":
        return Preview(0, change.currency)
    with asking() as client:
        held = subscriptions.found(client, subscription_id)
        try:
            target = _target(client, held, change)
        except _Impossible as error:
            raise ProviderUnavailable(str(error)) from error
        if _consists_of(held, target):
            return Preview(0, change.currency)
        if held.on_demand:  # a mandate: the first period of the plan begins with its price
            return Preview(sum(item.amount_minor for item in change.items), change.currency)
        answer = client.subscriptions.preview_change_plan(
            subscription_id,
            product_id=target.product_id,
            quantity=1,
            addons=target.add_ons,
            proration_billing_mode=_mode(held, payments.latest(client, held), change),
            effective_at="immediately",
        )
    summary = understood(answer, SubscriptionPreviewChangePlanResponse).immediate_charge.summary
    # What a smaller plan gives back Dodo keeps for the next bills.
    due = summary.total_amount or -max(summary.customer_credits, 0)
    return Preview(due, summary.currency)


def change(subscription_id: str, change: Change) -> Changed:
    with asking() as client:
        held = subscriptions.found(client, subscription_id)
        try:
            target = _target(client, held, change)
            if _consists_of(held, target):
                if held.scheduled_change:
                    client.subscriptions.cancel_change_plan(subscription_id)
                return Changed("done")
            if change.at == "period_end":
                return _plan(client, held, target)
            return _change_now(client, held, target, change)
        except _Impossible as error:
            return Changed("unpaid", str(error))
        except APIStatusError as error:
            if error.status_code == 409:
                return Changed("unpaid", "An earlier change is still being paid for.")
            if refused(error):
                return Changed("unpaid", f"Dodo: {said(error)}")
            raise


def _target(client: DodoPayments, held: Subscription, change: Change) -> _Target:
    """The product and add-ons of the change, on the side that charges this one's usage."""
    plan, *add_ons = (Offer(item, change.currency, change.interval) for item in change.items)
    metered = marks.text(held.metadata, marks.USAGE) == "dodo"
    meters = usage.of_offer(plan) if metered else ()
    if meters is None or (metered and not usage.may_have(change.items)):
        raise _Impossible(
            "Dodo charges what this subscription uses, and can't charge what that would. Cancel "
            "it for the end of its period and buy it anew."
        )
    return _Target(*products.ensure(client, plan, meters, add_ons))


def _consists_of(held: Subscription, target: _Target) -> bool:
    return target.is_of(held.product_id, [one.addon_id for one in held.addons or ()])


def _plan(client: DodoPayments, held: Subscription, target: _Target) -> Changed:
    """It holds from the next period on, paid or not: nobody stays on more than was wished for."""
    planned = held.scheduled_change
    if planned and target.is_of(planned.product_id, [one.addon_id for one in planned.addons]):
        return Changed("done")
    if held.on_demand:
        _make_regular(client, held)
    client.subscriptions.change_plan(
        held.subscription_id,
        product_id=target.product_id,
        quantity=1,
        addons=target.add_ons,
        proration_billing_mode="full_immediately",
        effective_at="next_billing_date",
        on_payment_failure="apply_change",
        cancel_scheduled_change_plan=True if held.scheduled_change else omit,
    )
    return Changed("done")


def _change_now(
    client: DodoPayments, held: Subscription, target: _Target, change: Change
) -> Changed:
    before = payments.latest(client, held)
    mode = _mode(held, before, change)
    if held.on_demand:
        _make_regular(client, held)
    known = {payment.payment_id for payment in before}
    metadata: MetadataParam = {**(held.metadata or {}), marks.CHANGE: change.reference}
    client.subscriptions.change_plan(
        held.subscription_id,
        product_id=target.product_id,
        quantity=1,
        addons=target.add_ons,
        proration_billing_mode=mode,
        effective_at="immediately",
        on_payment_failure="prevent_change",
        metadata=metadata,
        cancel_scheduled_change_plan=True if held.scheduled_change else omit,
    )
    for seconds in (0, *_PATIENCE):
        time.sleep(seconds)
        if _consists_of(subscriptions.found(client, held.subscription_id), target):
            return Changed("done")
        for payment in payments.latest(client, held):
            is_its = payments.is_change(payment) and payment.payment_id not in known
            if is_its and payment.status in payments.STOPPED:
                return Changed("unpaid", payments.failure(payment))
    return Changed("unpaid", _PENDING)


def _make_regular(client: DodoPayments, held: Subscription) -> None:
    """Dodo changes no plan of a mandate: it becomes a subscription that is billed by the calendar.

    Its plan costs nothing by itself; what is used is charged to its saved way to pay from now on.
    """
    _, end = subscriptions.period_of(held, timezone.now())
    client.subscriptions.update(held.subscription_id, disable_on_demand={"next_billing_date": end})


def _mode(held: Subscription, paid: list[Payment], change: Change) -> Mode:
    """The period goes on as it is, unless it becomes a longer one, or cost nothing before.

    A trial goes on too, unpaid.
    """
    if subscriptions.trial_end(held, paid):
        return "do_not_bill"
    if held.on_demand:
        return "full_immediately"
    if held.payment_frequency_interval != ("Year" if change.interval == "year" else "Month"):
        return "prorated_immediately"
    return "prorated_immediately_keep_cycle"
