"""Stripe's checkouts, subscriptions, invoices and refunds, with a hosted page and webhooks.

Stateful: what it tells of an object is what was done to it. Requests are held against the
library's typed parameters made strict, writes need an idempotency key, and one that is known is
answered as the first time. Events wait in `outbox` as they were when it happened; whoever sends
them may lose, repeat and shuffle them.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any
from urllib.parse import parse_qsl, urlencode

from stripe.params import (
    RefundCreateParams,
    SubscriptionCancelParams,
    SubscriptionRetrieveParams,
    SubscriptionUpdateParams,
)
from stripe.params.checkout import SessionCreateParams, SessionRetrieveParams

from tests.doubles.server import Page, Refused, Request
from tests.doubles.stripe import Stripe
from tests.doubles.typed import complaints, nested

_PERIOD = {"month": timedelta(days=30), "year": timedelta(days=365)}
_DECLINED = "Your card was declined."


@dataclass
class StripePayments(Stripe):
    """older: answers in the shapes of before 2025-03-31 (basil)"""

    secret: str = "whsec_double"
    older: bool = False
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    outbox: list[dict[str, Any]] = field(default_factory=list)
    answered: dict[str, tuple[str, Any]] = field(default_factory=dict)
    serial: Any = field(default_factory=lambda: count(1))

    def handle(self, request: Request) -> Any:
        if found := re.fullmatch(r"/pay/(cs_\w+)", request.path):
            return self._hosted_page(found[1], request)
        if not re.match(r"/v1/(checkout|subscriptions|refunds)", request.path):
            return super().handle(request)
        self.demand(
            request.headers.get("authorization") == f"Bearer {self.key}", "not the secret key"
        )
        if request.method != "POST":
            return self._act(request)
        key = request.headers.get("idempotency-key", "")
        self.demand(0 < len(key) <= 255, "no idempotency key")
        asked = f"{request.path}?{request.body.decode()}"
        if key in self.answered:
            first, answer = self.answered[key]
            self.demand(first == asked, "an idempotency key used for something else")
            return answer
        answer = self._act(request)
        self.answered[key] = asked, answer
        return answer

    # ---------------------------------------------------------------- the world

    def pay(self, session_id: str, card: str = "success") -> str:
        """What a buyer does at the hosted page; the card's refusal, if any.

        card: "success", "decline" or "later" (the money is on its way: `settle`)
        """
        session = self.objects[session_id]
        if session["status"] != "open":
            return "This session is over."
        if card == "decline":
            return _DECLINED
        paid = card == "success"
        customer = self._new("cus", {"object": "customer", "email": session["customer_email"]})
        self.customers.add(customer["id"])
        item = session["_line_item"]
        price = item["price_data"]
        held = self._new(
            "sub",
            {
                "object": "subscription",
                "customer": customer["id"],
                "status": "active" if paid else "incomplete",
                "metadata": session["_subscription_metadata"],
                "cancel_at_period_end": False,
                "cancel_at": None,
                "ended_at": None,
                "_amount": int(price["unit_amount"]),
                "_currency": price["currency"],
                "_interval": price["recurring"]["interval"],
                "_start": int(self.clock().timestamp()),
            },
        )
        self._set_period(held, held["_start"])
        self._tell("customer.subscription.created", held["id"])
        self._invoice(held, paid=paid)
        session |= {
            "status": "complete",
            "payment_status": "paid" if paid else "unpaid",
            "subscription": held["id"],
            "customer": customer["id"],
            "url": None,
        }
        self._tell("checkout.session.completed", session_id)
        return ""

    def settle(self, session_id: str, *, paid: bool) -> None:
        """The money that was on its way arrives, or doesn't."""
        session = self.objects[session_id]
        held = self.objects[session["subscription"]]
        if paid:
            session["payment_status"] = "paid"
            self._pay_invoice(held)
            self._tell("checkout.session.async_payment_succeeded", session_id)
        else:
            held["status"] = "incomplete_expired"
            held["ended_at"] = int(self.clock().timestamp())
            self.objects[held["latest_invoice"]]["status"] = "void"
            self._tell("checkout.session.async_payment_failed", session_id)
            self._tell("customer.subscription.updated", held["id"])

    def expire(self, session_id: str) -> None:
        self.objects[session_id] |= {"status": "expired", "url": None}
        self._tell("checkout.session.expired", session_id)

    def renew(self, subscription_id: str, *, paid: bool = True) -> None:
        """The next period begins, or the subscription ends where that is planned."""
        held = self.objects[subscription_id]
        if held["cancel_at_period_end"]:
            self._end(held)
            return
        self._set_period(held, held["_end"])
        held["status"] = "active" if paid else "past_due"
        self._invoice(held, paid=paid)
        self._tell("customer.subscription.updated", subscription_id)

    def recover(self, subscription_id: str) -> None:
        """The failed charge of the last invoice is made good."""
        self._pay_invoice(self.objects[subscription_id])

    def signed(
        self, event: dict[str, Any], at: float | None = None
    ) -> tuple[bytes, dict[str, str]]:
        """A delivery's body and headers, signed at some time; None: now by the real clock."""
        body = json.dumps(event).encode()
        moment = int(time.time() if at is None else at)
        signature = hmac.new(self.secret.encode(), b"%d." % moment + body, hashlib.sha256)
        return body, {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": f"t={moment},v1={signature.hexdigest()}",
        }

    # ---------------------------------------------------------------- the API

    def _act(self, request: Request) -> Any:
        method, path = request.method, request.path
        encoded = request.body.decode() or urlencode(request.query)
        given = nested(encoded)
        if (method, path) == ("POST", "/v1/checkout/sessions"):
            self._strict(SessionCreateParams, given)
            return self._open(given)
        if method == "GET" and (found := re.fullmatch(r"/v1/checkout/sessions/(cs_\w+)", path)):
            self._strict(SessionRetrieveParams, given)
            return self.shown(self._known(found[1]), _expansions(given))
        if (method, path) == ("POST", "/v1/refunds"):
            self._strict(RefundCreateParams, given)
            return self._refund(given)
        if found := re.fullmatch(r"/v1/subscriptions/(sub_\w+)", path):
            held = self.objects[self._known(found[1])]
            if method == "GET":
                self._strict(SubscriptionRetrieveParams, given)
            elif held["status"] in ("canceled", "incomplete_expired"):
                raise Refused(404, f"No such subscription: '{found[1]}'", code="resource_missing")
            elif method == "POST":
                self._strict(SubscriptionUpdateParams, given)
                self._update(held, given)
            else:
                self._strict(SubscriptionCancelParams, given)
                self._end(held)
            return self.shown(held["id"], _expansions(given))
        raise Refused(404, f"Unrecognized request URL ({method}: {path}).")

    def _open(self, given: dict[str, Any]) -> Any:
        self.demand(given["mode"] == "subscription", "mode")
        self.demand(given["success_url"].startswith("http"), "success_url")
        item = given["line_items"]["0"]
        price = item["price_data"]
        self.demand(re.fullmatch(r"[a-z]{3}", price["currency"]) is not None, "currency")
        self.demand(bool(price["product_data"]["name"]), "product's name")
        session = self._new("cs_test", {"object": "checkout.session", "status": "open"})
        session |= {
            "mode": "subscription",
            "payment_status": "unpaid",
            "client_reference_id": given["client_reference_id"],
            "customer_email": given["customer_email"],
            "metadata": given["metadata"],
            "success_url": given["success_url"],
            "cancel_url": given["cancel_url"],
            "subscription": None,
            "customer": None,
            "url": f"{self.url}/pay/{session['id']}",
            "_line_item": item,
            "_subscription_metadata": given["subscription_data"]["metadata"],
        }
        return self.shown(session["id"], [])

    def _update(self, held: dict[str, Any], given: dict[str, Any]) -> None:
        self.demand(
            not {"cancel_at", "cancel_at_period_end"} <= given.keys(),
            "cancel_at beside cancel_at_period_end",
        )
        if "cancel_at_period_end" in given:
            held["cancel_at_period_end"] = given["cancel_at_period_end"] == "true"
            held["cancel_at"] = held["_end"] if held["cancel_at_period_end"] else None
        if given.get("cancel_at") == "":
            held["cancel_at"] = None
        self._tell("customer.subscription.updated", held["id"])

    def _refund(self, given: dict[str, Any]) -> Any:
        intent = self.objects.get(given["payment_intent"])
        if intent is None:
            raise Refused(404, "No such payment_intent", code="resource_missing")
        if intent["refunded"]:
            raise Refused(400, "Charge has been refunded.", code="charge_already_refunded")
        intent["refunded"] = True
        refund = self._new("re", {"object": "refund", "status": "succeeded"})
        refund |= {"amount": intent["amount"], "payment_intent": intent["id"]}
        self._tell("charge.refunded", intent["id"])
        return self.shown(refund["id"], [])

    def shown(self, object_id: str, paths: list[str]) -> dict[str, Any]:
        """The object as the API and events show it, with what is to be expanded."""
        held = deepcopy(self.objects[object_id])
        if held["object"] == "subscription":
            self._show_period(held)
        if held["object"] == "invoice":
            self._show_payments(held, "payments" in paths)
        for first in {path.partition(".")[0] for path in paths}:
            inner = [path.partition(".")[2] for path in paths if path.startswith(f"{first}.")]
            if isinstance(held.get(first), str):
                held[first] = self.shown(held[first], inner)
        return {name: value for name, value in held.items() if not name.startswith("_")}

    # ---------------------------------------------------------------- how it does that

    def _hosted_page(self, session_id: str, request: Request) -> Page:
        session = self.objects[self._known(session_id)]
        said = ""
        if request.method == "POST":
            card = dict(parse_qsl(request.body.decode())).get("card", "")
            said = self.pay(session_id, card)
            if not said:
                return Page(location=session["success_url"])
        buttons = "".join(
            f'<button name="card" value="{card}">{label}</button>'
            for card, label in (
                ("success", "Pay"),
                ("decline", "Pay with a card that is declined"),
                ("later", "Pay in a way that takes time"),
            )
        )
        return Page(
            f"<!doctype html><title>Stripe’s double</title><p>{said}</p>"
            f'<form method="post">{buttons}</form><a href="{session["cancel_url"]}">Back</a>'
        )

    def _new(self, prefix: str, content: dict[str, Any]) -> dict[str, Any]:
        object_id = f"{prefix}_{next(self.serial):06}"
        made = {"id": object_id, "livemode": False, "created": int(self.clock().timestamp())}
        self.objects[object_id] = made | content
        return self.objects[object_id]

    def _known(self, object_id: str) -> str:
        if object_id not in self.objects:
            raise Refused(404, f"No such object: '{object_id}'", code="resource_missing")
        return object_id

    def _strict(self, params: type, given: dict[str, Any]) -> None:
        said = complaints(params, given)
        self.demand(not said, "; ".join(said))

    def _tell(self, event_type: str, object_id: str) -> None:
        event = self._new("evt", {"object": "event", "type": event_type})
        self.outbox.append(event | {"data": {"object": self.shown(object_id, [])}})

    def _set_period(self, held: dict[str, Any], start: int) -> None:
        length = int(_PERIOD[held["_interval"]].total_seconds())
        held["_start"], held["_end"] = start, start + length

    def _end(self, held: dict[str, Any]) -> None:
        held |= {"status": "canceled", "ended_at": int(self.clock().timestamp())}
        self._tell("customer.subscription.deleted", held["id"])

    def _invoice(self, held: dict[str, Any], *, paid: bool) -> None:
        invoice = self._new("in", {"object": "invoice", "status": "open", "amount_paid": 0})
        held["latest_invoice"] = invoice["id"]
        invoice |= {"currency": held["_currency"], "_subscription": held["id"]}
        invoice["_metadata"] = held["metadata"]
        if paid:
            self._pay_invoice(held)
        else:
            self._tell("invoice.payment_failed", invoice["id"])

    def _pay_invoice(self, held: dict[str, Any]) -> None:
        intent = self._new("pi", {"object": "payment_intent", "amount": held["_amount"]})
        intent["refunded"] = False
        invoice = self.objects[held["latest_invoice"]]
        invoice |= {"status": "paid", "amount_paid": held["_amount"], "_intent": intent["id"]}
        self._tell("invoice.paid", invoice["id"])
        if held["status"] != "active":
            held["status"] = "active"
            self._tell("customer.subscription.updated", held["id"])

    def _show_period(self, held: dict[str, Any]) -> None:
        period = {"current_period_start": held["_start"], "current_period_end": held["_end"]}
        item = {"object": "subscription_item", "quantity": 1}
        held["items"] = {"object": "list", "data": [item if self.older else item | period]}
        if self.older:
            held |= period

    def _show_payments(self, held: dict[str, Any], expanded: bool) -> None:
        details = {"subscription": held["_subscription"], "metadata": held["_metadata"]}
        intent = held.get("_intent")
        if self.older:
            held |= {"subscription": held["_subscription"], "payment_intent": intent}
            held["subscription_details"] = {"metadata": held["_metadata"]}
            return
        held["parent"] = {"type": "subscription_details", "subscription_details": details}
        if expanded:
            payment = {"type": "payment_intent", "payment_intent": intent}
            entry = {"object": "invoice_payment", "status": "paid", "payment": payment}
            held["payments"] = {"object": "list", "data": [entry] if intent else []}


def _expansions(given: dict[str, Any]) -> list[str]:
    return list(given.get("expand", {}).values())
