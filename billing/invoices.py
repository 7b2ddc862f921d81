"""Closes invoices: what a period cost, once, by the hours of the ledger that say so.

An invoice has what was used in its period, and the base price of the period that begins where
it ends; a first base price is paid at the checkout, or when a contract is signed. It is closed
at a *cut*, the start of an hour: everything that the ledger recorded before the cut for this
period or an earlier one is on it, unless it is on an invoice before it. So each entry is on
exactly one invoice. What is recorded later stands on the next invoice, on lines of its own, at
what the period would have cost more with it.

The usage on it becomes a charge in the same transaction, where it is ours to charge; base prices
are the provider's renewals. What was paid for changes of the plan within the period is on a line
of its own. Asks no payment provider (`collecting` does).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import F

from billing import accounts, bills, charges, opening, paid_ahead, parties, periods, terms
from billing.accounts import Account
from billing.bills import Rated
from billing.models import Invoice, InvoiceCounter, InvoiceLine, Payment, Subscription
from billing.providers import ChargeLine
from billing.rating import filter_json
from gateway import chain
from gateway.models import LedgerHour
from gateway.usage import PricedUnits
from keys.models import Entitlement

log = structlog.get_logger(__name__)

# Calls of the period's last minutes are still on their way to the ledger when it ends.
SETTLING = timedelta(minutes=30)
# Elsewhere the provider issues the invoice, and ours is a statement beside it, without a number.
WE_ISSUE_FOR = (terms.NO_PROVIDER, "sandbox")


@dataclass(frozen=True)
class Total:
    """One of the totals that a closed hour swears to."""

    hour: LedgerHour
    quantity: PricedUnits
    events: int


def due_to_close() -> set[UUID]:
    """Accounts for which `close_due` has something to do: ask every few minutes."""
    until = chain.closed_until()
    if until is None:
        return set()
    over = Invoice.objects.filter(state=Invoice.State.OPEN, period_end__lte=until - SETTLING)
    unopened = Entitlement.objects.exclude(state=Entitlement.State.ENDED).filter(
        account__invoices=None
    )
    return {
        *over.values_list("account_id", flat=True),
        *unopened.values_list("account_id", flat=True),
    }


def close_due(account_id: UUID, now: datetime) -> int:
    """Closes the account's invoices whose time has come, the earliest first; how many.

    A transaction for each, under the account's lock: killed in between, or with two at it,
    each is closed once.
    """
    until = chain.closed_until()
    closed = 0
    while until is not None and _close_next(account_id, until, now):
        closed += 1
    return closed


def _close_next(account_id: UUID, until: datetime, now: datetime) -> bool:
    with transaction.atomic():
        account = accounts.locked(account_id)
        opening.run_on(account_id, now)
        rows = Invoice.objects.filter(account_id=account_id).order_by("period_start")
        invoice = rows.filter(state=Invoice.State.OPEN).first()
        if invoice is None or invoice.period_end + SETTLING > until:
            return False
        before = rows.filter(state=Invoice.State.CLOSED).last()
        _close(account, invoice, before, until, now)
    return True


def _close(
    account: Account, invoice: Invoice, before: Invoice | None, cut: datetime, now: datetime
) -> None:
    has = terms.standing(invoice.account_id, now)
    lines = list(_lines(invoice, before, cut, has))
    if not lines and opening.running(invoice.account_id) is None:
        # Nothing came after the end; the period waits on.
        end = periods.add_months(invoice.period_end, 1, invoice.period_end.day)
        Invoice.objects.filter(pk=invoice.pk).update(period_end=end)
        return
    currency = has.currency if has.price or not lines else lines[0].currency
    for position, line in enumerate(lines, 1):
        line.invoice, line.position = invoice, position
        line.currency = line.currency or currency
    InvoiceLine.objects.bulk_create(lines)
    costs = any(line.amount_minor for line in lines)
    total = sum(line.amount_minor for line in lines if line.currency == currency)
    Invoice.objects.filter(pk=invoice.pk, state=Invoice.State.OPEN).update(
        state=Invoice.State.CLOSED,
        currency=currency,
        total_minor=total,
        number=_next_number() if costs and _we_issue(invoice.account_id, has) else None,
        cut=cut,
        closed_at=now,
        seller=parties.seller(),
        buyer=parties.buyer(account),
    )
    _charge(invoice, [line for line in lines if line.currency == currency], has, now)
    opening.wait(invoice.account_id, invoice.period_end)
    log.info("invoice.closed", invoice=str(invoice.pk), account=str(invoice.account_id))


def _charge(invoice: Invoice, lines: list[InvoiceLine], has: terms.Standing, now: datetime) -> None:
    """What the invoice asks for that its customer's provider does not take by itself.

    Of a contract all of it, by transfer; else the usage, unless the provider's own metered prices
    do.
    """
    if has.contract:
        subscription, asked = None, [line for line in lines if line.amount_minor]
    else:
        subscription = _charged(invoice)
        asked = [line for line in lines if line.meter and line.amount_minor]
        if subscription is None:
            return
    if sum(line.amount_minor for line in asked) <= 0:
        return
    period = f"{day(invoice.period_start)} to {day(invoice.period_end)}"
    charged = [ChargeLine(line.text, line.amount_minor) for line in asked]
    if any(line.amount_minor < 0 for line in asked):
        # Late usage made a period cheaper: providers take no such line.
        charged = [ChargeLine(f"Usage, {period}", sum(line.amount_minor for line in asked))]
    charges.create(
        invoice.account_id,
        subscription,
        charged,
        f"Usage, {period}" if subscription else f"Invoice, {period}",
        now,
        currency=asked[0].currency,
        invoice=invoice,
    )


def _charged(invoice: Invoice) -> Subscription | None:
    """The subscription whose customer pays the period's usage to us; also one that has ended."""
    held = Subscription.objects.filter(
        account_id=invoice.account_id, started_at__lt=invoice.period_end
    ).exclude(provider=terms.NO_PROVIDER)
    latest = held.first()
    return latest if latest and latest.charged_by == Subscription.ChargedBy.KEYSTILE else None


