"""Dodo's webhooks: unordered, and each with the latest state when it is delivered.

Their type says little then. It tells what a delivery is about, never what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import structlog
from django.conf import settings
from dodopayments import NotFoundError
from dodopayments.types import WebhookEventType

from billing.providers import Delivery, ProviderUnavailable, Subject, standard_webhooks
from billing.providers.dodo import marks, payments
from billing.providers.dodo.client import asking

log = structlog.get_logger(__name__)

# `credit.*` isn't among them: credits are counted here, and Dodo is told of none.
_ABOUT = ("subscription.", "payment.", "dunning.")
# These name a payment and nothing else that we know.
_OF_A_PAYMENT = ("refund.", "dispute.")


def verify(headers: Mapping[str, str], body: bytes) -> Delivery:
    return standard_webhooks.verify(settings.DODO_PAYMENTS_WEBHOOK_KEY, headers, body)


def subject(delivery_type: str, payload: dict[str, Any]) -> Subject | None:
    """Asks what the payment of a refund or a dispute was for. Raises `ProviderUnavailable`."""
    if delivery_type not in get_args(WebhookEventType):
        log.warning("dodo.unknown_type", type=delivery_type)
    data = payload.get("data")
    if not isinstance(data, dict):
        return None
    if delivery_type.startswith(_OF_A_PAYMENT):
        return _of_payment(_text(data.get("payment_id")))
    if delivery_type.startswith(_ABOUT):
        return _subject(data.get("metadata"), _text(data.get("subscription_id")))
    return None


def _of_payment(payment_id: str) -> Subject | None:
    if not payment_id:
        return None
    try:
        with asking() as client:
            payment = payments.fetch(client, payment_id)
    except ProviderUnavailable as error:
        if isinstance(error.__cause__, NotFoundError):
            return None
        raise
    return _subject(payment.metadata, payment.subscription_id or "")


def _subject(metadata: object, subscription_id: str) -> Subject:
    reference = ""
    for name in (marks.CHARGE, marks.TOP_UP, marks.CHECKOUT):
        reference = reference or marks.text(metadata, name)
    return Subject(reference, subscription_id or marks.text(metadata, marks.SUBSCRIPTION))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
