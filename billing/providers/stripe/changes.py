"""Plan changes at Stripe: shown before, made now and paid at once, or made for the next period."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import stripe
from stripe.params import InvoiceCreatePreviewParamsSubscriptionDetails, SubscriptionUpdateParams

from billing.providers import Change, Changed, Declined, Offer, Preview
from billing.providers.stripe import amounts, plans, prices, subscriptions
from billing.providers.stripe.client import asking


def preview(subscription_id: str, change: Change) -> Preview:
    """What Stripe would invoice at once, by its own reckoning.

    Where less is planned for the next period, Stripe compares with that. What was paid already is
    taken off by a second preview, of going back to it.
    """
    if change.at == "period_end":
        return Preview(0, change.currency)
    with asking() as client:
        held = _alive(client, subscription_id)
        due = _due_now(client, held, _prices(client, change), change)
        if plans.is_planned(held):
            due -= _due_now(client, held, plans.paid_for(held), change)
    return Preview(amounts.ours(due, change.currency), change.currency)


def change(subscription_id: str, change: Change) -> Changed:
    """Unpaid means not changed: Stripe takes the update back when its invoice isn't paid.

    A payment that the customer would have to confirm counts as unpaid. Raises `Declined` for what
    Stripe can't put off: another interval begins at once there.
    """
    with asking() as client:
        held = _alive(client, subscription_id)
        wanted = _prices(client, change)
        paid, planned = plans.paid_for(held), plans.is_planned(held)
        if wanted.keys() == paid.keys():
            if planned:
                _put_off(client, held, paid, paid, change)
            return Changed("done")
        if change.at == "period_end":
            if plans.interval(held) != change.interval:
                raise Declined(
                    "Stripe can't put another billing interval off. End the plan with its period, "
                    "and buy the other one then."
                )
            if wanted.keys() != plans.charged_next(held).keys():
                _put_off(client, held, wanted, paid, change)
            return Changed("done")
        if not planned:
            return _change_now(client, held, wanted, change)
        # Stripe prorates from what it has: that must be what was paid.
        _put_off(client, held, paid, paid, change)
        as_paid = _alive(client, subscription_id)
        changed = _change_now(client, as_paid, wanted, change)
        if changed.kind == "unpaid":
            _put_off(client, as_paid, plans.charged_next(held), paid, change)
        return changed


def _alive(client: stripe.StripeClient, subscription_id: str) -> dict[str, Any]:
    held = subscriptions.retrieve(client, subscription_id)
    if subscriptions.is_over(held):
        raise Declined("The subscription has ended.")
    return held


def _prices(client: stripe.StripeClient, change: Change) -> dict[str, str]:
    """A subscription can only be changed to prices that exist: they are made where missing."""
    offers = [Offer(item, change.currency, change.interval) for item in change.items]
    found = prices.ensure(client, offers)
    return {item.key: found[item.key] for item in change.items}


def _due_now(
    client: stripe.StripeClient, held: dict[str, Any], wanted: Mapping[str, str], change: Change
) -> int:
    items = plans.item_changes(held, wanted)
    if not items:
        return 0
    details: InvoiceCreatePreviewParamsSubscriptionDetails = {
        "items": plans.previewed(items),
        "proration_behavior": "always_invoice",
    }
    if change.as_of is not None:
        details["proration_date"] = int(change.as_of.timestamp())
    invoice = client.v1.invoices.create_preview(
        {"subscription": held["id"], "subscription_details": details}
    )
    # What is given back is kept as the customer's balance: nothing is due then.
    return invoice.amount_due if invoice.total > 0 else invoice.total


def _change_now(
    client: stripe.StripeClient, held: dict[str, Any], wanted: Mapping[str, str], change: Change
) -> Changed:
    params: SubscriptionUpdateParams = {
        "items": plans.item_changes(held, wanted),
        "metadata": plans.no_note(),
        "proration_behavior": "always_invoice",
        "payment_behavior": "error_if_incomplete",
        "off_session": True,
    }
    if change.as_of is not None:
        params["proration_date"] = int(change.as_of.timestamp())
    try:
        client.v1.subscriptions.update(held["id"], params, {"idempotency_key": _key(change)})
    except stripe.CardError as error:
        return Changed("unpaid", error.user_message or "The payment failed.")
    except stripe.InvalidRequestError as error:
        if subscriptions.method(held):
            raise
        return Changed("unpaid", error.user_message or "There is nothing to pay with.")
    return Changed("done")


def _put_off(
    client: stripe.StripeClient,
    held: dict[str, Any],
    wanted: Mapping[str, str],
    paid: Mapping[str, str],
    change: Change,
) -> None:
    """Makes it `wanted` from the next period on; what was paid for is noted if it is another."""
    note = plans.no_note() if wanted.keys() == paid.keys() else plans.note(held, paid)
    client.v1.subscriptions.update(
        held["id"],
        {
            "items": plans.item_changes(held, wanted),
            "metadata": note,
            "proration_behavior": "none",
        },
        {"idempotency_key": _key(change)},
    )


def _key(change: Change) -> str:
    """Another one each time, or Stripe would repeat a refusal for a day whatever card there is.

    Nothing is taken twice: whoever asks again finds the items changed, and Stripe prorates a
    change to what there is at nothing.
    """
    return f"change/{change.reference}/{secrets.token_hex(4)}"
