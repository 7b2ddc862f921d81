"""Money at Dodo Payments' double: payments, what was bought with them, refunds, disputes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dodopayments.types import (
    Payment,
    PaymentListParams,
    PaymentListResponse,
    PaymentRetrieveLineItemsResponse,
    Refund,
    RefundCreateParams,
)

from tests.doubles.dodo_books import DodoBooks, Row
from tests.doubles.server import Refused

ADDRESS = {"country": "US", "city": "New York", "state": "NY", "street": "1 Main St"}


@dataclass
class DodoMoney(DodoBooks):
    """declining, delaying: customers whose saved card is declined, or takes its time

    refund_status: of refunds to come
    """

    tax_percent: int = 0
    refund_status: str = "succeeded"
    declining: set[str] = field(default_factory=set)
    delaying: set[str] = field(default_factory=set)
    lines: dict[str, list[Row]] = field(default_factory=dict)

    def dispute(self, payment_id: str, status: str = "opened") -> None:
        """A buyer goes to their bank; or what becomes of that."""
        payment = self.payments[payment_id]
        row = payment["disputes"][0] if payment["disputes"] else None
        if row is None:
            row = {
                "amount": str(payment["total_amount"]),
                "business_id": "bus_1",
                "created_at": self._now(),
                "currency": payment["currency"],
                "dispute_id": self._id("dp"),
                "dispute_stage": "dispute",
                "payment_id": payment_id,
            }
            payment["disputes"].append(row)
        row["dispute_status"] = f"dispute_{status}"
        payment["dispute_status"] = row["dispute_status"]
        about = {"customer": payment["customer"], "brand_id": "bus_1", "payment_provider": "dodo"}
        self.disputes[row["dispute_id"]] = row | about
        self._tell(f"dispute.{status}", row["dispute_id"])

    def _saved_card(self, customer_id: str) -> str:
        """What becomes of a payment by it."""
        if customer_id in self.declining:
            return "failed"
        return "processing" if customer_id in self.delaying else "succeeded"

    def _pay(
        self,
        customer: Row,
        items: Sequence[tuple[str, int]],
        currency: str,
        status: str,
        *,
        metadata: Row,
        charge_type: str | None = None,
        subscription_id: str | None = None,
        session_id: str | None = None,
        usage_minor: int = 0,
    ) -> Row:
        """A payment of (item, minor units), and the tax on them; tells nobody."""
        lines = [
            {
                "items_id": item,
                "amount": amount,
                "tax": amount * self.tax_percent // 100,
                "refundable_amount": amount + amount * self.tax_percent // 100,
            }
            for item, amount in items
        ]
        total = max(0, sum(line["refundable_amount"] for line in lines) + usage_minor)
        failed = status == "failed"
        made = {
            "payment_id": self._id("pay"),
            "status": status,
            "subscription_id": subscription_id,
            "subscription_ids": [subscription_id] if subscription_id else [],
            "checkout_session_id": session_id,
            "charge_type": charge_type,
            "customer": customer,
            "metadata": metadata,
            "created_at": self._now(),
            "currency": currency,
            "total_amount": total,
            "tax": sum(line["tax"] for line in lines),
            "settlement_amount": total,
            "settlement_currency": currency,
            "error_code": "CARD_DECLINED" if failed else None,
            "error_message": "Ask the customer for another card." if failed else None,
            "invoice_id": f"INV-{self.made}",
            "invoice_url": f"{self.url}/invoices/payments/{self.made}",
            "payment_method": "card",
            "payment_method_type": "visa",
            "payment_method_id": f"pm_{customer['customer_id']}",
            "card_network": "visa",
            "card_last_four": "4242",
            "refunds": [],
            "disputes": [],
            "service_periods": [],
            "billing": ADDRESS,
            "brand_id": "bus_1",
            "business_id": "bus_1",
            "payment_provider": "dodo",
            "digital_products_delivered": False,
            "has_license_key": False,
            "includes_usage": bool(usage_minor),
            "is_multi_subscription": False,
            "is_update_payment_method": False,
            "retry_attempt": 0,
        }
        self.payments[made["payment_id"]] = made
        self.lines[made["payment_id"]] = lines
        return made

    def _list_payments(self, query: dict[str, str]) -> Any:
        rows = [
            self._answer(PaymentListResponse, one)
            for one in reversed(self.payments.values())
            if query.get("subscription_id") in (None, one["subscription_id"])
            and query.get("customer_id") in (None, one["customer"]["customer_id"])
            and query.get("status") in (None, one["status"])
        ]
        return self._page_of(rows, query, PaymentListParams)

    def _line_items(self, payment_id: str, query: dict[str, str]) -> Any:
        payment = self.payments[payment_id]
        self.demand(query == {"currency": payment["currency"]}, f"line items: {query}")
        answer = {
            "currency": payment["currency"],
            "items": self.lines[payment_id],
            "partial_refund_allowed": True,
        }
        return self._answer(PaymentRetrieveLineItemsResponse, answer)

    def _refund(self, sent: bytes) -> Any:
        body = self._taken(RefundCreateParams, sent)
        payment = self.payments[body["payment_id"]]
        lines = {line["items_id"]: line for line in self.lines[payment["payment_id"]]}
        if body.get("items"):
            self.demand(body.get("currency") == payment["currency"], "amounts in what currency?")
            asked = {item["item_id"]: item["amount"] for item in body["items"]}
        else:
            asked = {name: line["refundable_amount"] for name, line in lines.items()}
        self.demand(asked.keys() <= lines.keys(), f"items: {sorted(asked)}")
        too_much = any(amount > lines[name]["refundable_amount"] for name, amount in asked.items())
        if payment["status"] != "succeeded" or too_much or not sum(asked.values()):
            raise Refused(400, "There is nothing to pay back.", code="REFUND_NOT_POSSIBLE")
        made = {
            "refund_id": self._id("ref"),
            "payment_id": payment["payment_id"],
            "status": self.refund_status,
            "is_partial": sum(asked.values()) < payment["total_amount"],
            "amount": sum(asked.values()),
            "currency": payment["currency"],
            "created_at": self._now(),
            "business_id": "bus_1",
            "brand_id": "bus_1",
            "customer": payment["customer"],
            "metadata": body.get("metadata", {}),
            "reason": body.get("reason"),
        }
        self.refunds[made["refund_id"]] = made
        unlisted = ("brand_id", "customer", "metadata")
        payment["refunds"].append({name: made[name] for name in made.keys() - set(unlisted)})
        if self.refund_status != "failed":
            for name, amount in asked.items():
                lines[name]["refundable_amount"] -= amount
            left = sum(line["refundable_amount"] for line in lines.values())
            payment["refund_status"] = "partial" if left else "full"
        self._tell(f"refund.{self.refund_status}", made["refund_id"])
        return self._answer(Refund, made)

    def _one_payment(self, payment_id: str) -> Row:
        return self._answer(Payment, self.payments[payment_id])
