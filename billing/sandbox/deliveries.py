"""Sends the sandbox's webhooks over HTTP, signed, until they are answered with 2xx.

A body carries the ids and the state at the moment of delivery, not of the event: deliveries
may come late or out of order, and the receiver asks anyway.
"""

from __future__ import annotations

import json
import secrets
from datetime import datetime, timedelta
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import structlog
from django.conf import settings
from django.db.models import F, QuerySet
from django.utils import timezone
from standardwebhooks import Webhook

from billing.sandbox import faults
from billing.sandbox.models import SandboxDelivery, SandboxOrder

log = structlog.get_logger(__name__)

# Seconds from the start of each attempt to the next; the first is made at once.
_BACKOFF_SECONDS = (2, 10, 60, 300, 1800, 2 * 3600, 5 * 3600)
_TIMEOUT_SECONDS = 10
# The site is reached as it is, not through a proxy that the environment may name.
_opener = build_opener(ProxyHandler({}))


def put(order: SandboxOrder, delivery_type: str, now: datetime) -> None:
    """A webhook to be sent, in the transaction of what it tells of."""
    SandboxDelivery.objects.create(
        id=f"msg_{secrets.token_hex(12)}",
        order=order,
        type=delivery_type,
        created_at=now,
        next_attempt_at=now,
    )


def due(now: datetime) -> QuerySet[SandboxDelivery]:
    """Those to send now: the oldest first, or in any order where staff wish it so."""
    order = "?" if faults.now_set().reorder else "next_attempt_at"
    return SandboxDelivery.objects.filter(next_attempt_at__lte=now).order_by(order)


def send(delivery_id: str, now: datetime) -> None:
    """Makes one attempt if one is due; whoever comes second finds nothing to do."""
    wished = faults.now_set()
    if _is_held_up(delivery_id, wished.delay_seconds, now):
        return
    delivery = SandboxDelivery.objects.select_related("order").get(pk=delivery_id)
    attempt = delivery.attempts
    again = (
        now + timedelta(seconds=_BACKOFF_SECONDS[attempt])
        if attempt < len(_BACKOFF_SECONDS)
        else None
    )
    unclaimed = due(now).filter(pk=delivery.pk, attempts=attempt).order_by()
    claimed = unclaimed.update(attempts=F("attempts") + 1, next_attempt_at=again)
    if not claimed:
        return
    if faults.strikes(wished.drop):
        SandboxDelivery.objects.filter(pk=delivery.pk).update(next_attempt_at=None)
        return
    status = _post(delivery, now)
    for _ in range(wished.repeat):
        status = _post(delivery, now)
    outcome: dict[str, object] = {"last_status": status}
    if status is not None and 200 <= status < 300:
        outcome |= {"delivered_at": now, "next_attempt_at": None}
    else:
        log.warning("sandbox.delivery_failed", delivery=delivery.pk, status=status)
    SandboxDelivery.objects.filter(pk=delivery.pk).update(**outcome)


def _is_held_up(delivery_id: str, seconds: int, now: datetime) -> bool:
    """Puts off the first attempt of a delivery that is younger than staff wish."""
    held_up = due(now).filter(
        pk=delivery_id, attempts=0, created_at__gt=now - timedelta(seconds=seconds)
    )
    until = F("created_at") + timedelta(seconds=seconds)
    return bool(seconds and held_up.order_by().update(next_attempt_at=until))


def body_of(delivery: SandboxDelivery, now: datetime) -> bytes:
    order = delivery.order
    data = {
        "checkout_id": order.pk,
        "reference": order.reference,
        "subscription_id": order.subscription_id,
        "customer_id": order.customer_id,
        "status": order.state,
        "current_period_start": order.period_start and order.period_start.isoformat(),
        "current_period_end": order.period_end and order.period_end.isoformat(),
        "cancel_at_period_end": order.cancel_at_period_end,
    }
    payload = {"type": delivery.type, "timestamp": now.isoformat(), "data": data}
    return json.dumps(payload).encode()


def signed_headers(message_id: str, body: bytes, now: datetime) -> dict[str, str]:
    """The three headers of the Standard Webhooks specification."""
    signature = Webhook(settings.SANDBOX_WEBHOOK_SECRET).sign(message_id, now, body.decode())
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signature,
    }


def _post(delivery: SandboxDelivery, now: datetime) -> int | None:
    """The status of the answer; None where there was none."""
    body = body_of(delivery, now)
    request = Request(  # noqa: S310 - settings refuse a SITE_URL that isn't http or https
        f"{settings.SITE_URL}/webhooks/sandbox",
        data=body,
        headers={
            "Content-Type": "application/json",
            "User-Agent": "Keystile-Sandbox",
            # Signatures go by the real time, wherever the clock was moved to.
            **signed_headers(delivery.pk, body, timezone.now()),
        },
    )
    try:
        with _opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code
    except (OSError, HTTPException):
        return None
