"""Invoices at Stripe's double and what pays them: cards, intents, charges, refunds, disputes."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

from stripe.params import (
    DisputeListParams,
    InvoiceCreateParams,
    InvoiceFinalizeInvoiceParams,
    InvoiceItemCreateParams,
    InvoiceItemListParams,
    InvoiceListParams,
    InvoicePayParams,
    InvoiceRetrieveParams,
    PaymentIntentListParams,
    PaymentIntentRetrieveParams,
    RefundCreateParams,
    RefundListParams,
    TaxRateRetrieveParams,
)

from tests.doubles.server import Refused
from tests.doubles.stripe_world import StripeWorld, expansions, own_left_out

DECLINED = "Your card was declined."
# What buyers may pay with: brand, last digits.
CARDS = {
    "success": ("visa", "4242"),
    "decline": ("visa", "0002"),
    "decline_later": ("visa", "0341"),  # is taken at first, and declined when charged afterwards
    "later": ("visa", "3038"),  # its money is on its way for a while
}


@dataclass
class StripeInvoices(StripeWorld):
    """tax_percent: what Stripe Tax adds where it is on"""

    ROUTES: ClassVar = [
        ("GET", r"/v1/invoices", InvoiceListParams, "_list_invoices"),
        ("POST", r"/v1/invoices", InvoiceCreateParams, "_create_invoice"),
        ("GET", r"/v1/invoices/(in_\w+)", InvoiceRetrieveParams, "_retrieve"),
        (
            "POST",
            r"/v1/invoices/(in_\w+)/finalize",
            InvoiceFinalizeInvoiceParams,
            "_finalize_invoice",
        ),
        ("POST", r"/v1/invoices/(in_\w+)/pay", InvoicePayParams, "_pay_invoice"),
        ("GET", r"/v1/invoiceitems", InvoiceItemListParams, "_list_items"),
        ("POST", r"/v1/invoiceitems", InvoiceItemCreateParams, "_create_item"),
        ("GET", r"/v1/payment_intents", PaymentIntentListParams, "_list_intents"),
        ("GET", r"/v1/payment_intents/(pi_\w+)", PaymentIntentRetrieveParams, "_retrieve"),
        ("GET", r"/v1/refunds", RefundListParams, "_list_refunds"),
        ("POST", r"/v1/refunds", RefundCreateParams, "_create_refund"),
        ("GET", r"/v1/disputes", DisputeListParams, "_list_disputes"),
        ("GET", r"/v1/tax_rates/(txr_\w+)", TaxRateRetrieveParams, "_retrieve"),
    ]

    tax_percent: int = 0

    # ---------------------------------------------------------------- the world

    def use_card(self, customer_id: str, card: str) -> str:
        """The customer pays with another card from now on; its id."""
        brand, last4 = CARDS[card]
        method = self.new(
            "pm",
            "payment_method",
            type="card",
            card={"brand": brand, "display_brand": brand, "last4": last4},
            customer=customer_id,
            _card=card,
        )
        self.objects[customer_id]["invoice_settings"] = {"default_payment_method": method["id"]}
        for held in self.all_of("subscription", customer=customer_id):
            if held["status"] not in ("canceled", "incomplete_expired"):
                held["default_payment_method"] = method["id"]
                self.tell("customer.subscription.updated", held["id"])
        self.tell("payment_method.attached", method["id"])
        self.tell("customer.updated", customer_id)
        return str(method["id"])

    def dispute(self, intent_id: str) -> str:
        """The buyer's bank takes the money back for now; the dispute's id."""
        charge = self.objects[self.objects[intent_id]["latest_charge"]]
        charge["disputed"] = True
        made = self.new(
            "du",
            "dispute",
            charge=charge["id"],
            payment_intent=intent_id,
            amount=charge["amount"],
            currency=charge["currency"],
            reason="fraudulent",
            status="needs_response",
            metadata={},
        )
        self.tell("charge.dispute.created", made["id"])
        return str(made["id"])

    def close_dispute(self, dispute_id: str, *, won: bool) -> None:
        self.objects[dispute_id]["status"] = "won" if won else "lost"
        self.tell("charge.dispute.closed", dispute_id)

    # ---------------------------------------------------------------- the API

    def _retrieve(self, given: dict[str, Any], object_id: str) -> Any:
        return self.shown(self.known(object_id)["id"], expansions(given))

    def _list_invoices(self, given: dict[str, Any]) -> Any:
        return self.page(self.all_of("invoice", customer=given["customer"]), given)

    def _list_intents(self, given: dict[str, Any]) -> Any:
        return self.page(self.all_of("payment_intent", customer=given["customer"]), given)

    def _list_disputes(self, given: dict[str, Any]) -> Any:
        return self.page(self.all_of("dispute", charge=given["charge"]), given)

    def _list_items(self, given: dict[str, Any]) -> Any:
        return self.page(self.all_of("invoiceitem", invoice=given["invoice"]), given)

    def _list_refunds(self, given: dict[str, Any]) -> Any:
        return self.page(self.all_of("refund", payment_intent=given["payment_intent"]), given)

    def _create_invoice(self, given: dict[str, Any]) -> Any:
        customer = self.known(given["customer"])
        if customer.get("deleted"):
            raise Refused(400, f"No such customer: '{customer['id']}'", code="resource_missing")
        invoice = self.invoice(
            customer["id"],
            given["currency"],
            "manual",
            metadata=given["metadata"],
            description=given["description"],
            auto_advance=given["auto_advance"] == "true",
            taxed="automatic_tax" in given,
        )
        return self.shown(invoice["id"])

    def _create_item(self, given: dict[str, Any]) -> Any:
        invoice = self.known(given["invoice"])
        self.demand(invoice["status"] == "draft", "an item for an invoice that is no draft")
        self.demand(invoice["currency"] == given["currency"], "an item in another currency")
        self.demand(invoice["customer"] == given["customer"], "an item of another customer")
        item = self.new(
            "ii",
            "invoiceitem",
            invoice=invoice["id"],
            customer=given["customer"],
            amount=int(given["amount"]),
            currency=given["currency"],
            description=given["description"],
            metadata=given["metadata"],
        )
        return self.shown(item["id"])

    def _finalize_invoice(self, given: dict[str, Any], invoice_id: str) -> Any:
        invoice = self.known(invoice_id)
        self.demand(given == {"auto_advance": "false"}, "an invoice that pays itself later")
        if invoice["status"] != "draft":
            raise Refused(400, "This invoice is already finalized.")
        items = self.all_of("invoiceitem", invoice=invoice_id)
        self.finalize(invoice, sum(item["amount"] for item in items))
        return self.shown(invoice_id)

    def _pay_invoice(self, given: dict[str, Any], invoice_id: str) -> Any:
        invoice = self.known(invoice_id)
        if invoice["status"] != "open":
            raise Refused(400, f"Invoice is {invoice['status']}.")
        customer = self.objects[invoice["customer"]]
        default = customer["invoice_settings"]["default_payment_method"]
        if said := self.attempt(invoice, given.get("payment_method") or default):
            self.tell("invoice.payment_failed", invoice_id)
            raise said
        return self.shown(invoice_id)

    def _create_refund(self, given: dict[str, Any]) -> Any:
        intent = self.known(given["payment_intent"])
        charge = self.objects[intent["latest_charge"]]
        left = charge["amount"] - charge["amount_refunded"]
        if not left:
            raise Refused(400, "Charge has been refunded.", code="charge_already_refunded")
        if charge["disputed"]:
            raise Refused(400, "Charge has been charged back.", code="charge_disputed")
        amount = int(given.get("amount", left))
        if amount > left:
            raise Refused(400, f"Refund amount ({amount}) is greater than what is left ({left}).")
        charge["amount_refunded"] += amount
        charge["refunded"] = amount == left
        refund = self.new(
            "re",
            "refund",
            status="succeeded",
            amount=amount,
            currency=charge["currency"],
            payment_intent=intent["id"],
            charge=charge["id"],
            metadata=given.get("metadata", {}),
        )
        self.tell("refund.created", refund["id"])
        self.tell("charge.refunded", charge["id"])
        return self.shown(refund["id"])

    # ---------------------------------------------------------------- how it does that

    def invoice(
        self,
        customer_id: str,
        currency: str,
        reason: str,
        *,
        metadata: dict[str, str] | None = None,
        subscription_id: str = "",
        taxed: bool = False,
        **content: Any,
    ) -> dict[str, Any]:
        """A draft that bills nothing yet."""
        customer = self.objects[customer_id]
        return self.new(
            "in",
            "invoice",
            status="draft",
            customer=customer_id,
            currency=currency,
            billing_reason=reason,
            metadata=metadata or {},
            collection_method="charge_automatically",
            customer_name=customer["name"],
            customer_email=customer["email"],
            customer_address=customer["address"],
            customer_tax_ids=customer["_tax_ids"],
            number=None,
            hosted_invoice_url=None,
            invoice_pdf=None,
            amount_paid=0,
            total=0,
            amount_due=0,
            status_transitions={"finalized_at": None, "paid_at": None},
            _subscription=subscription_id,
            _intent=None,
            _taxed=taxed,
            **content,
        )

    def finalize(self, invoice: dict[str, Any], subtotal: int) -> None:
        """Its amount is what it is from now on; the customer's balance pays first."""
        taxes = self.taxes(subtotal) if invoice["_taxed"] else []
        total = subtotal + sum(tax["amount"] for tax in taxes)
        customer = self.objects[invoice["customer"]]
        from_balance = min(customer["_balance"], total)
        customer["_balance"] -= from_balance
        invoice |= {
            "status": "open",
            "subtotal": subtotal,
            "total": total,
            "total_taxes": taxes,
            "amount_due": max(0, total - from_balance),
            "number": f"D-{invoice['id'][-6:]}",
            "hosted_invoice_url": f"{self.url}/invoice/{invoice['id']}",
            "invoice_pdf": f"{self.url}/invoice/{invoice['id']}/pdf",
        }
        invoice["status_transitions"]["finalized_at"] = self.seconds()
        if invoice["amount_due"] == 0:
            self._paid(invoice)

    def attempt(
        self, invoice: dict[str, Any], method_id: str | None, *, first: bool = False
    ) -> Refused | None:
        """Charges an open invoice; why it was refused, or None. `first`: the buyer is there."""
        if not method_id:
            said = "There is no default payment method for this invoice."
            return Refused(400, said, code="invoice_payment_intent_requires_action")
        card = self.objects[method_id]["_card"]
        intent = self.objects.get(invoice["_intent"] or "") or self._intent_for(invoice)
        declined = card == "decline" or (card == "decline_later" and not first)
        self._charge(intent, card, declined=declined)
        if intent["status"] == "requires_payment_method":
            return Refused(402, DECLINED, type="card_error", code="card_declined")
        if intent["status"] == "succeeded":
            self._paid(invoice)
        return None

    def arrive(self, intent: dict[str, Any]) -> None:
        """The money that was on its way is there."""
        self._charge(intent, "success", declined=False)

    def fail(self, intent: dict[str, Any]) -> None:
        self._charge(intent, "decline", declined=True)

    def intent(
        self, customer_id: str, amount: int, currency: str, **content: Any
    ) -> dict[str, Any]:
        return self.new(
            "pi",
            "payment_intent",
            **{"metadata": {}} | content,
            customer=customer_id,
            amount=amount,
            currency=currency,
            status="requires_payment_method",
            last_payment_error=None,
            latest_charge=None,
        )

    def taxes(self, subtotal: int) -> list[dict[str, Any]]:
        if not self.tax_percent:
            return []
        name = f"txr_{self.tax_percent}"
        self.objects.setdefault(
            name,
            {
                "id": name,
                "object": "tax_rate",
                "display_name": "VAT",
                "percentage": float(self.tax_percent),
                "country": "DE",
                "jurisdiction": "DE",
                "inclusive": False,
            },
        )
        amount = round(subtotal * self.tax_percent / 100)
        details = {"type": "tax_rate_details", "tax_rate_details": {"tax_rate": name}}
        return [{"amount": amount, "tax_behavior": "exclusive"} | details]

    def as_shown(self, object_id: str, wanted: set[str]) -> dict[str, Any]:
        held = deepcopy(self.objects[object_id])
        if held["object"] == "invoice":
            self._show_payments(held, "payments" in wanted)
            return own_left_out(held)
        return super().as_shown(object_id, wanted)

    def _intent_for(self, invoice: dict[str, Any]) -> dict[str, Any]:
        intent = self.intent(invoice["customer"], invoice["amount_due"], invoice["currency"])
        invoice["_intent"] = intent["id"]
        return intent

    def _charge(self, intent: dict[str, Any], card: str, *, declined: bool) -> None:
        if card == "later":
            intent["status"] = "processing"
            return
        charge = self.new(
            "ch",
            "charge",
            amount=intent["amount"],
            amount_refunded=0,
            refunded=False,
            disputed=False,
            currency=intent["currency"],
            customer=intent["customer"],
            payment_intent=intent["id"],
            metadata=intent["metadata"],
            status="failed" if declined else "succeeded",
            receipt_url=f"{self.url}/receipt/{intent['id']}",
        )
        error = {"type": "card_error", "code": "card_declined", "message": DECLINED}
        intent |= {
            "status": "requires_payment_method" if declined else "succeeded",
            "last_payment_error": error if declined else None,
            "latest_charge": charge["id"],
        }
        event = "payment_intent.payment_failed" if declined else "payment_intent.succeeded"
        self.tell(event, intent["id"])

    def _paid(self, invoice: dict[str, Any]) -> None:
        invoice |= {"status": "paid", "amount_paid": invoice["amount_due"]}
        invoice["status_transitions"]["paid_at"] = self.seconds()
        self.tell("invoice.paid", invoice["id"])

    def _show_payments(self, held: dict[str, Any], wanted: bool) -> None:
        subscription, intent = held["_subscription"], held["_intent"]
        metadata = self.objects[subscription]["metadata"] if subscription else {}
        if self.older:
            held |= {"subscription": subscription or None, "payment_intent": intent}
            held["subscription_details"] = {"metadata": metadata} if subscription else None
            held["total_tax_amounts"] = [
                {"amount": tax["amount"], "inclusive": False}
                | {"tax_rate": tax["tax_rate_details"]["tax_rate"]}
                for tax in held.pop("total_taxes", [])
            ]
            return
        details = {"subscription": subscription, "metadata": metadata}
        parent = {"type": "subscription_details", "subscription_details": details}
        held["parent"] = parent if subscription else None
        if wanted:
            status = "paid" if held["status"] == "paid" else "open"
            payment = {"type": "payment_intent", "payment_intent": intent}
            entry = {"object": "invoice_payment", "status": status, "payment": payment}
            held["payments"] = {"object": "list", "data": [entry] if intent else []}
