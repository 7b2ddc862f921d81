"""Charges of ours at Stripe: an invoice of its own for each, paid by what pays the subscription.

Made, filled, finalized and paid one after the other; each step is skipped where it has been done,
so that whoever is killed in between goes on with the same invoice. It is found by our id among
the customer's, for Stripe forgets idempotency keys after a day.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import stripe
from django.conf import settings
from stripe.params import InvoiceCreateParams, InvoiceItemCreateParams, InvoicePayParams

from billing.providers import ChargeOrder, Declined, PaymentState, ProviderUnavailable
from billing.providers.stripe import amounts, payments, shapes, subscriptions
from billing.providers.stripe.client import asking

# The place of a line among its charge's, in the metadata of its invoice item.
_LINE = "keystile_line"


def charge(order: ChargeOrder) -> PaymentState:
    """Raises `Declined` where Stripe won't write the invoice: a customer that was deleted there, an
    address that is needed for the tax.
    """
    with asking() as client:
        invoice = _found(client, order) or _made(client, order)
        if invoice.get("status") == "draft":
            _fill(client, order, invoice["id"])
            invoice = _finalized(client, invoice["id"])
        refusal = ""
        if invoice.get("status") == "open" and not _on_its_way(client, invoice):
            refusal = _pay(client, order, invoice["id"])
            invoice = _read(client, invoice["id"])
        state = payments.of_invoice(client, invoice, payments.intent_of(client, invoice), {})
    if state is None:
        raise ProviderUnavailable("Stripe's invoice of a charge asks for nothing.")
    if refusal and state.status != "paid":
        return replace(state, status="failed", failure=refusal[:200])
    return state


def _found(client: stripe.StripeClient, order: ChargeOrder) -> dict[str, Any] | None:
    listed = client.v1.invoices.list(
        {"customer": order.customer_id, "limit": 100, "expand": ["data.payments"]}
    )
    for one in listed.auto_paging_iter():
        invoice = dict(one.to_dict())
        if shapes.text(shapes.part(invoice, "metadata"), payments.CHARGE) == order.reference:
            return invoice
    return None


def _made(client: stripe.StripeClient, order: ChargeOrder) -> dict[str, Any]:
    """A draft that Stripe leaves alone: it is neither finalized nor tried again by itself."""
    params: InvoiceCreateParams = {
        "customer": order.customer_id,
        "currency": order.currency.lower(),
        "description": order.description,
        "metadata": {payments.CHARGE: order.reference},
        "collection_method": "charge_automatically",
        "auto_advance": False,
        "pending_invoice_items_behavior": "exclude",
    }
    if settings.STRIPE_TAX == "automatic":
        params["automatic_tax"] = {"enabled": True}
    elif settings.STRIPE_TAX == "managed":
        params["subscription"] = order.subscription_id
    try:
        made = client.v1.invoices.create(params, {"idempotency_key": f"charge/{order.reference}"})
    except stripe.InvalidRequestError as error:
        raise Declined(error.user_message or "Stripe writes no invoice.") from error
    return dict(made.to_dict())


def _fill(client: stripe.StripeClient, order: ChargeOrder, invoice_id: str) -> None:
    listed = client.v1.invoice_items.list({"invoice": invoice_id, "limit": 100})
    there = {
        shapes.text(shapes.part(one.to_dict(), "metadata"), _LINE)
        for one in listed.auto_paging_iter()
    }
    for number, line in enumerate(order.lines):
        if str(number) in there:
            continue
        params: InvoiceItemCreateParams = {
            "customer": order.customer_id,
            "invoice": invoice_id,
            "amount": amounts.stripes(line.amount_minor, order.currency),
            "currency": order.currency.lower(),
            "description": line.text,
            "metadata": {_LINE: str(number)},
        }
        if settings.STRIPE_TAX_CODE:
            params["tax_code"] = settings.STRIPE_TAX_CODE
        if settings.STRIPE_TAX == "automatic":
            params["tax_behavior"] = "exclusive"
        key = f"charge/{order.reference}/{number}"
        client.v1.invoice_items.create(params, {"idempotency_key": key})


def _finalized(client: stripe.StripeClient, invoice_id: str) -> dict[str, Any]:
    """Asked under a key of its own each time: what was refused once may hold later."""
    try:
        client.v1.invoices.finalize_invoice(invoice_id, {"auto_advance": False})
    except stripe.InvalidRequestError as error:
        invoice = _read(client, invoice_id)
        if invoice.get("status") == "draft":
            raise Declined(error.user_message or "Stripe can't finalize the invoice.") from error
        return invoice  # by somebody else, meanwhile
    return _read(client, invoice_id)


def _pay(client: stripe.StripeClient, order: ChargeOrder, invoice_id: str) -> str:
    """Tries once; what Stripe says against it. An invoice is paid once, however often it is tried.

    Checkout leaves the way to pay at the subscription, where an invoice of its own doesn't look.
    """
    params: InvoicePayParams = {"off_session": True}
    if order.subscription_id:
        held = subscriptions.retrieve(client, order.subscription_id)
        if method := shapes.id_of(subscriptions.method(held)):
            params["payment_method"] = method
    try:
        client.v1.invoices.pay(invoice_id, params)
    except (stripe.CardError, stripe.InvalidRequestError) as error:
        return error.user_message or "The payment failed."
    return ""


def _on_its_way(client: stripe.StripeClient, invoice: dict[str, Any]) -> bool:
    return payments.intent_of(client, invoice).get("status") == "processing"


def _read(client: stripe.StripeClient, invoice_id: str) -> dict[str, Any]:
    found = client.v1.invoices.retrieve(invoice_id, {"expand": ["payments"]})
    return dict(found.to_dict())
