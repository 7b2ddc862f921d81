"""Stripe's checkouts and all that comes of them, with hosted pages, webhooks and a control page.

`POST /control/<deed>` does what happens at Stripe without anybody asking by the API: `dispute`
(payment), `close_dispute` (dispute, won), `renew` (subscription), `recover` (subscription),
`pause`, `unpause` (subscription), `use_card` (customer, card), `expire` (session).
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import parse_qsl

from stripe.params.checkout import SessionCreateParams, SessionRetrieveParams

from tests.doubles.server import Page, Refused, Request
from tests.doubles.stripe_invoices import CARDS, DECLINED
from tests.doubles.stripe_subscriptions import StripeSubscriptions

_HOUR = 3600
_BUTTONS = {
    "success": "Pay",
    "decline": "Pay with a card that is declined",
    "decline_later": "Pay with a card that is declined from the next time on",
    "later": "Pay in a way that takes time",
}


@dataclass
class StripePayments(StripeSubscriptions):
    ROUTES: ClassVar = [
        ("POST", r"/v1/checkout/sessions", SessionCreateParams, "_open"),
        ("GET", r"/v1/checkout/sessions/(cs_\w+)", SessionRetrieveParams, "_retrieve"),
    ]

    def handle(self, request: Request) -> Any:
        if found := re.fullmatch(r"/pay/(cs_\w+)", request.path):
            return self._hosted_page(self.known(found[1]), request)
        if found := re.fullmatch(r"/portal/(bps_\w+)", request.path):
            return self._portal_page(self.known(found[1]), request)
        if found := re.fullmatch(r"/control/(\w+)", request.path):
            return self._control(found[1], dict(parse_qsl(request.body.decode())))
        return super().handle(request)

    # ---------------------------------------------------------------- the world

    def pay(self, session_id: str, card: str = "success") -> str:
        """What a buyer does at the hosted page; the card's refusal, if any."""
        session = self.objects[session_id]
        if session["status"] != "open":
            return "This session is over."
        if card == "decline":
            return DECLINED
        if session["customer"] is None:
            session["customer"] = self._customer(session["customer_email"])["id"]
        method = self._method(session["customer"], card)
        session |= {"status": "complete", "url": None}
        if session["mode"] == "payment":
            self._sell(session, method)
        else:
            self._subscribe(session, method)
        self.tell("checkout.session.completed", session_id)
        return ""

    def settle(self, session_id: str, *, paid: bool) -> None:
        """The money that was on its way arrives, or doesn't."""
        session = self.objects[session_id]
        if session["mode"] == "payment":
            intent = self.objects[session["payment_intent"]]
            if paid:
                self.arrive(intent)
                self._sold(session, intent)
            else:
                self.fail(intent)
        else:
            held = self.objects[session["subscription"]]
            invoice = self.objects[held["latest_invoice"]]
            if paid:
                session["payment_status"] = "paid"
                self.settle_invoice(held, invoice, paid=True)
            else:
                held |= {"status": "incomplete_expired", "ended_at": self.seconds()}
                invoice["status"] = "void"
                self.tell("customer.subscription.updated", held["id"])
        outcome = "succeeded" if paid else "failed"
        self.tell(f"checkout.session.async_payment_{outcome}", session_id)

    def expire(self, session_id: str) -> None:
        self.objects[session_id] |= {"status": "expired", "url": None}
        self.tell("checkout.session.expired", session_id)

    # ---------------------------------------------------------------- the API

    def _open(self, given: dict[str, Any]) -> Any:
        self.demand(given["success_url"].startswith("http"), "success_url")
        self.demand(("customer" in given) != ("customer_email" in given), "who is it?")
        subscribes = given["mode"] == "subscription"
        self.demand(subscribes or given["mode"] == "payment", "mode")
        if "customer" in given:
            self.known(given["customer"])
            self.demand("customer_creation" not in given, "customer_creation of a customer")
        else:
            self.demand("customer_update" not in given, "customer_update of nobody")
        prices = []
        for line in given["line_items"].values():
            self.demand(line["quantity"] == "1", "quantity")
            price = self.known(line["price"]) if "price" in line else self.price(line["price_data"])
            self.demand(bool(price["recurring"]) == subscribes, "a price of another kind")
            prices.append(price)
        self.demand(len({price["currency"] for price in prices}) == 1, "several currencies")
        if subscribes:
            self._demand_begins(given["subscription_data"])
        else:
            self.demand("subscription_data" not in given, "subscription_data of a sale")
        if "expires_at" in given:
            ahead = int(given["expires_at"]) - self.seconds()
            self.demand(_HOUR // 2 <= ahead <= 24 * _HOUR, "expires_at")
        session = self.new(
            "cs_test",
            "checkout.session",
            status="open",
            mode=given["mode"],
            payment_status="unpaid",
            client_reference_id=given["client_reference_id"],
            customer_email=given.get("customer_email"),
            metadata=given["metadata"],
            success_url=given["success_url"],
            cancel_url=given["cancel_url"],
            subscription=None,
            payment_intent=None,
            invoice=None,
            customer=given.get("customer"),
            _line_items=list(given["line_items"].values()),
            _prices=prices,
            _given=given,
        )
        session["url"] = f"{self.url}/pay/{session['id']}"
        return self.shown(session["id"])

    def _demand_begins(self, data: dict[str, Any]) -> None:
        ways = {"trial_end", "trial_period_days", "billing_cycle_anchor"} & data.keys()
        self.demand(len(ways) <= 1, f"begins in several ways: {sorted(ways)}")
        if "trial_end" in data:
            self.demand(int(data["trial_end"]) - self.seconds() >= 48 * _HOUR, "trial_end")
        if "trial_period_days" in data:
            self.demand(int(data["trial_period_days"]) >= 1, "trial_period_days")
        if "billing_cycle_anchor" in data:
            self.demand(int(data["billing_cycle_anchor"]) > self.seconds(), "anchor")

    # ---------------------------------------------------------------- how it does that

    def _customer(self, email: str) -> dict[str, Any]:
        made = self.new(
            "cus",
            "customer",
            email=email,
            name="Ada Lovelace",
            address={
                "line1": "Unter den Linden 1",
                "line2": None,
                "postal_code": "10117",
                "city": "Berlin",
                "state": None,
                "country": "DE",
            },
            invoice_settings={"default_payment_method": None},
            _tax_ids=[{"type": "eu_vat", "value": "DE123456789"}],
            _balance=0,
        )
        self.customers.add(made["id"])
        return made

    def _method(self, customer_id: str, card: str) -> dict[str, Any]:
        """Checkout gives it to the subscription and not to the customer."""
        brand, last4 = CARDS[card]
        details = {"brand": brand, "display_brand": brand, "last4": last4}
        return self.new(
            "pm", "payment_method", type="card", card=details, customer=customer_id, _card=card
        )

    def _subscribe(self, session: dict[str, Any], method: dict[str, Any]) -> None:
        given = session["_given"]
        data = given["subscription_data"]
        trial = "trial_end" in data or "trial_period_days" in data
        held = self.new(
            "sub",
            "subscription",
            customer=session["customer"],
            status="trialing" if trial else "active",
            metadata=dict(data["metadata"]),
            cancel_at_period_end=False,
            cancel_at=None,
            ended_at=None,
            trial_end=None,
            pause_collection=None,
            default_payment_method=method["id"],
            automatic_tax={"enabled": "automatic_tax" in given},
            _currency=session["_prices"][0]["currency"],
            _items=[self.item(price) for price in session["_prices"]],
        )
        begun = self.seconds()
        if "trial_period_days" in data:
            held["trial_end"] = begun + int(data["trial_period_days"]) * 24 * _HOUR
        elif "trial_end" in data:
            held["trial_end"] = int(data["trial_end"])
        anchor = data.get("billing_cycle_anchor")
        self.set_period(held, begun, int(anchor) if anchor else held["trial_end"])
        session["subscription"] = held["id"]
        self.tell("customer.subscription.created", held["id"])
        price = 0 if trial or anchor else self.price_of(held["_items"])
        invoice = self.bill(held, "subscription_create", price, paid=None)
        session["payment_status"] = "paid" if price else "no_payment_required"
        if invoice["status"] == "open":
            session["payment_status"] = "unpaid"
            held["status"] = "incomplete"

    def _sell(self, session: dict[str, Any], method: dict[str, Any]) -> None:
        given = session["_given"]
        (price,) = session["_prices"]
        taxes = self.taxes(price["unit_amount"]) if "automatic_tax" in given else []
        intent = self.intent(
            session["customer"],
            price["unit_amount"] + sum(tax["amount"] for tax in taxes),
            price["currency"],
            metadata=given["payment_intent_data"]["metadata"],
        )
        session["payment_intent"] = intent["id"]
        self._charge(intent, method["_card"], declined=False)
        if intent["status"] == "succeeded":
            self._sold(session, intent)

    def _sold(self, session: dict[str, Any], intent: dict[str, Any]) -> None:
        given = session["_given"]
        session["payment_status"] = "paid"
        if "invoice_creation" not in given:
            return
        invoice = self.invoice(
            session["customer"],
            intent["currency"],
            "manual",
            metadata=given["invoice_creation"]["invoice_data"]["metadata"],
            taxed="automatic_tax" in given,
        )
        invoice["_intent"] = intent["id"]
        self.finalize(invoice, session["_prices"][0]["unit_amount"])
        self._paid(invoice)
        session["invoice"] = invoice["id"]

    def _hosted_page(self, session: dict[str, Any], request: Request) -> Page:
        said = ""
        if request.method == "POST":
            card = dict(parse_qsl(request.body.decode())).get("card", "")
            said = self.pay(session["id"], card)
            if not said:
                return Page(location=session["success_url"])
        return _page(said, tuple(_BUTTONS), session["cancel_url"])

    def _portal_page(self, portal: dict[str, Any], request: Request) -> Page:
        """A card is chosen, and what is open is paid with it."""
        if request.method == "POST":
            card = dict(parse_qsl(request.body.decode())).get("card", "")
            method = self.use_card(portal["customer"], card)
            for held in self.all_of("subscription", customer=portal["customer"]):
                invoice = self.objects[held["latest_invoice"]]
                if invoice["status"] == "open" and not self.attempt(invoice, method):
                    held["status"] = "active"
                    self.tell("customer.subscription.updated", held["id"])
            return Page(location=portal["return_url"])
        return _page("", ("success", "decline_later"), portal["return_url"])

    def _control(self, deed: str, given: dict[str, str]) -> Any:
        if deed == "close_dispute":
            self.close_dispute(given["dispute"], won=given["won"] == "true")
            return {}
        deeds = {
            "dispute": (self.dispute, "payment"),
            "renew": (self.renew, "subscription"),
            "recover": (self.recover, "subscription"),
            "pause": (self.pause, "subscription"),
            "unpause": (self.unpause, "subscription"),
            "expire": (self.expire, "session"),
        }
        if deed == "use_card":
            return {"id": self.use_card(given["customer"], given["card"])}
        if deed not in deeds:
            raise Refused(404, f"Unknown deed: {deed}")
        act, name = deeds[deed]
        return {"id": act(given[name])}


def _page(said: str, cards: tuple[str, ...], back: str) -> Page:
    buttons = "".join(f'<button name="card" value="{c}">{_BUTTONS[c]}</button>' for c in cards)
    return Page(
        f"<!doctype html><title>Stripe’s double</title><p>{html.escape(said)}</p>"
        f'<form method="post">{buttons}</form><a href="{html.escape(back)}">Back</a>'
    )
