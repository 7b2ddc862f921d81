"""Dodo Payments as a shop: products, add-ons, checkouts and a portal with pages of their own."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

from dodopayments.types import (
    AddonCreateParams,
    AddonListParams,
    AddonResponse,
    CheckoutSessionCreateParams,
    CheckoutSessionResponse,
    CheckoutSessionStatus,
    Product,
    ProductCreateParams,
    ProductListParams,
    ProductListResponse,
    ProductUpdateParams,
    Refund,
    Subscription,
)

from tests.doubles.dodo_books import Disorder, Hint, Row
from tests.doubles.dodo_life import DodoLife
from tests.doubles.server import Page, Refused, Request

__all__ = ["Disorder", "DodoShop", "Hint"]

_PLACES = (
    "products", "addons", "checkouts", "payments", "subscriptions", "refunds", "customers",
)  # fmt: skip


@dataclass
class DodoShop(DodoLife):
    def handle(self, request: Request) -> Any:
        method, (_, place, *rest) = request.method, request.path.split("/")
        if place == "session":
            return self._page(request, rest[0])
        if place == "portal":
            return self._portal_page(request, rest[0])
        if place not in _PLACES:
            return super().handle(request)
        if request.headers.get("authorization") != f"Bearer {self.key}":
            raise Refused(401, "Unauthorized", code="UNAUTHORIZED")
        if method == "GET" and len(rest) == 1:
            return self._one(place, rest[0])
        query, body = request.query, request.body
        match (method, place, *rest):
            case ("GET", "products"):
                return self._list_products(query)
            case ("POST", "products"):
                return self._create_product(body)
            case ("PATCH", "products", name):
                self.products[name] |= self._taken(ProductUpdateParams, body)
                return {}
            case ("GET", "addons"):
                return self._page_of(self.add_ons.values(), query, AddonListParams)
            case ("POST", "addons"):
                return self._create_add_on(body)
            case ("POST", "checkouts"):
                return self._create_session(body)
            case ("GET", "payments"):
                return self._list_payments(query)
            case ("GET", "payments", name, "line-items"):
                return self._line_items(name, query)
            case ("POST", "refunds"):
                return self._refund(body)
            case ("PATCH", "subscriptions", name):
                return self._update(name, body)
            case ("POST", "subscriptions", name, "charge"):
                return self._charge_on_demand(name, body)
            case ("POST", "subscriptions", name, "change-plan"):
                return self._change_plan(name, body)
            case ("POST", "subscriptions", name, "change-plan", "preview"):
                return self._preview(name, body)
            case ("DELETE", "subscriptions", name, "change-plan", "scheduled"):
                return self._cancel_change(name)
            case ("POST", "customers", name, "customer-portal", "session"):
                self.demand(name in self.customers, f"No customer {name}")
                self.demand(set(query) <= {"return_url", "send_email"}, f"{sorted(query)}")
                return {"link": f"{self.url}/portal/{name}?{urlencode(query)}"}
        raise Refused(404, "Not found", code="NOT_FOUND")

    # ------------------------------------------------------------------ what buyers do

    def pay(self, session_id: str, card: str = "success") -> Row:
        """One try to pay: `success`, `decline`, or `later`, on which `settle` decides."""
        session = self.sessions[session_id]
        status = {"success": "succeeded", "decline": "failed", "later": "processing"}[card]
        bought = session["asked"]["product_cart"][0]
        price = self.products[bought["product_id"]]["price"]
        if price["type"] == "one_time_price":
            payment = self._pay(
                session["customer"],
                [(bought["product_id"], bought["amount"])],
                price["currency"],
                status,
                metadata=session["asked"]["metadata"],
                session_id=session_id,
            )
        else:
            subscription = self._begin(session)
            items = self._due_at_once(subscription)
            payment = self._charge(subscription, items, status, "new", session_id=session_id)
            if status == "succeeded":
                self._activate(subscription)
        session["payment_id"], session["payment_status"] = payment["payment_id"], status
        self._tell(f"payment.{status}", payment["payment_id"])
        return payment

    def settle(self, session_id: str, *, paid: bool) -> None:
        """The money of a delayed payment arrives, or doesn't."""
        session = self.sessions[session_id]
        payment = self.payments[session["payment_id"]]
        payment["status"] = session["payment_status"] = "succeeded" if paid else "failed"
        if name := payment["subscription_id"]:
            subscription = self.subscriptions[name]
            if paid:
                self._activate(subscription)
            else:
                subscription["status"] = "failed"
        self._tell(f"payment.{payment['status']}", payment["payment_id"])

    def _page(self, request: Request, session_id: str) -> Page:
        session = self.sessions.get(session_id)
        if session is None or session["payment_status"] in ("succeeded", "processing"):
            return Page("<h1>This checkout is over.</h1>")
        error = ""
        if request.method == "POST":
            payment = self.pay(session_id, dict(parse_qsl(request.body.decode()))["card"])
            if payment["status"] != "failed":
                told = {name: payment[name] for name in ("payment_id", "subscription_id", "status")}
                return Page(location=f"{session['asked']['return_url']}?{urlencode(told)}")
            error = "<p>Your card was declined.</p>"
        bought = session["asked"]["product_cart"][0]
        product = self.products[bought["product_id"]]
        add_ons = [self.add_ons[one["addon_id"]] for one in bought.get("addons") or []]
        amount = bought.get("amount") or self._price_of(bought["product_id"])
        amount += sum(one["price"] for one in add_ons)
        names = " + ".join(one["name"] for one in (product, *add_ons))
        data = session["asked"].get("subscription_data") or {}
        terms = f"{amount} {product['price']['currency']} in minor units"
        if data.get("on_demand"):
            terms = "Nothing now: you allow later charges"
        if data.get("trial_period_days"):
            terms = f"Nothing for {data['trial_period_days']} days, then {terms}"
        buttons = "".join(
            f'<button name="card" value="{card}">{label}</button> '
            for card, label in (
                ("success", "Pay"),
                ("decline", "Pay with a card that is declined"),
                ("later", "Pay by a way that takes time"),
            )
        )
        return Page(
            f"<h1>{html.escape(names)}</h1><p>{terms}</p>{error}<form method=post>{buttons}</form>"
            f'<a href="{html.escape(session["asked"]["cancel_url"])}">Back</a>'
        )

    def _portal_page(self, request: Request, customer_id: str) -> Page:
        if request.method == "POST":
            self.new_card(customer_id)
            return Page(location=request.query.get("return_url", "/"))
        return Page(
            "<h1>Your payment method</h1><form method=post><button>Use another card</button></form>"
        )

    # ------------------------------------------------------------------ requests

    def _one(self, place: str, name: str) -> Any:
        rows, model = {
            "products": (self.products, Product),
            "addons": (self.add_ons, AddonResponse),
            "checkouts": (self.sessions, CheckoutSessionStatus),
            "payments": (self.payments, None),
            "subscriptions": (self.subscriptions, Subscription),
            "refunds": (self.refunds, Refund),
        }[place]
        if name not in rows:
            raise Refused(404, f"No {name}", code="NOT_FOUND")
        if model is None:
            return self._one_payment(name)
        if place == "checkouts":
            shown = ("id", "created_at", "customer_email", "payment_id", "payment_status")
            return self._answer(model, {key: rows[name][key] for key in shown})
        if isinstance(rows[name].get("status"), str) and rows[name]["status"] == "news":
            return rows[name]  # a status that is newer than the library
        return self._answer(model, rows[name])

    def _list_products(self, query: dict[str, str]) -> Any:
        rows = [
            self._answer(ProductListResponse, one | {"price": None, "price_detail": one["price"]})
            for one in self.products.values()
        ]
        return self._page_of(rows, query, ProductListParams)

    def _create_product(self, sent: bytes) -> Any:
        body = self._taken(ProductCreateParams, sent)
        for meter in body["price"].get("meters", []):
            self.demand(meter["meter_id"] in self.meters, f"No meter {meter['meter_id']}")
        made = {
            "product_id": self._id("pdt"),
            "business_id": "bus_1",
            "brand_id": "bus_1",
            "created_at": self._now(),
            "updated_at": self._now(),
            "is_recurring": body["price"]["type"] != "one_time_price",
            "license_key_enabled": False,
            "credit_entitlements": [],
            "entitlements": [],
            "metadata": {},
        } | body
        self.products[made["product_id"]] = made
        return self._answer(Product, made)

    def _create_add_on(self, sent: bytes) -> Any:
        body = self._taken(AddonCreateParams, sent)
        made = {
            "id": self._id("adn"),
            "business_id": "bus_1",
            "created_at": self._now(),
            "updated_at": self._now(),
        } | body
        self.add_ons[made["id"]] = made
        return self._answer(AddonResponse, made)

    def _create_session(self, sent: bytes) -> Any:
        body = self._taken(CheckoutSessionCreateParams, sent)
        self.demand(len(body["product_cart"]) == 1, "one thing a session")
        (item,) = body["product_cart"]
        self.demand(item["product_id"] in self.products, f"No {item['product_id']}")
        price = self.products[item["product_id"]]["price"]
        if price["type"] == "one_time_price":
            self.demand(item.get("amount", 0) >= price["price"], "less than its least price")
        made = {
            "id": self._id("cks"),
            "created_at": self._now(),
            "customer": self._customer(body),
            "payment_id": None,
            "payment_status": None,
            "asked": body,
        }
        made["customer_email"] = made["customer"]["email"]
        self.sessions[made["id"]] = made
        answer = {"session_id": made["id"], "checkout_url": f"{self.url}/session/{made['id']}"}
        if body.get("confirm"):
            answer = {"session_id": made["id"], "payment_id": self._confirmed(made)}
        return self._answer(CheckoutSessionResponse, answer)

    def _confirmed(self, session: Row) -> str:
        """Pays at once by the customer's saved card; the payment's id."""
        body, customer_id = session["asked"], session["customer"]["customer_id"]
        self.demand("customer_id" in body["customer"], "a saved card of nobody")
        self.demand(body["payment_method_id"] == f"pm_{customer_id}", "somebody else's card")
        self.demand(bool(body.get("billing_address")), "billing_address")
        outcome = self._saved_card(customer_id)
        cards = {"succeeded": "success", "failed": "decline", "processing": "later"}
        return str(self.pay(session["id"], cards[outcome])["payment_id"])

    def _customer(self, body: Row) -> Row:
        asked = body["customer"]
        if name := asked.get("customer_id"):
            self.demand(name in self.customers, f"No customer {name}")
            return {"customer_id": name, "email": self.emails[name], "name": "A buyer"}
        name = self._id("cus")
        self.customers.add(name)
        self.emails[name] = asked["email"]
        return {"customer_id": name, "email": asked["email"], "name": "A buyer"}