def _we_issue(account_id: UUID, has: terms.Standing) -> bool:
    if has.contract:
        return True
    latest = Subscription.objects.filter(account_id=account_id).first()
    return latest is None or latest.provider in WE_ISSUE_FOR


def _next_number() -> int:
    """One more than the last; whoever else wants one waits for this transaction."""
    InvoiceCounter.objects.get_or_create(pk=1)
    InvoiceCounter.objects.filter(pk=1).update(latest=F("latest") + 1)
    return InvoiceCounter.objects.get(pk=1).latest


# ------------------------------------------------------------------ lines


def _lines(
    invoice: Invoice, before: Invoice | None, cut: datetime, has: terms.Standing
) -> Iterator[InvoiceLine]:
    yield from paid_ahead.lines(invoice.account_id, invoice.period_end)
    yield from _changes(invoice)
    texts = bills.Texts()
    totals = _totals(invoice, before, cut)
    for period in sorted(totals, reverse=True):
        found = totals[period]
        if period == invoice.period_start:
            for rated in bills.rate(_quantities(found), has):
                if line := _usage_line(period, rated, found, texts.of(rated.line)):
                    yield line
        else:
            known = _already_invoiced(period, before, invoice.account_id)
            for rated in _late(found, known, has):
                text = f"{texts.of(rated.line)}, recorded late, for the period from {day(period)}"
                if line := _usage_line(period, rated, found, text):
                    yield line


def _changes(invoice: Invoice) -> Iterator[InvoiceLine]:
    """What was paid for changes of the plan, and is on no invoice yet."""
    paid = Payment.objects.filter(
        account_id=invoice.account_id,
        kind=Payment.Kind.CHANGE,
        state=Payment.State.PAID,
        at__lt=invoice.period_end,
        line=None,
    )
    for payment in paid.order_by("at", "pk"):
        yield InvoiceLine(
            text=f"Change of plan or add-ons, paid on {day(payment.at)}",
            payment=payment,
            period_start=invoice.period_start,
            units=1,
            included_units=0,
            amount_minor=payment.amount_minor - payment.tax_minor,
            currency=payment.currency,
        )


