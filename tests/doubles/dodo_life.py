"""Subscriptions at Dodo Payments' double: begun, renewed, changed, charged, ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any

from dodopayments.types import (
    Subscription,
    SubscriptionChargeParams,
    SubscriptionChargeResponse,
    SubscriptionPreviewChangePlanParams,
    SubscriptionPreviewChangePlanResponse,
    SubscriptionUpdateParams,
)
from dodopayments.types.subscription_change_plan_params import SubscriptionChangePlanParams

from billing.periods import add_months
from tests.doubles.dodo_books import Row
from tests.doubles.dodo_money import ADDRESS, DodoMoney
from tests.doubles.server import Refused

_OVER = ("cancelled", "failed", "expired")


def later(moment: str, interval: str) -> str:
    """An interval later, by the calendar."""
    at = datetime.fromisoformat(moment)
    return add_months(at, 12 if interval == "Year" else 1, at.day).isoformat()


@dataclass
class DodoLife(DodoMoney):
    """credits: minor units that smaller plans gave back, by subscription

    waiting: changes whose payment is under way, by payment
    """

    credits: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, tuple[str, Row]] = field(default_factory=dict)

    # ------------------------------------------------------------------ what time and people do

    def renew(self, subscription_id: str) -> None:
        """The period is over: the next one is paid for, or a planned end has come."""
        one = self.subscriptions[subscription_id]
        if one["cancel_at_next_billing_date"]:
            one["status"] = "cancelled"
            self._tell("subscription.cancelled", subscription_id)
            return
        usage_minor = self._usage(one)
        if one["scheduled_change"]:
            planned, one["scheduled_change"] = one["scheduled_change"], None
            self._become(one, planned["product_id"], planned["addons"])
            self._tell("subscription.plan_changed", subscription_id)
        one["status"] = "active"
        one["previous_billing_date"] = one["next_billing_date"]
        one["next_billing_date"] = later(
            one["previous_billing_date"], one["payment_frequency_interval"]
        )
        self._tell("subscription.renewed", subscription_id)
        items = self._items(one)
        credit = min(self.credits.get(subscription_id, 0), items[0][1])
        if credit:
            self.credits[subscription_id] -= credit
            items[0] = (items[0][0], items[0][1] - credit)
        payment = self._charge(one, items, "succeeded", "renewal", usage_minor=usage_minor)
        self._tell("payment.succeeded", payment["payment_id"])

    def fail(self, subscription_id: str) -> None:
        """A renewal is not paid for."""
        one = self.subscriptions[subscription_id]
        one["status"] = "on_hold"
        self._tell("subscription.on_hold", subscription_id)
        payment = self._charge(one, self._items(one), "failed", "renewal")
        self._tell("payment.failed", payment["payment_id"])

    def set_status(self, subscription_id: str, status: str, type_told: str) -> None:
        self.subscriptions[subscription_id]["status"] = status
        self._tell(type_told, subscription_id)

    def new_card(self, customer_id: str) -> None:
        """The customer gives another one in the portal; Dodo takes what is owed."""
        self.declining.discard(customer_id)
        for one in list(self.subscriptions.values()):
            if one["customer"]["customer_id"] != customer_id or one["status"] in _OVER:
                continue
            self._tell("subscription.update_payment_method", one["subscription_id"])
            if one["status"] == "on_hold":
                owed = [
                    payment
                    for payment in self.payments.values()
                    if payment["subscription_id"] == one["subscription_id"]
                    and payment["status"] == "failed"
                ][-1]
                items = [
                    (name["items_id"], name["amount"]) for name in self.lines[owed["payment_id"]]
                ]
                payment = self._charge(one, items, "succeeded", owed["charge_type"])
                one["status"] = "active"
                self._tell("payment.succeeded", payment["payment_id"])
                self._tell("subscription.active", one["subscription_id"])

    # ------------------------------------------------------------------ beginnings

    def _begin(self, session: Row) -> Row:
        cart, asked = session["asked"]["product_cart"][0], session["asked"]
        product = self.products[cart["product_id"]]
        price, now = product["price"], self.clock()
        data = asked.get("subscription_data") or {}
        trial_days = data.get("trial_period_days") or 0
        interval = price["payment_frequency_interval"]
        next_date = (
            (now + timedelta(days=trial_days)).isoformat()
            if trial_days
            else later(now.isoformat(), interval)
        )
        customer = session["customer"]
        made = {
            "subscription_id": self._id("sub"),
            "status": "pending",
            "customer": customer,
            "metadata": asked["metadata"],
            "created_at": now.isoformat(),
            "previous_billing_date": now.isoformat(),
            "next_billing_date": next_date,
            "cancel_at_next_billing_date": False,
            "cancelled_at": None,
            "currency": price["currency"],
            "subscription_period_count": price["subscription_period_count"],
            "subscription_period_interval": price["subscription_period_interval"],
            "scheduled_change": None,
            "billing": ADDRESS,
            "brand_id": "bus_1",
            "credit_entitlement_cart": [],
            "meter_credit_entitlement_cart": [],
            "has_payment_method": True,
            "payment_method_id": f"pm_{customer['customer_id']}",
            "on_demand": bool(data.get("on_demand")),
            "quantity": 1,
            "tax_inclusive": False,
            "trial_period_days": trial_days,
        }
        self._become(made, product["product_id"], cart.get("addons") or [])
        self.subscriptions[made["subscription_id"]] = made
        return made

    def _due_at_once(self, subscription: Row) -> list[tuple[str, int]]:
        """What a first payment is of: a mandate and a trial take nothing."""
        free = subscription["on_demand"] or subscription["trial_period_days"]
        return [(name, 0 if free else amount) for name, amount in self._items(subscription)]

    def _activate(self, subscription: Row) -> None:
        subscription["status"] = "active"
        self._tell("subscription.active", subscription["subscription_id"])

    def _become(self, one: Row, product_id: str, add_ons: list[Row]) -> None:
        """It consists of these from now on."""
        product = self.products[product_id]
        offered = product.get("addons") or []
        names = [add_on["addon_id"] for add_on in add_ons]
        self.demand(set(names) <= set(offered), f"{product_id} has no add-ons {names}")
        price = product["price"]
        one |= {
            "product_id": product_id,
            "addons": [
                {"addon_id": add_on["addon_id"], "quantity": add_on["quantity"]}
                for add_on in add_ons
            ],
            "payment_frequency_count": 1,
            "payment_frequency_interval": price["payment_frequency_interval"],
            "recurring_pre_tax_amount": sum(self._price_of(n) for n in (product_id, *names)),
            "meters": [
                {
                    "currency": price["currency"],
                    "measurement_unit": self.meters[meter["meter_id"]]["measurement_unit"],
                    "name": self.meters[meter["meter_id"]]["name"],
                    **meter,
                }
                for meter in price.get("meters", [])
            ],
        }

    def _price_of(self, name: str) -> int:
        if name in self.add_ons:
            return int(self.add_ons[name]["price"])
        price = self.products[name]["price"]
        return int(price["fixed_price"] if "fixed_price" in price else price["price"])

    def _items(self, one: Row) -> list[tuple[str, int]]:
        names = [one["product_id"], *(add_on["addon_id"] for add_on in one["addons"])]
        return [(name, self._price_of(name)) for name in names]

    def _usage(self, one: Row) -> int:
        """What the meters charge of the period that ends now, minor units."""
        start, end = one["previous_billing_date"], one["next_billing_date"]
        total = Decimal(0)
        for meter in one["meters"]:
            name = self.meters[meter["meter_id"]]["event_name"]
            units = sum(
                event["metadata"]["units"]
                for event in self.events.values()
                if event["customer_id"] == one["customer"]["customer_id"]
                and event["event_name"] == name
                and start <= event["timestamp"] < end
            )
            total += max(0, units - meter["free_threshold"]) * Decimal(meter["price_per_unit"])
        return int(total.quantize(Decimal(1), ROUND_HALF_UP))

    def _charge(
        self,
        one: Row,
        items: list[tuple[str, int]],
        status: str,
        charge_type: str,
        *,
        metadata: Row | None = None,
        session_id: str | None = None,
        usage_minor: int = 0,
    ) -> Row:
        return self._pay(
            one["customer"],
            items,
            one["currency"],
            status,
            metadata=one["metadata"] if metadata is None else metadata,
            charge_type=charge_type,
            subscription_id=one["subscription_id"],
            session_id=session_id,
            usage_minor=usage_minor,
        )

    # ------------------------------------------------------------------ requests

    def _update(self, subscription_id: str, sent: bytes) -> Any:
        body = self._taken(SubscriptionUpdateParams, sent)
        one = self.subscriptions[subscription_id]
        if one["status"] in _OVER:
            raise Refused(422, "The subscription is over.", code="SUBSCRIPTION_INACTIVE")
        if converted := body.pop("disable_on_demand", None):
            self.demand(one["on_demand"], "not on demand")
            one["on_demand"], body = False, body | converted
        if "next_billing_date" in body:
            self.demand(
                datetime.fromisoformat(body["next_billing_date"]) > self.clock(),
                "next_billing_date lies in the past",
            )
        one |= body
        if body.get("status") == "cancelled":
            one["cancelled_at"] = self._now()
        over = one["status"] == "cancelled"
        self._tell(f"subscription.{'cancelled' if over else 'updated'}", subscription_id)
        return self._answer(Subscription, one)

    def _charge_on_demand(self, subscription_id: str, sent: bytes) -> Any:
        body = self._taken(SubscriptionChargeParams, sent)
        one = self.subscriptions[subscription_id]
        if not one["on_demand"] or one["status"] != "active":
            raise Refused(422, "No charge is possible.", code="SUBSCRIPTION_NOT_CHARGEABLE")
        status = self._saved_card(one["customer"]["customer_id"])
        items = [(one["product_id"], body["product_price"])]
        payment = self._charge(one, items, status, "on_demand", metadata=body.get("metadata"))
        self._tell(f"payment.{status}", payment["payment_id"])
        if status == "failed":
            self.set_status(subscription_id, "on_hold", "subscription.on_hold")
        return self._answer(SubscriptionChargeResponse, {"payment_id": payment["payment_id"]})

    def _preview(self, subscription_id: str, sent: bytes) -> Any:
        body = self._taken(SubscriptionPreviewChangePlanParams, sent)
        one = self._changeable(subscription_id, body)
        due = sum(amount for _, amount in self._prorated(one, body))
        changed = dict(one)
        self._become(changed, body["product_id"], list(body.get("addons") or []))
        summary = {
            "currency": one["currency"],
            "customer_credits": max(0, -due),
            "customer_credits_currency": one["currency"],
            "settlement_amount": max(0, due),
            "settlement_currency": one["currency"],
            "total_amount": max(0, due + due * self.tax_percent // 100),
        }
        answer = {
            "immediate_charge": {
                "effective_at": self._now(),
                "line_items": [],
                "summary": summary,
            },
            "new_plan": changed,
        }
        return self._answer(SubscriptionPreviewChangePlanResponse, answer)

    def _change_plan(self, subscription_id: str, sent: bytes) -> Any:
        body = self._taken(SubscriptionChangePlanParams, sent)
        one = self._changeable(subscription_id, body)
        add_ons = list(body.get("addons") or [])
        if body.get("effective_at") == "next_billing_date":
            self._become(dict(one), body["product_id"], add_ons)  # refuses what can't be
            one["scheduled_change"] = {
                "id": self._id("spc"),
                "addons": [add_on | {"name": "An add-on"} for add_on in add_ons],
                "created_at": self._now(),
                "effective_at": one["next_billing_date"],
                "product_id": body["product_id"],
                "quantity": 1,
            }
            self._tell("subscription.updated", subscription_id)
            return {}
        self.demand(body.get("on_payment_failure") == "prevent_change", "an unpaid change")
        items = self._prorated(one, body)
        due = sum(amount for _, amount in items)
        if due <= 0:
            self.credits[subscription_id] = self.credits.get(subscription_id, 0) - due
            self._changed(one, body)
            return {}
        status = self._saved_card(one["customer"]["customer_id"])
        payment = self._charge(
            one, [(body["product_id"], due)], status, "plan_change", metadata=body.get("metadata")
        )
        self._tell(f"payment.{status}", payment["payment_id"])
        if status == "succeeded":
            self._changed(one, body)
        elif status == "processing":
            self.waiting[payment["payment_id"]] = subscription_id, body
        return {}

    def arrive(self, payment_id: str, *, paid: bool) -> None:
        """The money of a saved card that takes its time arrives, or doesn't."""
        self.payments[payment_id]["status"] = status = "succeeded" if paid else "failed"
        subscription_id, body = self.waiting.pop(payment_id, ("", {}))
        if paid and subscription_id:
            self._changed(self.subscriptions[subscription_id], body)
        self._tell(f"payment.{status}", payment_id)

    def _cancel_change(self, subscription_id: str) -> Any:
        one = self.subscriptions[subscription_id]
        if not one["scheduled_change"]:
            raise Refused(404, "No scheduled plan change found", code="NOT_FOUND")
        one["scheduled_change"] = None
        self._tell("subscription.updated", subscription_id)
        return {}

    def _changeable(self, subscription_id: str, body: Row) -> Row:
        one = self.subscriptions[subscription_id]
        if one["status"] != "active" or one["on_demand"]:
            raise Refused(
                422, "Subscription is inactive or on-demand", code="SUBSCRIPTION_INACTIVE"
            )
        if any(waiting == subscription_id for waiting, _ in self.waiting.values()):
            raise Refused(409, "A pending plan change exists", code="PENDING_PLAN_CHANGE_EXISTS")
        if one["scheduled_change"] and not body.get("cancel_scheduled_change_plan"):
            raise Refused(409, "A scheduled plan change exists", code="SCHEDULED_CHANGE_EXISTS")
        return one

    def _prorated(self, one: Row, body: Row) -> list[tuple[str, int]]:
        """What the change takes now, the old things below 0."""
        mode = body["proration_billing_mode"]
        names = [body["product_id"], *(a["addon_id"] for a in body.get("addons") or [])]
        wanted = [(name, self._price_of(name)) for name in names]
        if mode == "do_not_bill":
            return []
        if mode == "full_immediately":
            return wanted
        start, end, now = (
            datetime.fromisoformat(one["previous_billing_date"]),
            datetime.fromisoformat(one["next_billing_date"]),
            self.clock(),
        )
        left = Fraction(int((end - now).total_seconds()), int((end - start).total_seconds()))
        keeps = mode == "prorated_immediately_keep_cycle"
        back = [(name, -round(amount * left)) for name, amount in self._items(one)]
        return [(name, round(amount * (left if keeps else 1))) for name, amount in wanted] + back

    def _changed(self, one: Row, body: Row) -> None:
        self._become(one, body["product_id"], list(body.get("addons") or []))
        one["scheduled_change"] = None
        if body["proration_billing_mode"] in ("full_immediately", "prorated_immediately"):
            one["previous_billing_date"] = self._now()
            one["next_billing_date"] = later(self._now(), one["payment_frequency_interval"])
        self._tell("subscription.plan_changed", one["subscription_id"])
