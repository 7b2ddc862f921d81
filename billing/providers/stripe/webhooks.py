"""Stripe's webhooks: events with their object, and thin ones (v2) that name it only."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import stripe
from django.conf import settings

from billing.providers import Delivery, Forged, Subject, bodies

_TOLERANCE_SECONDS = 300


def verify(headers: Mapping[str, str], body: bytes) -> Delivery:
    """`Stripe-Signature`: HMAC-SHA256 over time and raw body, at most 5 minutes off.

    The library lets times of the future pass, and raises more than its own error on hostile
    input; all of it is `Forged`.
    """
    given = {name.lower(): value for name, value in headers.items()}
    signature = given.get("stripe-signature", "")
    try:
        stripe.WebhookSignature.verify_header(
            body, signature, settings.STRIPE_WEBHOOK_SECRET, _TOLERANCE_SECONDS
        )
    except (stripe.SignatureVerificationError, ValueError, TypeError) as error:
        raise Forged(f"The signature does not hold ({type(error).__name__}).") from error
    signed_at = re.search(r"(?:^|,)t=(\d{1,12})", signature)
    if signed_at is None or int(signed_at[1]) > time.time() + _TOLERANCE_SECONDS:
        raise Forged("The signature is of the future.")
    payload = bodies.parse(body)
    external_id, delivery_type = payload.get("id"), payload.get("type")
    if not isinstance(external_id, str) or not isinstance(delivery_type, str):
        raise Forged("The body has no id or no type.")
    if not 0 < len(external_id) <= 255 or len(delivery_type) > 120:
        raise Forged("The id or the type is too long.")
    return Delivery(external_id, delivery_type, payload)


def subject(delivery_type: str, payload: dict[str, Any]) -> Subject | None:  # noqa: ARG001
    """No checkouts are made at Stripe yet, so that no delivery is about one."""
    return None
