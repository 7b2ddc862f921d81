"""`/metrics` tells who may know how the bookkeeping is, and to others does not exist."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from billing.models import ProviderEvent, ShippingClock
from gateway import ledger
from gateway.models import CounterCorrection, LedgerClosing, QuarantinedEntry, RefusalRollup
from keys import records
from tests.test_ledger import ACCOUNT, KEY, entry
from tests.test_publish import redis_away

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_clean")]

TOKEN = "a token as long as such tokens are"


def read(client, **headers) -> dict[tuple[str, ...], float]:
    """Values by name and labels."""
    response = client.get("/metrics", headers=headers)
    assert response.status_code == 200
    assert response["Content-Type"].startswith("text/plain; version=")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(response.content.decode())
        for sample in family.samples
    }


def test_the_bookkeeping_is_told_as_it_is(client):
    now = timezone.now()
    redis = records.connection()
    entered_ms = int(now.timestamp() * 1000) - 90_000
    redis.xadd(records.usage_stream(0), entry(), id=f"{entered_ms}-0")
    redis.xadd(records.usage_stream(0), entry())
    redis.hset(records.open_name(0), "event", "…")
    redis.hset(records.sightings_name(0), mapping={"used:a": 1, "used:b": -2})
    RefusalRollup.objects.create(
        minute=now, account_id=ACCOUNT, key_id=KEY, code="quota_exceeded", count=7
    )
    RefusalRollup.objects.create(
        minute=now - timedelta(hours=2), account_id=ACCOUNT, key_id=KEY, code="expired_key", count=3
    )
    QuarantinedEntry.objects.create(stream_id="1-1", payload=b"{}", error="?")
    QuarantinedEntry.objects.create(stream_id="1-2", payload=b"{}", error="?", closed_at=now)
    CounterCorrection.objects.create(
        at=now, account_id=ACCOUNT, counter="used:a", counted=1, booked=2
    )
    for number, dead_at in enumerate((None, None, now)):
        ProviderEvent.objects.create(
            provider="sandbox",
            external_id=str(number),
            type="order",
            payload={},
            received_at=now,
            dead_at=dead_at,
        )

    ShippingClock.objects.create(at=now)

    told = read(client)

    assert told["keystile_stream_entries", "0"] == 2
    assert 89 < told["keystile_drain_lag_seconds", "0"] < 120
    assert told["keystile_open_calls", "0"] == 1
    assert told["keystile_redis_ready", "0"] == 0
    assert told["keystile_counters_differing", "0"] == 2
    assert told["keystile_refused_calls", "quota_exceeded"] == 7
    assert ("keystile_refused_calls", "expired_key") not in told
    assert told["keystile_quarantined_entries",] == 1
    assert told["keystile_counter_corrections_total",] == 1
    assert told["keystile_inbox_events", "waiting"] == 2
    assert told["keystile_inbox_events", "dead"] == 1
    assert told["keystile_shipments", "held"] == told["keystile_shipments", "pending"] == 0
    assert told["keystile_shipping_read_timestamp_seconds",] == pytest.approx(now.timestamp())
    assert told["keystile_up", "redis"] == told["keystile_up", "postgres"] == 1


def test_a_drain_shows_when_it_was(client):
    records.connection().xadd(records.usage_stream(0), entry())
    now = timezone.now()

    ledger.drain(0, lambda: now)

    told = read(client)
    assert told["keystile_ledger_recorded_timestamp_seconds", "0"] == pytest.approx(
        now.timestamp(), abs=0.001
    )
    assert told["keystile_drain_lag_seconds", "0"] == 0


def test_hours_that_nobody_closes_are_counted(client):
    hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    LedgerClosing.objects.create(closed_until=hour - timedelta(hours=5))

    assert read(client)["keystile_ledger_hours_unclosed",] == 5


def test_what_is_away_is_said_to_be_away(client):
    with redis_away():
        told = read(client)

    assert told["keystile_up", "redis"] == 0
    assert told["keystile_up", "postgres"] == 1
    assert ("keystile_stream_entries", "0") not in told
    assert told["keystile_quarantined_entries",] == 0


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_who_is_on_this_machine_needs_no_token(client, address):
    assert client.get("/metrics", REMOTE_ADDR=address).status_code == 200


@pytest.mark.parametrize("address", ["203.0.113.7", "10.0.0.1", "::ffff:10.0.0.1", "", "unix:"])
def test_to_a_stranger_there_is_no_such_page(client, address):
    assert client.get("/metrics", REMOTE_ADDR=address).status_code == 404


@pytest.mark.parametrize("field", ["X-Forwarded-For", "X-Real-IP", "Forwarded", "Via"])
def test_who_comes_by_a_proxy_on_this_machine_is_a_stranger(client, field):
    response = client.get("/metrics", headers={field: "127.0.0.1"}, REMOTE_ADDR="127.0.0.1")

    assert response.status_code == 404


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"Bearer {TOKEN}x", 404),
        (f"Bearer {TOKEN[:-1]}", 404),
        ("Bearer ", 404),
        (TOKEN, 404),
        ("Bearer ä", 404),
        ("", 404),
    ],
)
def test_the_token_opens_it_from_anywhere(client, settings, given, status):
    settings.METRICS_TOKEN = TOKEN

    response = client.get("/metrics", headers={"Authorization": given}, REMOTE_ADDR="203.0.113.7")

    assert response.status_code == status


def test_without_a_token_no_token_opens_it(client, settings):
    settings.METRICS_TOKEN = ""

    for given in ("Bearer ", "Bearer", ""):
        response = client.get(
            "/metrics", headers={"Authorization": given}, REMOTE_ADDR="203.0.113.7"
        )
        assert response.status_code == 404


def test_it_is_only_read(client):
    assert client.post("/metrics").status_code == 405