def _usage_line(
    period: datetime, rated: Rated, found: Iterable[Total], text: str
) -> InvoiceLine | None:
    """None where nothing was used and nothing is to be paid."""
    line = rated.line
    hours = _hours(total for total in found if rated.has(total.quantity))
    if not (hours or line.units or line.amount_minor):
        return None
    return InvoiceLine(
        text=text,
        meter=line.meter,
        period_start=period,
        terms_id=rated.terms_id,
        selects={
            "terms": list(rated.used_under),
            "filter": filter_json(line.filter),
            "except": [filter_json(other) for other in rated.looked_through_before],
        },
        units=line.units,
        included_units=line.included_units,
        amount_minor=line.amount_minor,
        currency=line.currency,
        entries=sum(hour["events"] for hour in hours),
        root=root(hours),
        hours=hours,
    )


def _late(found: list[Total], known: list[Total], has: terms.Standing) -> Iterator[Rated]:
    """What a period costs with the late usage, less what it cost without it."""
    without = {rated.key: rated.line for rated in bills.rate(_quantities(known), has)}
    for rated in bills.rate(_quantities([*known, *found]), has):
        line = rated.line
        already = without.get(rated.key, replace(line, units=0, amount_minor=0))
        yield replace(
            rated,
            line=replace(
                line,
                units=line.units - already.units,
                included_units=max(0, line.included_units - already.units),
                amount_minor=line.amount_minor - already.amount_minor,
            ),
        )


def _hours(totals: Iterable[Total]) -> list[dict[str, object]]:
    by_hour: dict[datetime, list[Total]] = defaultdict(list)
    for total in totals:
        by_hour[total.hour.hour].append(total)
    return [
        {
            "hour": hour.isoformat().replace("+00:00", "Z"),
            "digest": of_hour[0].hour.digest,
            "events": sum(total.events for total in of_hour),
            "units": sum(total.quantity.units for total in of_hour),
        }
        for hour, of_hour in sorted(by_hour.items())
    ]


def root(hours: Iterable[dict[str, object]]) -> str:
    """SHA-256 over a line `<hour> <digest>` for each hour, "" without any."""
    text = "".join(f"{hour['hour']} {hour['digest']}\n" for hour in hours)
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


def day(moment: datetime) -> str:
    return f"{moment.day} {moment:%B %Y}"


# ------------------------------------------------------------------ usage, from closed hours


def _totals(invoice: Invoice, before: Invoice | None, cut: datetime) -> dict[datetime, list[Total]]:
    """What goes onto the invoice, by the period in which it was used."""
    since = before.period_start if before else None
    found: dict[datetime, list[Total]] = defaultdict(list)
    for period, total in _recorded(invoice.account_id, since, cut):
        if period <= invoice.period_start and not _is_on(before, period, total.hour):
            found[period].append(total)
    return found


def _already_invoiced(period: datetime, before: Invoice | None, account_id: UUID) -> list[Total]:
    """What invoices before have of a period."""
    if before is None or before.cut is None:
        return []
    return [
        total
        for its_period, total in _recorded(account_id, period, before.cut)
        if its_period == period and _is_on(before, period, total.hour)
    ]


def _is_on(before: Invoice | None, period: datetime, hour: LedgerHour) -> bool:
    """Whether this invoice or one before it has what the hour recorded for the period."""
    if before is None or before.cut is None:
        return False
    return period <= before.period_start and hour.hour < before.cut


def _recorded(
    account_id: UUID, since: datetime | None, cut: datetime
) -> Iterator[tuple[datetime, Total]]:
    """Totals of the hours before the cut; of none that ended by `since`."""
    rows = LedgerHour.objects.filter(account_id=account_id, hour__lt=cut).order_by("hour")
    if since is not None:
        rows = rows.filter(hour__gt=since - timedelta(hours=1))
    for row in rows.iterator(chunk_size=200):
        for total in row.totals:
            quantity = PricedUnits(
                terms_id=total["terms"],
                api=total["api"],
                operation=total["operation"],
                meter=total["meter"],
                dimensions=total["dimensions"],
                units=total["billable"],
            )
            period = datetime.fromisoformat(total["period"]).astimezone(UTC)
            yield period, Total(row, quantity, total["events"])


def _quantities(totals: Iterable[Total]) -> list[PricedUnits]:
    return [total.quantity for total in totals]
