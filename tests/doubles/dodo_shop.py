"""Dodo Payments as a shop: products, checkouts with a page of their own, subscriptions, refunds.

What its OpenAPI document and its library's types ask of requests is demanded, and its own answers
are held against the library's models. Deliveries wait in `outbox` until a test sends them, as
often and in the order it likes; each tells the state at that moment, as Dodo's do. A month here
has 30 days.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode

import requests
from dodopayments.types import (
    CheckoutSessionCreateParams,
    CheckoutSessionResponse,
    CheckoutSessionStatus,
    Payment,
    PaymentListParams,
    PaymentListResponse,
    Product,
    ProductCreateParams,
    ProductListParams,
    ProductListResponse,
    Refund,
    RefundCreateParams,
    Subscription,
    SubscriptionUpdateParams,
)
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from standardwebhooks import Webhook

from tests.doubles.dodo import Dodo
from tests.doubles.server import Page, Refused, Request

_STRICT = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)
_LASTS = {"Month": timedelta(days=30), "Year": timedelta(days=365)}
_ADDRESS = {"country": "US", "city": "New York", "state": "NY", "street": "1 Main St"}


@dataclass(frozen=True)
class Hint:
    """A delivery to come: of what type, and what it will show the state of."""

    id: str
    type: str
    about: str


@dataclass
class DodoShop(Dodo):
    secret: str = "whsec_" + base64.b64encode(b"the double's secret, 24 b").decode()
    products: dict[str, dict[str, Any]] = field(default_factory=dict)
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)
    payments: dict[str, dict[str, Any]] = field(default_factory=dict)
    subscriptions: dict[str, dict[str, Any]] = field(default_factory=dict)
    refunds: dict[str, dict[str, Any]] = field(default_factory=dict)
    outbox: list[Hint] = field(default_factory=list)
    made: int = 0

    def handle(self, request: Request) -> Any:
        method, (_, place, *rest) = request.method, request.path.split("/")
        if place == "session":
            return self._page(request, rest[0])
        if place not in ("products", "checkouts", "payments", "subscriptions", "refunds"):
            return super().handle(request)
        if request.headers.get("authorization") != f"Bearer {self.key}":
            raise Refused(401, "Unauthorized", code="UNAUTHORIZED")
        if method == "GET" and rest:
            return self._one(place, rest[0])
        match (method, place, len(rest)):
            case ("GET", "products", 0):
                return self._list_products(request.query)
            case ("POST", "products", 0):
                return self._create_product(request)
            case ("POST", "checkouts", 0):
                return self._create_session(request)
            case ("GET", "payments", 0):
                return self._list_payments(request.query)
            case ("PATCH", "subscriptions", 1):
                return self._update(rest[0], request)
            case ("POST", "refunds", 0):
                return self._refund(request)
        raise Refused(404, "Not found", code="NOT_FOUND")

    # ------------------------------------------------------------------ what time and people do

    def pay(self, session_id: str, card: str = "success") -> dict[str, Any]:
        """One try to pay: `success`, `decline`, or `later`, on which `settle` decides."""
        session = self.sessions[session_id]
        status = {"success": "succeeded", "decline": "failed", "later": "processing"}[card]
        subscription = self._open_subscription(session)
        payment = self._charge(subscription, status, session_id)
        session["payment_id"], session["payment_status"] = payment["payment_id"], status
        if status == "succeeded":
            self._activate(subscription)
        self._tell(f"payment.{status}", payment["payment_id"])
        return payment

    def settle(self, session_id: str, *, paid: bool) -> None:
        """The money of a delayed payment arrives, or doesn't."""
        session = self.sessions[session_id]
        payment = self.payments[session["payment_id"]]
        payment["status"] = session["payment_status"] = "succeeded" if paid else "failed"
        subscription = self.subscriptions[payment["subscription_id"]]
        if paid:
            self._activate(subscription)
        else:
            subscription["status"] = "failed"
        self._tell(f"payment.{payment['status']}", payment["payment_id"])

    def renew(self, subscription_id: str) -> None:
        """The period is over: the next one is paid for, or a planned end has come."""
        one = self.subscriptions[subscription_id]
        if one["cancel_at_next_billing_date"]:
            one["status"] = "cancelled"
            self._tell("subscription.cancelled", subscription_id)
            return
        one["status"] = "active"
        start = datetime.fromisoformat(one["next_billing_date"])
        one["previous_billing_date"] = one["next_billing_date"]
        one["next_billing_date"] = (start + _LASTS[one["payment_frequency_interval"]]).isoformat()
        self._tell("subscription.renewed", subscription_id)
        self._tell("payment.succeeded", self._charge(one, "succeeded")["payment_id"])

    def fail(self, subscription_id: str) -> None:
        """A renewal is not paid for."""
        one = self.subscriptions[subscription_id]
        one["status"] = "on_hold"
        self._tell("subscription.on_hold", subscription_id)
        self._tell("payment.failed", self._charge(one, "failed")["payment_id"])

    def set_status(self, subscription_id: str, status: str, type_told: str) -> None:
        self.subscriptions[subscription_id]["status"] = status
        self._tell(type_told, subscription_id)

    def deliver(self, site: str) -> list[int]:
        """Sends what waits; what isn't answered with 2xx goes on waiting. The statuses."""
        waiting, self.outbox = self.outbox, []
        statuses = []
        for hint in waiting:
            statuses.append(self.send(site, hint))
            if statuses[-1] != 200:
                self.outbox.append(hint)
        return statuses

    def send(self, site: str, hint: Hint) -> int:
        body = self.body(hint)
        headers = self.signed(hint.id, body, datetime.now(UTC))
        return requests.post(
            f"{site}/webhooks/dodo", data=body, headers=headers, timeout=10
        ).status_code

    def body(self, hint: Hint) -> bytes:
        kinds = (("Subscription", self.subscriptions), ("Payment", self.payments))
        for kind, rows in (*kinds, ("Refund", self.refunds)):
            if hint.about in rows:
                data = {"payload_type": kind} | rows[hint.about]
        envelope = {"business_id": "bus_1", "type": hint.type, "timestamp": self._now()}
        return json.dumps(envelope | {"data": data}).encode()

    def signed(self, message_id: str, body: bytes, at: datetime) -> dict[str, str]:
        return {
            "content-type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": Webhook(self.secret).sign(message_id, at, body.decode()),
        }

    # ------------------------------------------------------------------ its own matters

    def _id(self, prefix: str) -> str:
        self.made += 1
        return f"{prefix}_{self.made:06}"

    def _now(self) -> str:
        return self.clock().isoformat()

    def _tell(self, delivery_type: str, about: str) -> None:
        self.outbox.append(Hint(self._id("msg"), delivery_type, about))

    def _taken(self, params: type, request: Request) -> dict[str, Any]:
        """The request's body, held against the library's typed parameters made strict."""
        try:
            # pydantic lets no configuration be given to a TypedDict, but to a list of them.
            strict = TypeAdapter(list[params], config=_STRICT)
            _exhaust(strict.validate_json(b"[" + request.body + b"]"))
        except ValidationError as error:
            self.demand(False, f"{request.path}: {error}")
        body: dict[str, Any] = json.loads(request.body)
        return body

    def _answer(self, model: type[BaseModel], row: dict[str, Any]) -> dict[str, Any]:
        """A row with what the library's model needs and no test cares about."""
        model.model_validate(row)
        return row

    def _page_of(self, rows: Iterable[Any], query: dict[str, str], params: type) -> Any:
        self.demand(set(query) <= set(params.__annotations__), f"{sorted(query)}")
        number, size = int(query.get("page_number", 0)), int(query.get("page_size", 10))
        self.demand(size <= 100, f"page_size {size}")
        return {"items": list(rows)[number * size : (number + 1) * size]}

    def _one(self, place: str, name: str) -> Any:
        rows, model = {
            "products": (self.products, Product),
            "checkouts": (self.sessions, CheckoutSessionStatus),
            "payments": (self.payments, Payment),
            "subscriptions": (self.subscriptions, Subscription),
            "refunds": (self.refunds, Refund),
        }[place]
        if name not in rows:
            raise Refused(404, f"No {name}", code="NOT_FOUND")
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

    def _create_product(self, request: Request) -> Any:
        body = self._taken(ProductCreateParams, request)
        made = {
            "product_id": self._id("pdt"),
            "business_id": "bus_1",
            "brand_id": "bus_1",
            "created_at": self._now(),
            "updated_at": self._now(),
            "is_recurring": body["price"]["type"] == "recurring_price",
            "license_key_enabled": False,
            "credit_entitlements": [],
            "entitlements": [],
            "metadata": {},
        } | body
        self.products[made["product_id"]] = made
        return self._answer(Product, made)

    def _create_session(self, request: Request) -> Any:
        body = self._taken(CheckoutSessionCreateParams, request)
        for item in body["product_cart"]:
            self.demand(item["product_id"] in self.products, f"No {item['product_id']}")
        self.demand(len(body["product_cart"]) == 1, "one subscription a session")
        made = {
            "id": self._id("cks"),
            "created_at": self._now(),
            "customer_email": body["customer"]["email"],
            "payment_id": None,
            "payment_status": None,
            "asked": body,
        }
        self.sessions[made["id"]] = made
        url = f"{self.url}/session/{made['id']}"
        return self._answer(
            CheckoutSessionResponse, {"session_id": made["id"], "checkout_url": url}
        )

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
        product = self.products[session["asked"]["product_cart"][0]["product_id"]]
        buttons = "".join(
            f'<button name="card" value="{card}">{card}</button>'
            for card in ("success", "decline", "later")
        )
        return Page(
            f"<h1>{html.escape(product['name'])}</h1>{error}<form method=post>{buttons}</form>"
            f'<a href="{html.escape(session["asked"]["cancel_url"])}">Back</a>'
        )

    def _open_subscription(self, session: dict[str, Any]) -> dict[str, Any]:
        product = self.products[session["asked"]["product_cart"][0]["product_id"]]
        price, now = product["price"], self.clock()
        customer = self._id("cus")
        self.customers.add(customer)
        made = {
            "subscription_id": self._id("sub"),
            "status": "pending",
            "product_id": product["product_id"],
            "customer": {
                "customer_id": customer,
                "email": session["customer_email"],
                "name": "A buyer",
            },
            "metadata": session["asked"]["metadata"],
            "created_at": now.isoformat(),
            "previous_billing_date": now.isoformat(),
            "next_billing_date": (now + _LASTS[price["payment_frequency_interval"]]).isoformat(),
            "cancel_at_next_billing_date": False,
            "cancelled_at": None,
            "recurring_pre_tax_amount": price["price"],
            "currency": price["currency"],
            "payment_frequency_count": 1,
            "payment_frequency_interval": price["payment_frequency_interval"],
            "subscription_period_count": price["subscription_period_count"],
            "subscription_period_interval": price["subscription_period_interval"],
            "addons": [],
            "billing": _ADDRESS,
            "brand_id": "bus_1",
            "credit_entitlement_cart": [],
            "meter_credit_entitlement_cart": [],
            "meters": [],
            "has_payment_method": True,
            "on_demand": False,
            "quantity": 1,
            "tax_inclusive": False,
            "trial_period_days": 0,
        }
        self.subscriptions[made["subscription_id"]] = made
        return made

    def _activate(self, subscription: dict[str, Any]) -> None:
        subscription["status"] = "active"
        self._tell("subscription.active", subscription["subscription_id"])

    def _charge(
        self, subscription: dict[str, Any], status: str, session_id: str | None = None
    ) -> dict[str, Any]:
        amount = subscription["recurring_pre_tax_amount"]
        made = {
            "payment_id": self._id("pay"),
            "status": status,
            "subscription_id": subscription["subscription_id"],
            "subscription_ids": [subscription["subscription_id"]],
            "checkout_session_id": session_id,
            "customer": subscription["customer"],
            "metadata": subscription["metadata"],
            "created_at": self._now(),
            "currency": subscription["currency"],
            "total_amount": amount,
            "settlement_amount": amount,
            "settlement_currency": subscription["currency"],
            "error_code": "CARD_DECLINED" if status == "failed" else None,
            "error_message": "Ask the customer for another card." if status == "failed" else None,
            "refunds": [],
            "disputes": [],
            "service_periods": [],
            "billing": _ADDRESS,
            "brand_id": "bus_1",
            "business_id": "bus_1",
            "payment_provider": "dodo",
            "digital_products_delivered": False,
            "has_license_key": False,
            "includes_usage": False,
            "is_multi_subscription": False,
            "is_update_payment_method": False,
            "retry_attempt": 0,
        }
        self.payments[made["payment_id"]] = made
        return made

    def _list_payments(self, query: dict[str, str]) -> Any:
        rows = [
            self._answer(PaymentListResponse, one)
            for one in reversed(self.payments.values())
            if query.get("subscription_id") in (None, one["subscription_id"])
            and query.get("status") in (None, one["status"])
        ]
        return self._page_of(rows, query, PaymentListParams)

    def _update(self, subscription_id: str, request: Request) -> Any:
        body = self._taken(SubscriptionUpdateParams, request)
        one = self.subscriptions[subscription_id]
        if one["status"] in ("cancelled", "failed", "expired"):
            raise Refused(422, "The subscription is over.", code="SUBSCRIPTION_INACTIVE")
        one |= body
        if body.get("status") == "cancelled":
            one["cancelled_at"] = self._now()
        over = one["status"] == "cancelled"
        self._tell(f"subscription.{'cancelled' if over else 'updated'}", subscription_id)
        return self._answer(Subscription, one)

    def _refund(self, request: Request) -> Any:
        body = self._taken(RefundCreateParams, request)
        payment = self.payments[body["payment_id"]]
        if payment["status"] != "succeeded" or payment["refunds"]:
            raise Refused(400, "There is nothing to pay back.", code="REFUND_NOT_POSSIBLE")
        made = {
            "refund_id": self._id("ref"),
            "payment_id": payment["payment_id"],
            "status": "succeeded",
            "is_partial": False,
            "amount": payment["total_amount"],
            "currency": payment["currency"],
            "created_at": self._now(),
            "business_id": "bus_1",
            "brand_id": "bus_1",
            "customer": payment["customer"],
            "metadata": body["metadata"],
            "reason": body["reason"],
        }
        self.refunds[made["refund_id"]] = made
        listed = ("refund_id", "payment_id", "status", "is_partial", "amount", "created_at")
        payment["refunds"].append({name: made[name] for name in listed} | {"business_id": "bus_1"})
        payment["refund_status"] = "full"
        self._tell("refund.succeeded", made["refund_id"])
        return self._answer(Refund, made)


def _exhaust(validated: Any) -> None:
    """Makes pydantic look at every item: it checks an Iterable only as it is read."""
    if isinstance(validated, dict):
        validated = validated.values()
    if isinstance(validated, Iterable) and not isinstance(validated, (str, bytes)):
        for one in validated:
            _exhaust(one)
