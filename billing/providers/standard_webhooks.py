"""Reads deliveries that are signed as the Standard Webhooks specification says."""

from __future__ import annotations

from collections.abc import Mapping

from standardwebhooks import Webhook, WebhookVerificationError

from billing.providers import Delivery, Forged, bodies


def verify(secret: str, headers: Mapping[str, str], body: bytes) -> Delivery:
    """HMAC-SHA256 over id, time and raw body, at most 5 minutes off. Raises `Forged`.

    The library raises more than its own error on hostile input; all of it is `Forged`.
    """
    try:
        Webhook(secret).verify(body, dict(headers), json_parse=False)
    except (WebhookVerificationError, ValueError, TypeError) as error:
        raise Forged(str(error) or type(error).__name__) from error
    external_id = next(value for name, value in headers.items() if name.lower() == "webhook-id")
    payload = bodies.parse(body)
    delivery_type = payload.get("type")
    if not isinstance(delivery_type, str) or len(delivery_type) > 120 or len(external_id) > 255:
        raise Forged("The body names no type, or names are too long.")
    return Delivery(external_id, delivery_type, payload)
