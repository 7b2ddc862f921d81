"""Payments at Stripe: read in our words, and paid back.

A payment is known by its PaymentIntent, which stays the same from the first attempt on; by its
charge or its invoice where there is none, such as below the least that Stripe charges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import stripe
from stripe.params import RefundCreateParams, RefundListParams

from billing.providers import Declined, PaymentState, ProviderUnavailable
from billing.providers.stripe import amounts, shapes
from billing.providers.stripe.client import asking

# Our ids in Stripe's metadata: of a charge on its invoice, of a top-up on what pays for it, of a
# refund.
CHARGE = "keystile_charge"
SALE = "keystile_sale"
REFUND = "keystile_refund"

# Invoices that are looked at, and intents, so that those of the invoices are among them.
_LATEST, _INTENTS = 20, 100

_Kind = Literal["subscription", "change", "charge", "sale"]
_Status = Literal["pending", "paid", "failed"]
_Dispute = Literal["", "open", "won", "lost"]
# An inquiry (`warning_…`) that was closed, or a dispute that was prevented, took no money.
_DISPUTES: dict[str, _Dispute] = {
    "won": "won",
    "lost": "lost",
    "warning_closed": "won",
    "prevented": "won",
}


def of_subscription(
    client: stripe.StripeClient, customer_id: str, subscription_id: str
) -> tuple[PaymentState, ...]:
    """The latest of a subscription, and its customer's charges and sales of ours.

    An invoice whose attempt to pay lies too far back to be looked at is left out.
    """
    invoices = client.v1.invoices.list(
        {"customer": customer_id, "limit": _LATEST, "expand": ["data.payments"]}
    ).to_dict()
    listed = client.v1.payment_intents.list(
        {"customer": customer_id, "limit": _INTENTS, "expand": ["data.latest_charge"]}
    ).to_dict()
    intents = {shapes.id_of(one): one for one in shapes.entries(listed, "data")}
    rates: dict[str, str] = {}
    found = []
    for invoice in shapes.entries(invoices, "data"):
        kind, _ = _purpose(invoice, subscription_id)
        intent_id = _intent_of(invoice)
        if kind and (not intent_id or intent_id in intents):
            intent = intents.pop(intent_id, {})
            payment = of_invoice(client, invoice, intent, rates, subscription_id)
            found += [payment] if payment else []
    # Sales that Stripe wrote no invoice for.
    found += [
        _of_intent(client, intent)
        for intent in intents.values()
        if shapes.text(shapes.part(intent, "metadata"), SALE)
    ]
    return tuple(found)


def of_invoice(
    client: stripe.StripeClient,
    invoice: dict[str, Any],
    intent: dict[str, Any],
    rates: dict[str, str],
    subscription_id: str = "",
) -> PaymentState | None:
    """None for a draft and for what costs nothing. `rates`: names of tax rates, asked for once."""
    currency = shapes.text(invoice, "currency").upper()
    kind, reference = _purpose(invoice, subscription_id)
    total = shapes.whole(invoice, "total")
    if kind is None or total <= 0 or invoice.get("status") == "draft":
        return None
    charge = _charge_of(intent)
    taxes = _taxes(client, invoice, rates)
    moves = shapes.part(invoice, "status_transitions")
    at = moves.get("paid_at") or moves.get("finalized_at") or invoice["created"]
    return PaymentState(
        id=shapes.id_of(intent) or _charge_without_intent(invoice) or shapes.id_of(invoice),
        kind=kind,
        status=_invoice_status(invoice, intent),
        amount_minor=amounts.ours(total, currency),
        currency=currency,
        at=shapes.moment(at),
        reference=reference,
        tax_minor=amounts.ours(sum(amount for _, amount in taxes), currency),
        refunded_minor=amounts.ours(shapes.whole(charge, "amount_refunded"), currency),
        dispute=_dispute(client, charge),
        failure=_failure(intent) if invoice.get("status") != "paid" else "",
        number=shapes.text(invoice, "number"),
        page_url=shapes.text(invoice, "hosted_invoice_url"),
        pdf_url=shapes.text(invoice, "invoice_pdf"),
        tax_lines=tuple((text, amounts.ours(amount, currency)) for text, amount in taxes),
        buyer=_buyer(invoice),
    )


def of_sale(client: stripe.StripeClient, session: dict[str, Any]) -> PaymentState:
    """Of a completed session in mode `payment`, with its intent and its invoice expanded."""
    intent, invoice = shapes.part(session, "payment_intent"), shapes.part(session, "invoice")
    if not intent:
        raise ProviderUnavailable("Stripe's completed session has no payment.")
    if shapes.text(shapes.part(invoice, "metadata"), SALE):
        payment = of_invoice(client, invoice, intent, {})
        if payment is not None:
            return payment
    return _of_intent(client, intent)


def intent_of(client: stripe.StripeClient, invoice: dict[str, Any]) -> dict[str, Any]:
    """What pays an invoice, or tries to; empty where nothing has tried."""
    intent_id = _intent_of(invoice)
    if not intent_id:
        return {}
    expand = ["latest_charge"]
    return dict(client.v1.payment_intents.retrieve(intent_id, {"expand": expand}).to_dict())


def refund(payment_id: str, amount_minor: int, currency: str, reference: str) -> None:
    """Looked for by our id before it is asked for: Stripe forgets idempotency keys."""
    with asking() as client:
        name, value = _refundable(payment_id)
        listing: RefundListParams = {"limit": 100}
        params: RefundCreateParams = {
            "amount": amounts.stripes(amount_minor, currency),
            "metadata": {REFUND: reference},
        }
        if name == "payment_intent":
            listing["payment_intent"] = params["payment_intent"] = value
        else:
            listing["charge"] = params["charge"] = value
        for made in client.v1.refunds.list(listing).auto_paging_iter():
            if shapes.text(shapes.part(made.to_dict(), "metadata"), REFUND) == reference:
                break
        else:
            try:
                made = client.v1.refunds.create(params, {"idempotency_key": f"refund/{reference}"})
            except stripe.InvalidRequestError as error:
                raise Declined(error.user_message or "Stripe refuses the refund.") from error
        if made.status in ("failed", "canceled"):
            raise Declined(f"Stripe's refund is {made.status}.")


def _refundable(payment_id: str) -> tuple[str, str]:
    """The name and value of the parameter that says what is paid back."""
    if payment_id.startswith("pi_"):
        return "payment_intent", payment_id
    if payment_id.startswith("in_"):
        raise Declined("Stripe took no money for this invoice: it was settled in another way.")
    return "charge", payment_id


def _purpose(invoice: dict[str, Any], subscription_id: str) -> tuple[_Kind | None, str]:
    """What an invoice is for, and our reference; None: it is no matter of ours."""
    metadata = shapes.part(invoice, "metadata")
    if reference := shapes.text(metadata, CHARGE):
        return "charge", reference
    if reference := shapes.text(metadata, SALE):
        return "sale", reference
    details = shapes.part(invoice, "parent", "subscription_details")
    of = shapes.id_of(details.get("subscription") or invoice.get("subscription"))
    if not of or of != subscription_id:
        return None, ""
    changed = invoice.get("billing_reason") == "subscription_update"
    return ("change" if changed else "subscription"), ""


def _intent_of(invoice: dict[str, Any]) -> str:
    """The intent that paid, else that of the last attempt."""
    tried = shapes.entries(invoice, "payments")
    tried.sort(key=lambda one: one.get("status") == "paid", reverse=True)
    for one in tried:
        if intent := shapes.id_of(shapes.part(one, "payment").get("payment_intent")):
            return intent
    return shapes.id_of(invoice.get("payment_intent"))  # until 2025-03-31 (basil)


def _charge_without_intent(invoice: dict[str, Any]) -> str:
    for one in shapes.entries(invoice, "payments"):
        if charge := shapes.id_of(shapes.part(one, "payment").get("charge")):
            return charge
    return shapes.id_of(invoice.get("charge"))


def _charge_of(intent: dict[str, Any]) -> dict[str, Any]:
    latest = shapes.part(intent, "latest_charge")
    return latest or next(iter(shapes.entries(intent, "charges")), {})


def _invoice_status(invoice: dict[str, Any], intent: dict[str, Any]) -> _Status:
    status = invoice.get("status")
    if status == "paid":
        return "paid"
    if status in ("void", "uncollectible"):
        return "failed"
    return "pending" if _intent_status(intent) == "paid" else _intent_status(intent)


def _intent_status(intent: dict[str, Any]) -> _Status:
    """One that has failed waits for another way to pay."""
    status = intent.get("status")
    if status == "succeeded":
        return "paid"
    if status == "canceled" or shapes.part(intent, "last_payment_error"):
        return "pending" if status == "processing" else "failed"
    return "failed" if status == "requires_action" else "pending"


def _failure(intent: dict[str, Any]) -> str:
    if intent.get("status") == "requires_action":
        return "The bank asks the customer to confirm the payment."
    return shapes.text(shapes.part(intent, "last_payment_error"), "message")[:200]


def _of_intent(client: stripe.StripeClient, intent: dict[str, Any]) -> PaymentState:
    """A sale without an invoice."""
    charge = _charge_of(intent)
    currency = shapes.text(intent, "currency").upper()
    return PaymentState(
        id=shapes.id_of(intent),
        kind="sale",
        status=_intent_status(intent),
        amount_minor=amounts.ours(intent["amount"], currency),
        currency=currency,
        at=shapes.moment(intent["created"]),
        reference=shapes.text(shapes.part(intent, "metadata"), SALE),
        refunded_minor=amounts.ours(shapes.whole(charge, "amount_refunded"), currency),
        dispute=_dispute(client, charge),
        failure=_failure(intent),
        page_url=shapes.text(charge, "receipt_url"),
    )


def _dispute(client: stripe.StripeClient, charge: dict[str, Any]) -> _Dispute:
    if not charge.get("disputed"):
        return ""
    listed = client.v1.disputes.list({"charge": shapes.id_of(charge), "limit": 1}).to_dict()
    latest = next(iter(shapes.entries(listed, "data")), {})
    return _DISPUTES.get(shapes.text(latest, "status"), "open")


def _taxes(
    client: stripe.StripeClient, invoice: dict[str, Any], rates: dict[str, str]
) -> list[tuple[str, int]]:
    found = []
    for tax in shapes.entries(invoice, "total_taxes") or shapes.entries(
        invoice, "total_tax_amounts"
    ):
        rate = tax.get("tax_rate") or shapes.part(tax, "tax_rate_details").get("tax_rate")
        rate_id = shapes.id_of(rate)
        if rate_id and rate_id not in rates:
            rates[rate_id] = _rate_text(client.v1.tax_rates.retrieve(rate_id).to_dict())
        if amount := shapes.whole(tax, "amount"):
            found.append((rates.get(rate_id, "Tax"), amount))
    return found


def _rate_text(rate: dict[str, Any]) -> str:
    """“VAT 19 % (DE)”"""
    name = shapes.text(rate, "display_name") or "Tax"
    percentage = rate.get("percentage")
    share = f" {percentage:g} %" if isinstance(percentage, int | float) else ""
    place = shapes.text(rate, "jurisdiction") or shapes.text(rate, "country")
    return f"{name}{share}" + (f" ({place})" if place else "")


def _buyer(invoice: dict[str, Any]) -> Mapping[str, Any]:
    address = shapes.part(invoice, "customer_address")
    town = (shapes.text(address, name) for name in ("postal_code", "city", "state"))
    lines = [
        shapes.text(address, "line1"),
        shapes.text(address, "line2"),
        " ".join(filter(None, town)),
        shapes.text(address, "country"),
    ]
    tax_ids = (shapes.text(one, "value") for one in shapes.entries(invoice, "customer_tax_ids"))
    buyer = {
        "name": shapes.text(invoice, "customer_name"),
        "address": list(filter(None, lines)),
        "tax_id": ", ".join(filter(None, tax_ids)),
    }
    return {name: value for name, value in buyer.items() if value}
