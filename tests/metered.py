"""Usage of a customer at a metering provider, put into the ledger as a drain would put it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.db import transaction
from django.db.models import Sum

from billing.models import PlanVersion, Shipment, Subscription
from gateway import partitions, recording
from gateway.entries import Entry
from tests.doubles.dodo import Dodo
from tests.doubles.server import serving
from tests.doubles.stripe import Stripe
from tests.factories import make_account

PERIOD = datetime(2026, 5, 1, 10, 7, 33, tzinfo=UTC)
NEXT_PERIOD = datetime(2026, 6, 1, 10, 7, 33, tzinfo=UTC)
NOON = datetime(2026, 5, 20, 12, 0, tzinfo=UTC)


@pytest.fixture
def at_stripe(settings):
    with serving(Stripe(now=NOON)) as double:
        settings.STRIPE_API_BASE = double.url
        settings.STRIPE_SECRET_KEY = double.key
        yield double
    assert not double.violations


@pytest.fixture
def at_dodo(settings):
    with serving(Dodo(now=NOON)) as double:
        settings.DODO_PAYMENTS_BASE_URL = double.url
        settings.DODO_PAYMENTS_API_KEY = double.key
        yield double
    assert not double.violations


def subscribe(provider: str, version: PlanVersion, customer_id: str = "cus_1") -> Subscription:
    """A subscription that the provider has, without a visit to its checkout."""
    return Subscription.objects.create(
        account=make_account(),
        version=version,
        provider=provider,
        provider_subscription_id=f"sub_{uuid4().hex}",
        provider_customer_id=customer_id,
        state=Subscription.State.ACTIVE,
        started_at=PERIOD,
        period_start=PERIOD,
        period_end=NEXT_PERIOD,
        anchor_day=1,
    )


def use(subscription: Subscription, at: datetime, calls: int = 1, **how) -> None:
    """So many calls, each its own row; `how` overrides fields of the entry."""
    given = {
        "admitted_at": at,
        "account_id": subscription.account_id,
        "key_id": uuid4(),
        "api": "holidays",
        "operation": "GET /v1/next/{country}",
        "mode": "live",
        "outcome": "completed",
        "status": 200,
        "code": "",
        "billable": True,
        "units": {"calls": 1},
        "metadata": {},
        "latency_us": 1000,
        "upstream_us": 900,
        "request_bytes": 1,
        "response_bytes": 1,
        "period_start": PERIOD,
        "terms_id": f"version:{subscription.version_id}",
        "credits": None,
        "client": "",
    } | how
    partitions.ensure([given["admitted_at"]])
    with transaction.atomic():
        recording.lock(0)
        recorded_at = recording.tick(0, at + timedelta(seconds=1))
        recording.record([Entry(id=uuid4(), **given) for _ in range(calls)], recorded_at)


def states() -> dict[str, int]:
    """Units by state of their shipments."""
    rows = Shipment.objects.order_by().values("state").annotate(sum=Sum("units"))
    return {row["state"]: row["sum"] for row in rows}


def body_of(thin: dict[str, object]) -> bytes:
    return json.dumps(thin).encode()
