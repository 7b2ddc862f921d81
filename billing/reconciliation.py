"""Compares what providers count with what the ledger says, for each customer, meter and period.

Usage admitted up to an hour before the last full one is compared, so that it has had time to
get there. The provider is asked for whole minutes, as Stripe demands: what we know to have sent
within a minute that two periods share is put where it belongs. Changes no shipment.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import Case, F, Q, Sum, When

from billing import pricing, rating
from billing.models import Reconciliation, ReconciliationLine, Shipment, Subscription
from billing.providers import ProviderUnavailable, metering
from billing.shipping import owner_of, subscriptions_of
from gateway import usage

log = structlog.get_logger(__name__)

State = Shipment.State
# Two months and a little: the period that runs and the one before.
_PERIODS_SINCE = timedelta(days=63)
_SETTLED_AFTER = timedelta(hours=1)
# A provider that gave no answer so often in a row isn't asked on.
_PATIENCE = 3


@dataclass
class _Account:
    """What one subscription used of one meter in one period: units by terms, in order of use."""

    subscription: Subscription
    meter: str
    period_start: datetime
    period_end: datetime | None = None
    units_by_terms: dict[str, int] = field(default_factory=dict)

    @property
    def units(self) -> int:
        return sum(self.units_by_terms.values())


def in_use() -> list[str]:
    """Providers with metering that have or had subscriptions."""
    found = Subscription.objects.filter(provider__in=metering.PROVIDERS)
    return list(found.order_by("provider").values_list("provider", flat=True).distinct())


def reconcile(provider: str, now: datetime) -> Reconciliation:
    """Asks the provider and writes the comparison. Not for use in a transaction."""
    until = (now - _SETTLED_AFTER).replace(minute=0, second=0, microsecond=0)
    lines: list[ReconciliationLine] = []
    unanswered = 0
    for account in _accounts(provider, now - _PERIODS_SINCE, until):
        line = _line(account, until, ask=unanswered < _PATIENCE)
        unanswered = unanswered + 1 if line.provider_units is None else 0
        lines.append(line)
    with transaction.atomic():
        found = Reconciliation.objects.create(
            provider=provider,
            at=now,
            until=until,
            lines_count=len(lines),
            differing=sum(line.differs for line in lines),
        )
        for line in lines:
            line.reconciliation = found
        ReconciliationLine.objects.bulk_create(lines, batch_size=1000)
    log.info("reconciliation.done", provider=provider, lines=len(lines), differing=found.differing)
    return found


def _accounts(provider: str, since: datetime, until: datetime) -> list[_Account]:
    at_provider = Subscription.objects.filter(provider=provider)
    account_ids = set(at_provider.values_list("account_id", flat=True))
    subscriptions = subscriptions_of(account_ids)
    starts: defaultdict[UUID, set[datetime]] = defaultdict(set)
    found: dict[tuple[UUID, str, datetime], _Account] = {}
    for owed in usage.owed(account_ids, since, until):
        starts[owed.account_id].add(owed.period_start)
        owner = owner_of(subscriptions[owed.account_id], owed.terms_id, owed.latest)
        if owner is None or owner.provider != provider:
            continue
        key = owner.pk, owed.meter, owed.period_start
        account = found.setdefault(key, _Account(owner, owed.meter, owed.period_start))
        account.units_by_terms[owed.terms_id] = owed.units
    # What was shipped and is not in the ledger would be missed otherwise.
    shipped = Shipment.objects.filter(provider=provider, period_start__gte=since, at__lt=until)
    for row in (
        shipped.order_by("period_start")
        .values("subscription", "subscription__account", "meter", "period_start")
        .distinct()
    ):
        starts[row["subscription__account"]].add(row["period_start"])
        key = row["subscription"], row["meter"], row["period_start"]
        if key not in found:
            owner = next(
                one
                for one in subscriptions[row["subscription__account"]]
                if one.pk == row["subscription"]
            )
            found[key] = _Account(owner, row["meter"], row["period_start"])
    for account in found.values():
        later = [
            start
            for start in starts[account.subscription.account_id]
            if start > account.period_start
        ]
        account.period_end = min(later, default=None)
    return list(found.values())


def _line(account: _Account, until: datetime, *, ask: bool) -> ReconciliationLine:
    ours = Shipment.objects.filter(
        subscription=account.subscription,
        meter=account.meter,
        period_start=account.period_start,
        at__lt=until,
    )
    by_state = {row["state"]: row["sum"] for row in ours.values("state").annotate(sum=Sum("units"))}
    waiting = sum(
        units for state, units in by_state.items() if state not in (State.SENT, State.WRITTEN_OFF)
    )
    line = ReconciliationLine(
        subscription=account.subscription,
        meter=account.meter,
        period_start=account.period_start,
        ledger_units=account.units,
        waiting_units=waiting,
        written_off_units=by_state.get(State.WRITTEN_OFF, 0),
        differs=True,
        currency=account.subscription.version.currency,
    )
    if not ask:
        line.note = "Not asked: the provider gave no answer to the questions before."
        return line
    try:
        line.provider_units = _counted(account, until)
    except ProviderUnavailable as error:
        line.note = str(error)[:300]
        return line
    line.differs = line.difference != 0
    line.difference_minor = _cost(account, line.difference or 0, until)
    line.note = ", ".join(
        f"{units:,} {State(state).label}"
        for state, units in sorted(by_state.items())
        if state != State.SENT
    )
    return line


def _counted(account: _Account, until: datetime) -> int:
    """What the provider counts of the period. Raises `ProviderUnavailable`."""
    subscription = account.subscription
    start = _minute(account.period_start)
    end = min(until, _minute(account.period_end)) if account.period_end else until
    asked = metering.get(subscription.provider)
    name = metering.event_name(account.meter)
    total = asked.total(subscription.provider_customer_id, name, start, end) if start < end else 0
    sent = Shipment.objects.filter(
        provider=subscription.provider,
        customer_id=subscription.provider_customer_id,
        meter=account.meter,
        state=State.SENT,
    ).annotate(counted_at=Case(When(undated=True, then=F("sent_at")), default=F("at")))
    of_it = Q(subscription=subscription, period_start=account.period_start)
    sums = sent.aggregate(
        others=Sum(
            "units", filter=~of_it & Q(counted_at__gte=start, counted_at__lt=end), default=0
        ),
        elsewhere=Sum(
            "units",
            filter=of_it & Q(at__lt=until, counted_at__gte=end),
            default=0,
        ),
    )
    return int(total - sums["others"] + sums["elsewhere"])


def _cost(account: _Account, difference: int, until: datetime) -> int:
    """Minor units: what our units cost less what the provider's do.

    Which units differ nobody knows: those of the latest terms are supposed, the most used kind
    first.
    """
    if not difference or not account.units_by_terms:
        return 0
    terms_id = list(account.units_by_terms)[-1]
    price = pricing.price_of(terms_id)
    if price is None:
        return 0
    account_id = account.subscription.account_id
    ours = [
        one
        for one in usage.priced_units(account_id, account.period_start, until)
        if (one.meter, one.terms_id) == (account.meter, terms_id)
    ]
    theirs, left = [], difference
    for one in sorted(ours, key=lambda one: -one.units):
        units = max(0, one.units - left)
        theirs.append(replace(one, units=units))
        left -= one.units - units
    return _amount(price, ours) - _amount(price, theirs)


def _amount(price: rating.Price, quantities: list[usage.PricedUnits]) -> int:
    return sum(line.amount_minor for line in rating.rate(price, quantities)[1:])


def _minute(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0)
