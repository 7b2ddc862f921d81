"""What an invoice, a statement, a receipt and a credit note say, as pages and as PDF.

Owns their words. Rates nothing and changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from billing import money, parties
from billing.models import Charge, Invoice, Payment, Refund, TopUp
from billing.parties import Party
from billing.payments import of_invoice
from billing.terms import NO_PROVIDER
from portal.templatetags.texts import day

Lines = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Paper:
    """Something that is printed.

    facts:  beside the addresses: name, value
    rows:   what it is for: text, amount
    totals: below them
    """

    title: str
    seller: Party
    buyer: Party
    facts: Lines
    rows: Lines
    totals: Lines
    notes: tuple[str, ...] = field(default=())

    @property
    def file_name(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Standing:
    """Whether an invoice is paid, in words. `tone`: of a `.tag`."""

    text: str
    tone: str = ""
    failed: bool = False


def standing(invoice: Invoice) -> Standing | None:
    """What became of the charge over an invoice; None: it has none."""
    charge: Charge | None = getattr(invoice, "charge", None)
    if charge is None:
        return None
    state = Charge.State(charge.state)
    by_transfer = charge.provider == NO_PROVIDER
    if state == Charge.State.PAID:
        return Standing(f"Paid on {day(charge.settled_at or charge.created_at)}", "ok")
    if state == Charge.State.DROPPED:
        return Standing("Waived")
    if by_transfer:
        return Standing("To be paid by transfer", "warn")
    if state == Charge.State.FAILED or charge.failed_since is not None:
        reason = f": {charge.reason}" if charge.reason else ""
        return Standing(f"Payment failed{reason}", "bad", failed=True)
    return Standing("Payment on its way")


def of_the_invoice(invoice: Invoice) -> Paper:
    """A numbered invoice of ours; or a statement, beside the invoice that a provider issues."""
    paid = of_invoice(invoice)
    facts = [
        ("Date", day(invoice.closed_at or invoice.period_end)),
        ("Period", f"{day(invoice.period_start)} to {day(invoice.period_end)}"),
    ]
    if (is_paid := standing(invoice)) is not None:
        facts.append(("Usage", is_paid.text))
    facts += [("Invoice of the provider", one.number) for one in paid if one.number]
    issued_elsewhere = next((one.buyer for one in paid if one.buyer and one.number), None)
    lines = list(invoice.lines.all())
    others = [line for line in lines if line.currency != invoice.currency]
    notes = [f"Lines in another currency than {invoice.currency} are not in the total."]
    return Paper(
        title=f"Invoice {invoice}" if invoice.number else f"{invoice}",
        seller=invoice.seller or parties.seller(),
        buyer=_buyer(issued_elsewhere, invoice.buyer),
        facts=tuple(facts),
        rows=tuple((line.text, money.text(line.amount_minor, line.currency)) for line in lines),
        totals=(
            ("Total before tax", money.text(invoice.total_minor, invoice.currency or "USD")),
            *_tax(paid),
        ),
        notes=(
            *(notes if others else ()),
            *(() if invoice.number else (_STATEMENT,)),
        ),
    )


_STATEMENT = "This is a statement of what was used. It is no invoice in the sense of tax law."


def _tax(paid: list[Payment]) -> Lines:
    """Tax as the providers computed it, on the payments that this was paid with."""
    return tuple(
        (
            f"{line['text']}, taken with it",
            money.text(line["amount_minor"], one.currency),
        )
        for one in paid
        for line in _tax_lines(one)
    )


def _tax_lines(payment: Payment) -> list[dict[str, Any]]:
    if payment.tax_lines or not payment.tax_minor:
        return list(payment.tax_lines)
    return [{"text": "Tax", "amount_minor": payment.tax_minor}]


def of_the_payment(payment: Payment) -> Paper:
    """A receipt for money that was taken."""
    currency = payment.currency
    totals = [("Before tax", money.text(payment.amount_minor - payment.tax_minor, currency))]
    totals += [
        (line["text"], money.text(line["amount_minor"], currency)) for line in _tax_lines(payment)
    ]
    totals.append(("Paid", money.text(payment.amount_minor, currency)))
    if payment.refunded_minor:
        totals.append(("Paid back since", money.text(payment.refunded_minor, currency)))
    facts = [("Date", day(payment.at)), ("Payment", payment.provider_payment_id)]
    if payment.number:
        facts.append(("Invoice of the provider", payment.number))
    return Paper(
        title=f"Receipt {day(payment.at)}",
        seller=parties.seller(),
        buyer=_buyer(payment.buyer, parties.buyer(payment.account)),
        facts=tuple(facts),
        rows=((what_for(payment), money.text(payment.amount_minor - payment.tax_minor, currency)),),
        totals=tuple(totals),
    )


def of_the_refund(refund: Refund) -> Paper:
    """A credit note; a plain word of the refund where the provider issues that."""
    payment = refund.payment
    amount = money.text(refund.amount_minor, refund.currency)
    facts = [
        ("Date", day(refund.settled_at or refund.created_at)),
        ("Of the payment of", day(payment.at)),
    ]
    if refund.invoice is not None:
        facts.append(("Of the invoice", str(refund.invoice)))
    return Paper(
        title=f"Credit note {refund}" if refund.number else f"Refund {day(refund.created_at)}",
        seller=refund.seller or parties.seller(),
        buyer=refund.buyer or parties.buyer(payment.account),
        facts=tuple(facts),
        rows=(
            (
                f"{what_for(payment)}: {refund.reason}" if refund.reason else what_for(payment),
                amount,
            ),
        ),
        totals=(("Paid back, tax included", amount),),
    )


def what_for(payment: Payment) -> str:
    """What a payment was for, as far as it says for good."""
    return what_they_are_for([payment])[payment.pk]


def what_they_are_for(payments: Iterable[Payment]) -> dict[UUID, str]:
    """Likewise of an account's payments at once, by their ids."""
    found = list(payments)
    ours = [payment.our_id for payment in found if payment.our_id is not None]
    owners = {payment.account_id for payment in found}
    charges = Charge.objects.filter(pk__in=ours, account_id__in=owners).in_bulk()
    bought = TopUp.objects.filter(pk__in=ours, account_id__in=owners).in_bulk()
    return {payment.pk: _what_for(payment, charges, bought) for payment in found}


def _what_for(payment: Payment, charges: dict[UUID, Charge], bought: dict[UUID, TopUp]) -> str:
    its_id = payment.our_id
    if payment.kind == Payment.Kind.CHARGE and its_id in charges:
        return charges[its_id].description
    if payment.kind == Payment.Kind.SALE:
        return (
            f"{bought[its_id].credits:,} prepaid credits" if its_id in bought else "Prepaid credits"
        )
    if payment.kind == Payment.Kind.CHANGE:
        return "Change of plan or add-ons"
    return f"Plan, from {day(payment.at)}"


def _buyer(theirs: Party | None, ours: Party) -> Party:
    """The provider's word where it has one, since it issues the invoice."""
    known = {name: value for name, value in (theirs or {}).items() if value}
    return {**ours, **known}
