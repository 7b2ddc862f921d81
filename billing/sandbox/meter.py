"""The sandbox's meter: counts what arrives, each id once, for customers that it knows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.db.models import Sum

from billing.providers.metering import MeterEvent
from billing.sandbox.models import SandboxMeterEvent, SandboxOrder
from keys import clock


def count(events: Sequence[MeterEvent]) -> set[str]:
    """Counts them; the ids of those that count now or did before."""
    now = clock.now()
    known = set(
        SandboxOrder.objects.filter(
            customer_id__in={event.customer_id for event in events}
        ).values_list("customer_id", flat=True)
    )
    rows = [
        SandboxMeterEvent(
            id=event.id,
            customer_id=event.customer_id,
            name=event.name,
            units=event.units,
            at=event.at or now,
            metadata=dict(event.metadata),
            received_at=now,
        )
        for event in events
        if event.customer_id in known
    ]
    SandboxMeterEvent.objects.bulk_create(rows, ignore_conflicts=True)
    return {row.id for row in rows}


def counts(event_id: str) -> bool:
    return SandboxMeterEvent.objects.filter(pk=event_id).exists()


def total(customer_id: str, name: str, start: datetime, end: datetime) -> int:
    counted = SandboxMeterEvent.objects.filter(
        customer_id=customer_id, name=name, at__gte=start, at__lt=end
    )
    return counted.aggregate(units=Sum("units", default=0))["units"]  # type: ignore[no-any-return]
