"""`/metrics`: how the bookkeeping of usage and the inbox are, in Prometheus' text format.

Answers on loopback, or to who brings METRICS_TOKEN; to everybody else there is no such page.
Counts nothing that grows with the number of calls. What the gateway's processes do is theirs to
tell.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from ipaddress import IPv6Address, ip_address

import structlog
from django.conf import settings
from django.db import DatabaseError
from django.db.models import Count, Q, Sum
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from billing import shipping
from billing.models import Drift, ProviderEvent, Shipment
from gateway import chain, counters, ledger
from gateway.models import CounterCorrection, LedgerClock, QuarantinedEntry, RefusalRollup
from keys import clock, records

log = structlog.get_logger(__name__)

HOUR = timedelta(hours=1)
UNSENT = (
    Shipment.State.PENDING,
    Shipment.State.UNKNOWN,
    Shipment.State.REFUSED,
    Shipment.State.HELD,
)
# Who comes by a proxy on this machine is on loopback, too, and not who this page is for.
FORWARDED = ("HTTP_X_FORWARDED_FOR", "HTTP_X_REAL_IP", "HTTP_FORWARDED", "HTTP_VIA")


@require_safe
@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    if not (_is_local(request) or _has_token(request)):
        raise Http404
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Product(clock.now()))
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def _is_local(request: HttpRequest) -> bool:
    try:
        peer = ip_address(request.META.get("REMOTE_ADDR", ""))
    except ValueError:
        return False
    if isinstance(peer, IPv6Address) and peer.ipv4_mapped is not None:
        peer = peer.ipv4_mapped
    return peer.is_loopback and not any(name in request.META for name in FORWARDED)


def _has_token(request: HttpRequest) -> bool:
    wanted = f"Bearer {settings.METRICS_TOKEN}".encode()
    given = request.META.get("HTTP_AUTHORIZATION", "").encode()
    return bool(settings.METRICS_TOKEN) and hmac.compare_digest(given, wanted)


class _Product(Collector):
    """Everything below, as it is now; what can't be asked is left out and said to be down."""

    def __init__(self, now: datetime):
        self._now = now

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("keystile_up", "1 if it answers.", labels=["service"])
        for service, down, groups in SERVICES:
            try:
                families = [family for group in groups for family in group(self._now)]
            except down as error:
                log.warning("metrics.unavailable", service=service, reason=str(error))
                families = []
            up.add_metric([service], float(bool(families)))
            yield from families
        yield up


def stream(_now: datetime) -> Iterable[Metric]:
    """Usage on its way into the ledger, by partition."""
    entries = _gauge("keystile_stream_entries", "Settled calls that wait for the ledger.")
    lag = _gauge("keystile_drain_lag_seconds", "For how long the oldest of them has waited.")
    opens = _gauge("keystile_open_calls", "Calls that run, and those of gateways that died.")
    ready = _gauge("keystile_redis_ready", "0: Redis came back empty and is not filled yet.")
    differing = _gauge(
        "keystile_counters_differing",
        "Counters that the last hourly check found to differ from the books; seen twice, they "
        "are corrected.",
    )
    redis = records.connection()
    for partition in records.PARTITIONS:
        labels = [str(partition)]
        waiting = ledger.lag(partition)
        entries.add_metric(labels, waiting.entries)
        lag.add_metric(labels, waiting.seconds)
        opens.add_metric(labels, redis.hlen(records.open_name(partition)))
        ready.add_metric(labels, redis.exists(records.ready_name(partition)))
        differing.add_metric(labels, len(counters.sightings(partition)))
    return entries, lag, opens, ready, differing


def books(now: datetime) -> Iterable[Metric]:
    """The ledger and what could not get into it."""
    recorded = _gauge(
        "keystile_ledger_recorded_timestamp_seconds",
        "When calls were last recorded, or an hour or shipment last sealed.",
    )
    for partition, at in LedgerClock.objects.values_list("partition", "at"):
        recorded.add_metric([str(partition)], at.timestamp())
    unclosed = GaugeMetricFamily(
        "keystile_ledger_hours_unclosed",
        "Hours of the ledger that are over and not closed: one for some seconds after each.",
    )
    closed_until = chain.closed_until()
    if closed_until is not None:
        unclosed.add_metric([], (chain.floor(now) - closed_until) // HOUR)
    refused = GaugeMetricFamily(
        "keystile_refused_calls", "Calls refused within the last hour.", labels=["code"]
    )
    codes = RefusalRollup.objects.filter(minute__gt=now - HOUR).values_list("code")
    for code, calls in codes.annotate(Sum("count")).order_by("code"):
        refused.add_metric([code], calls)
    quarantined = GaugeMetricFamily(
        "keystile_quarantined_entries",
        "Calls that the ledger could not store and that wait for staff.",
        value=QuarantinedEntry.objects.filter(closed_at=None).count(),
    )
    corrected = CounterMetricFamily(
        "keystile_counter_corrections",
        "Counters of quotas and credits that were corrected.",
        value=CounterCorrection.objects.count(),
    )
    return recorded, unclosed, refused, quarantined, corrected


def inbox(_now: datetime) -> Iterable[Metric]:
    """What providers sent and nobody has processed."""
    states = ProviderEvent.objects.filter(processed_at=None).aggregate(
        waiting=Count("pk", filter=Q(dead_at=None)),
        dead=Count("pk", filter=Q(dead_at__isnull=False)),
    )
    events = GaugeMetricFamily(
        "keystile_inbox_events", "Provider events not processed.", labels=["state"]
    )
    for state, count in states.items():
        events.add_metric([state], count)
    repaired = CounterMetricFamily(
        "keystile_drift_repaired",
        "Subscriptions that differed from their provider's and were repaired.",
        value=Drift.objects.filter(repaired_at__isnull=False).count(),
    )
    stuck = GaugeMetricFamily(
        "keystile_drift_stuck",
        "Subscriptions that can't be made what their provider says.",
        value=Drift.objects.filter(repaired_at=None).exclude(error="").count(),
    )
    return events, repaired, stuck


def shipments(_now: datetime) -> Iterable[Metric]:
    """Usage that a provider has yet to be told of, or that staff have to look at."""
    unsent = GaugeMetricFamily(
        "keystile_shipments", "Shipments of usage that have not arrived.", labels=["state"]
    )
    for state in UNSENT:
        unsent.add_metric([state], Shipment.objects.filter(state=state).count())
    read = GaugeMetricFamily(
        "keystile_shipping_read_timestamp_seconds",
        "Up to when the ledger was read for usage to ship: about a minute ago.",
    )
    if (read_until := shipping.lag().read_until) is not None:
        read.add_metric([], read_until.timestamp())
    return unsent, read


Group = Callable[[datetime], Iterable[Metric]]
# What is asked of each service, and how it says that it is away.
SERVICES: tuple[tuple[str, type[Exception], tuple[Group, ...]], ...] = (
    ("redis", RedisError, (stream,)),
    ("postgres", DatabaseError, (books, inbox, shipments)),
)


def _gauge(name: str, documentation: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, labels=["partition"])
