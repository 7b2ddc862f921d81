"""What a subscription at Stripe consists of: now, after a change, from the next period on.

Stripe has one set of items, and charges for it when a period begins. A change for the period's
end is therefore made at once and without proration; what the running period was paid for is kept
in the subscription's metadata until that period is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stripe.params import (
    InvoiceCreatePreviewParamsSubscriptionDetailsItem,
    SubscriptionUpdateParamsItem,
)

from billing.providers.stripe import prices, shapes

# `<end of the period> <key>=<price> …`, over as many values as it takes (500 characters each).
_PAID = ("keystile_paid", "keystile_paid_2")
_LONGEST = 500


def period(held: dict[str, Any]) -> tuple[int, int]:
    """Its start and end. Raises ValueError where there is none.

    Items may be billed at different rhythms: the earliest end is the next bill.
    """
    holders = [*shapes.entries(held, "items"), held]
    start, end = (
        min(holder[name] for holder in holders if holder.get(name) is not None)
        for name in ("current_period_start", "current_period_end")
    )
    return start, end


def charged_next(held: dict[str, Any]) -> dict[str, str]:
    """Its items at Stripe: their prices by their keys. What was not put there by us has no key."""
    items = shapes.entries(held, "items")
    found = {prices.key_of(item): shapes.id_of(item.get("price")) for item in items}
    return {key: price for key, price in found.items() if key}


def paid_for(held: dict[str, Any]) -> dict[str, str]:
    """Likewise, of the running period."""
    metadata = shapes.part(held, "metadata")
    noted = " ".join(shapes.text(metadata, name) for name in _PAID).split()
    if not noted or noted[0] != str(period(held)[1]):
        return charged_next(held)
    return dict(one.split("=", 1) for one in noted[1:] if "=" in one)


def is_planned(held: dict[str, Any]) -> bool:
    """Whether the next period is to have something else."""
    return paid_for(held).keys() != charged_next(held).keys()


def note(held: dict[str, Any], paid: Mapping[str, str]) -> dict[str, str]:
    """Metadata to write while a change waits for the period's end."""
    lines = [str(period(held)[1])]
    for key, price in paid.items():
        entry = f"{key}={price}"
        if len(lines[-1]) + 1 + len(entry) > _LONGEST:
            lines.append(entry)
        else:
            lines[-1] += f" {entry}"
    return dict(zip(_PAID, [*lines, ""], strict=False))


def no_note() -> dict[str, str]:
    return dict.fromkeys(_PAID, "")


def interval(held: dict[str, Any]) -> str:
    first = next(iter(shapes.entries(held, "items")), {})
    return shapes.text(shapes.part(first, "price", "recurring"), "interval")


def item_changes(
    held: dict[str, Any], wanted: Mapping[str, str]
) -> list[SubscriptionUpdateParamsItem]:
    """How its items become `wanted`: prices by key, the plan first.

    The plan's item takes the new plan's price, so that Stripe sees a change and not an end. One
    without a key is of the time when items had none, and the plan.
    """
    there = {prices.key_of(item): shapes.id_of(item) for item in shapes.entries(held, "items")}
    plan = next(iter(wanted))
    changes: list[SubscriptionUpdateParamsItem] = []
    if plan not in there:
        replaced = next((key for key in there if not key.startswith("addon:")), None)
        change: SubscriptionUpdateParamsItem = {"price": wanted[plan], "quantity": 1}
        if replaced is not None:
            change["id"] = there.pop(replaced)
        changes.append(change)
    for key, price in wanted.items():
        if key != plan and key not in there:
            changes.append({"price": price, "quantity": 1})
    for key, item_id in there.items():
        if key and key not in wanted:
            changes.append({"id": item_id, "deleted": True})
    return changes


def previewed(
    changes: list[SubscriptionUpdateParamsItem],
) -> list[InvoiceCreatePreviewParamsSubscriptionDetailsItem]:
    """The same in the types of a preview."""
    found: list[InvoiceCreatePreviewParamsSubscriptionDetailsItem] = []
    for one in changes:
        item: InvoiceCreatePreviewParamsSubscriptionDetailsItem = {}
        if "id" in one:
            item["id"] = one["id"]
        if "price" in one:
            item["price"], item["quantity"] = one["price"], 1
        else:
            item["deleted"] = True
        found.append(item)
    return found
