"""Settles shipments whose outcome was never heard while the provider still knew their id.

Sent again they might count twice, left alone not at all. The provider is asked: about each by
its id where it can be, else about its sum of the hour, compared with what is known to have
arrived. What that doesn't settle beyond doubt is held for staff.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog
from django.db.models import Q, QuerySet, Sum

from billing.models import Shipment
from billing.providers import ProviderUnavailable, metering
from billing.providers.metering import MeterEvent, Metering, event_name

log = structlog.get_logger(__name__)

State = Shipment.State
_HOUR = timedelta(hours=1)
_ASK_AGAIN = timedelta(minutes=10)


def event_of(row: Shipment, at: datetime | None) -> MeterEvent:
    """What the provider is told of a shipment."""
    dimensions: dict[str, str] = json.loads(row.dimensions) if row.dimensions else {}
    return MeterEvent(
        id=row.event_id,
        customer_id=row.customer_id,
        name=event_name(row.meter),
        units=row.units,
        at=at,
        metadata={
            "api": row.api,
            "operation": row.operation,
            "terms": row.terms_id,
            "period": f"{row.period_start:%Y-%m-%dT%H:%M:%SZ}",
        }
        | {name: str(value) for name, value in dimensions.items()},
    )


def settle(provider: str, doubtful: Sequence[Shipment], now: datetime) -> bool:
    """Asks what became of them; each is then sent, pending again, held, or asked about later.

    Whether the provider gave the answers.
    """
    asked = metering.get(provider)
    left = list(doubtful)
    try:
        while left:
            found = asked.find(left[0].event_id)
            if found is None:
                rows = [row for row in left if _hour_of(row) == _hour_of(left[0])]
                _settle_by_total(asked, rows, now)
            elif found:
                _arrived(rows := left[:1], now)
            else:
                _send_again(rows := left[:1], now)
            left = [row for row in left if row not in rows]
    except ProviderUnavailable as error:
        _postpone(left, str(error), now)
        return False
    return True


def _hour_of(row: Shipment) -> tuple[str, str, datetime]:
    return row.customer_id, row.meter, row.at.replace(minute=0, second=0, microsecond=0)


def _settle_by_total(asked: Metering, rows: list[Shipment], now: datetime) -> None:
    """Rows of one customer, meter and hour. Raises `ProviderUnavailable`."""
    first = rows[0]
    customer_id, meter, hour = _hour_of(first)
    everything = Shipment.objects.filter(
        provider=first.provider,
        customer_id=customer_id,
        meter=meter,
        at__gte=hour,
        at__lt=hour + _HOUR,
    )
    unsure = Q(unsure_since__isnull=False)
    younger = everything.filter(state=State.UNKNOWN, unsure_since__gt=now - asked.LIMITS.remembers)
    if younger.exists():
        _postpone(rows, "Others of that hour are still on their way.", now)
        return
    sums = everything.aggregate(
        sent=Sum("units", filter=Q(state=State.SENT, undated=False), default=0),
        unsure=Sum("units", filter=unsure, default=0),
    )
    counted = asked.total(customer_id, event_name(meter), hour, hour + _HOUR)
    if counted == sums["sent"]:
        _send_again(rows, now)
    elif counted == sums["sent"] + sums["unsure"]:
        _arrived(rows, now)
    else:
        _unsure(rows).update(
            state=State.HELD,
            reason=f"{first.provider} counts {counted:,} units in that hour; {sums['sent']:,} are "
            f"known to have arrived, {sums['unsure']:,} may have.",
        )
        log.warning("shipping.doubt_held", shipments=len(rows), provider=first.provider)


def _arrived(rows: list[Shipment], now: datetime) -> None:
    _unsure(rows).update(state=State.SENT, sent_at=now, reason="", unsure_since=None)


def _send_again(rows: list[Shipment], now: datetime) -> None:
    """Of what has surely not arrived; found due at the next run, which looks at its age."""
    _unsure(rows).update(
        state=State.PENDING,
        reason="",
        unsure_since=None,
        next_attempt_at=now + timedelta(seconds=1),
    )


def _postpone(rows: list[Shipment], reason: str, now: datetime) -> None:
    _unsure(rows).update(reason=reason[:300], next_attempt_at=now + _ASK_AGAIN)


def _unsure(rows: list[Shipment]) -> QuerySet[Shipment]:
    return Shipment.objects.filter(pk__in=[row.pk for row in rows], state=State.UNKNOWN)
