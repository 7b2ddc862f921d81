"""Subscriptions at Stripe's double: prices, renewals, changes with proration, the portal."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from typing import Any, ClassVar

from stripe.params import (
    InvoiceCreatePreviewParams,
    PriceCreateParams,
    PriceListParams,
    SubscriptionCancelParams,
    SubscriptionRetrieveParams,
    SubscriptionUpdateParams,
)
from stripe.params.billing_portal import SessionCreateParams as PortalCreateParams

from tests.doubles.server import Refused
from tests.doubles.stripe_invoices import StripeInvoices
from tests.doubles.stripe_world import expansions

_PERIOD = {"month": timedelta(days=30), "year": timedelta(days=365)}
_OVER = ("canceled", "incomplete_expired")


@dataclass
class StripeSubscriptions(StripeInvoices):
    ROUTES: ClassVar = [
        ("GET", r"/v1/prices", PriceListParams, "_list_prices"),
        ("POST", r"/v1/prices", PriceCreateParams, "_create_price"),
        ("GET", r"/v1/subscriptions/(sub_\w+)", SubscriptionRetrieveParams, "_retrieve"),
        ("POST", r"/v1/subscriptions/(sub_\w+)", SubscriptionUpdateParams, "_update"),
        ("DELETE", r"/v1/subscriptions/(sub_\w+)", SubscriptionCancelParams, "_cancel"),
        ("POST", r"/v1/invoices/create_preview", InvoiceCreatePreviewParams, "_preview"),
        ("POST", r"/v1/billing_portal/sessions", PortalCreateParams, "_open_portal"),
    ]

    # ---------------------------------------------------------------- the world

    def renew(self, subscription_id: str, *, paid: bool | None = None) -> None:
        """The next period begins, or the subscription ends where that is planned.

        paid: None for what its card does
        """
        held = self.objects[subscription_id]
        if held["cancel_at_period_end"]:
            self._end(held)
            return
        self.set_period(held, held["_end"])
        held["trial_end"] = held["trial_end"] if held["status"] != "trialing" else None
        if held["status"] == "trialing":
            held["status"] = "active"
        self.bill(held, "subscription_cycle", self.price_of(held["_items"]), paid=paid)
        self.tell("customer.subscription.updated", subscription_id)

    def recover(self, subscription_id: str) -> None:
        """The failed charge of the last invoice is made good."""
        held = self.objects[subscription_id]
        self.settle_invoice(held, self.objects[held["latest_invoice"]], paid=True)

    def pause(self, subscription_id: str, *, collection: bool = False) -> None:
        """collection: goes on at Stripe and isn't paid for"""
        held = self.objects[subscription_id]
        if collection:
            held["pause_collection"] = {"behavior": "void", "resumes_at": None}
        else:
            held["status"] = "paused"
        self.tell("customer.subscription.paused", subscription_id)

    def unpause(self, subscription_id: str) -> None:
        self.objects[subscription_id] |= {"pause_collection": None, "status": "active"}
        self.tell("customer.subscription.resumed", subscription_id)

    # ---------------------------------------------------------------- the API

    def _list_prices(self, given: dict[str, Any]) -> Any:
        keys = given["lookup_keys"].values()
        self.demand(0 < len(keys) <= 10, "ten lookup keys at once at most")
        found = [one for one in self.all_of("price", active=True) if one["lookup_key"] in keys]
        return self.page(found, given)

    def _create_price(self, given: dict[str, Any]) -> Any:
        held = self.all_of("price", lookup_key=given["lookup_key"])
        if held and given.get("transfer_lookup_key") != "true":
            raise Refused(400, "A price already uses that lookup key.")
        for price in held:
            price["lookup_key"] = None
        made = self.price(given)
        made |= {"lookup_key": given["lookup_key"], "metadata": given["metadata"]}
        return self.shown(made["id"])

    def _update(self, given: dict[str, Any], subscription_id: str) -> Any:
        held = self._changeable(subscription_id)
        self.demand(
            not {"cancel_at", "cancel_at_period_end"} <= given.keys(),
            "cancel_at beside cancel_at_period_end",
        )
        if "items" in given:
            self._change(held, given)
        if "cancel_at_period_end" in given:
            held["cancel_at_period_end"] = given["cancel_at_period_end"] == "true"
            held["cancel_at"] = held["_end"] if held["cancel_at_period_end"] else None
        if given.get("cancel_at") == "":
            held["cancel_at"] = None
        for name, value in given.get("metadata", {}).items():
            self.demand(len(name) <= 40 and len(value) <= 500, f"metadata {name}")
            held["metadata"].pop(name, None)
            held["metadata"] |= {name: value} if value else {}
        self.tell("customer.subscription.updated", subscription_id)
        return self.shown(subscription_id, expansions(given))

    def _cancel(self, given: dict[str, Any], subscription_id: str) -> Any:
        self._end(self._changeable(subscription_id))
        return self.shown(subscription_id, expansions(given))

    def _preview(self, given: dict[str, Any]) -> Any:
        held = self._changeable(given["subscription"])
        details = given["subscription_details"]
        self.demand(details.get("proration_behavior") == "always_invoice", "proration_behavior")
        subtotal = self._prorated(held, self._items_after(held, details["items"]), details)
        total = subtotal + sum(tax["amount"] for tax in self._taxes_of(held, subtotal))
        balance = self.objects[held["customer"]]["_balance"]
        return {
            "id": "upcoming_in_1",
            "object": "invoice",
            "currency": held["_currency"],
            "total": total,
            "amount_due": max(0, total - balance),
        }

    def _open_portal(self, given: dict[str, Any]) -> Any:
        customer = self.known(given["customer"])
        made = self.new("bps", "billing_portal.session", customer=customer["id"])
        made |= {"return_url": given["return_url"], "url": f"{self.url}/portal/{made['id']}"}
        return self.shown(made["id"])

    # ---------------------------------------------------------------- how it does that

    def price(self, given: dict[str, Any]) -> dict[str, Any]:
        """Of a request that asks for a price, or of `price_data` that is written into one."""
        self.demand(
            given["currency"].islower() and len(given["currency"]) == 3, f"{given['currency']}"
        )
        data = given["product_data"]
        self.demand(bool(data["name"]), "product's name")
        product = self.new(
            "prod",
            "product",
            name=data["name"],
            metadata=data.get("metadata", {}),
            tax_code=data.get("tax_code"),
        )
        recurring = given.get("recurring")
        return self.new(
            "price",
            "price",
            active=True,
            currency=given["currency"],
            unit_amount=int(given["unit_amount"]),
            recurring=recurring and {"interval": recurring["interval"], "interval_count": 1},
            product=product["id"],
            tax_behavior=given.get("tax_behavior", "unspecified"),
            lookup_key=None,
            metadata={},
        )

    def item(self, price: dict[str, Any]) -> dict[str, Any]:
        item_id = f"si_{next(self.serial):06}"
        return {
            "id": item_id,
            "object": "subscription_item",
            "quantity": 1,
            "price": deepcopy(price),
        }

    def price_of(self, items: list[dict[str, Any]]) -> int:
        return sum(item["price"]["unit_amount"] for item in items)

    def set_period(self, held: dict[str, Any], start: int, end: int | None = None) -> None:
        interval = held["_items"][0]["price"]["recurring"]["interval"]
        length = int(_PERIOD[interval].total_seconds())
        held["_start"], held["_end"] = start, start + length if end is None else end

    def bill(
        self, held: dict[str, Any], reason: str, subtotal: int, *, paid: bool | None
    ) -> dict[str, Any]:
        """An invoice of the subscription, charged at once; paid: None for what its card does."""
        invoice = self.invoice(
            held["customer"],
            held["_currency"],
            reason,
            subscription_id=held["id"],
            taxed=held["automatic_tax"]["enabled"],
        )
        held["latest_invoice"] = invoice["id"]
        self.finalize(invoice, subtotal)
        if invoice["status"] == "open":
            if paid is not None:
                self.settle_invoice(held, invoice, paid=paid)
                return invoice
            first = reason == "subscription_create"
            if self.attempt(invoice, held["default_payment_method"], first=first):
                held["status"] = "past_due"
                self.tell("invoice.payment_failed", invoice["id"])
        return invoice

    def settle_invoice(self, held: dict[str, Any], invoice: dict[str, Any], *, paid: bool) -> None:
        """Pays an open invoice whatever the card, or has it declined."""
        intent = self.objects.get(invoice["_intent"] or "") or self._intent_for(invoice)
        if paid:
            self.arrive(intent)
            self._paid(invoice)
            if held["status"] not in ("active", *_OVER):
                held["status"] = "active"
                self.tell("customer.subscription.updated", held["id"])
        else:
            self.fail(intent)
            held["status"] = "past_due"
            self.tell("invoice.payment_failed", invoice["id"])

    def as_shown(self, object_id: str, wanted: set[str]) -> dict[str, Any]:
        shown = super().as_shown(object_id, wanted)
        if shown["object"] != "subscription":
            return shown
        held = self.objects[object_id]
        period = {"current_period_start": held["_start"], "current_period_end": held["_end"]}
        items = [deepcopy(item) | ({} if self.older else period) for item in held["_items"]]
        shown["items"] = {"object": "list", "data": items}
        return shown | (period if self.older else {})

    def _changeable(self, subscription_id: str) -> dict[str, Any]:
        held = self.known(subscription_id)
        if held["status"] in _OVER:
            raise Refused(404, f"No such subscription: '{held['id']}'", code="resource_missing")
        return held

    def _end(self, held: dict[str, Any]) -> None:
        held |= {"status": "canceled", "ended_at": self.seconds()}
        self.tell("customer.subscription.deleted", held["id"])

    def _change(self, held: dict[str, Any], given: dict[str, Any]) -> None:
        """Nothing of it holds where it is to be paid at once and isn't."""
        before = deepcopy(held)
        items = self._items_after(held, given["items"])
        subtotal = self._prorated(held, items, given)
        anew = _interval(items) != _interval(held["_items"])
        held["_items"] = items
        if anew:
            self.set_period(held, self.seconds())
        if given.get("proration_behavior") == "none":
            if anew:
                self.bill(held, "subscription_update", self.price_of(items), paid=None)
            return
        self.demand(given["proration_behavior"] == "always_invoice", "proration_behavior")
        self.demand(given.get("payment_behavior") == "error_if_incomplete", "payment_behavior")
        if subtotal <= 0 or held["status"] == "trialing":
            self.objects[held["customer"]]["_balance"] -= min(0, subtotal)
            return
        kept = len(self.outbox)
        self.bill(held, "subscription_update", subtotal, paid=None)
        if held["status"] == "past_due" and before["status"] != "past_due":
            self.objects.pop(held["latest_invoice"])
            del self.outbox[kept:]
            held |= before
            raise Refused(402, "Your card was declined.", type="card_error", code="card_declined")

    def _items_after(self, held: dict[str, Any], given: dict[str, Any]) -> list[dict[str, Any]]:
        items = {item["id"]: deepcopy(item) for item in held["_items"]}
        for one in given.values():
            if "id" in one and one["id"] not in items:
                raise Refused(400, f"No such subscription item: '{one['id']}'")
            if one.get("deleted") == "true":
                del items[one["id"]]
                continue
            price = self.known(one["price"])
            self.demand(price["active"], "a price that is archived")
            if "id" in one:
                items[one["id"]]["price"] = deepcopy(price)
            elif any(item["price"]["id"] == price["id"] for item in items.values()):
                raise Refused(400, "Cannot add multiple subscription items with the same price.")
            else:
                added = self.item(price)
                items[added["id"]] = added
        found = list(items.values())
        self.demand(len({_interval([item]) for item in found}) == 1, "items of several rhythms")
        self.demand(
            {item["price"]["currency"] for item in found} == {held["_currency"]}, "currency"
        )
        return found

    def _prorated(
        self, held: dict[str, Any], items: list[dict[str, Any]], given: dict[str, Any]
    ) -> int:
        """What is due at once: the rest of the period at the new prices, less at the old ones."""
        if held["status"] == "trialing":
            return 0
        at = int(given.get("proration_date", self.seconds()))
        self.demand(held["_start"] <= at <= held["_end"], "proration_date")
        left = Fraction(max(0, held["_end"] - at), held["_end"] - held["_start"])
        old = {item["id"]: item["price"] for item in held["_items"]}
        new = {item["id"]: item["price"] for item in items}
        due = 0
        anew = _interval(items) != _interval(held["_items"])
        for item_id in old | new:
            before, after = old.get(item_id), new.get(item_id)
            if anew or before != after:
                due -= round(left * before["unit_amount"]) if before else 0
                due += round((1 if anew else left) * after["unit_amount"]) if after else 0
        return due

    def _taxes_of(self, held: dict[str, Any], subtotal: int) -> list[dict[str, Any]]:
        return self.taxes(subtotal) if held["automatic_tax"]["enabled"] else []


def _interval(items: list[dict[str, Any]]) -> str:
    return str(items[0]["price"]["recurring"]["interval"])
