"""Dodo's webhooks: unordered, and each with the latest state when it is delivered.

Their type says little then. It tells what a delivery is about, never what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import structlog
from django.conf import settings
from dodopayments.types import WebhookEventType

from billing.providers import Delivery, Subject, standard_webhooks

log = structlog.get_logger(__name__)

# The name of our checkout's id in the metadata of what is Dodo's.
REFERENCE = "keystile_checkout"
_ABOUT = ("subscription.", "payment.", "refund.", "dispute.", "dunning.")


def verify(headers: Mapping[str, str], body: bytes) -> Delivery:
    return standard_webhooks.verify(settings.DODO_PAYMENTS_WEBHOOK_KEY, headers, body)


def subject(delivery_type: str, payload: dict[str, Any]) -> Subject | None:
    """Dodo copies a checkout's metadata to its payment and its subscription."""
    if delivery_type not in get_args(WebhookEventType):
        log.warning("dodo.unknown_type", type=delivery_type)
    data = payload.get("data")
    if not delivery_type.startswith(_ABOUT) or not isinstance(data, dict):
        return None
    metadata = data.get("metadata")
    reference = metadata.get(REFERENCE) if isinstance(metadata, dict) else ""
    return Subject(_text(reference), _text(data.get("subscription_id")))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
