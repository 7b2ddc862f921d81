"""Stripe's webhooks: events with their object, and thin ones (v2) that name it only."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import stripe
from django.conf import settings

from billing.providers import Delivery, Forged, Subject, bodies
from billing.providers.stripe import shapes
from billing.providers.stripe.checkouts import REFERENCE
from billing.providers.stripe.payments import CHARGE, SALE

_TOLERANCE_SECONDS = 300
_ABOUT = (
    "checkout.session.",
    "customer.subscription.",
    "customer.updated",
    "invoice.",
    "payment_intent.",
    "payment_method.",
    "charge.",  # its disputes, too
    "refund.",
)


def verify(headers: Mapping[str, str], body: bytes) -> Delivery:
    """`Stripe-Signature`: HMAC-SHA256 over time and raw body, at most 5 minutes off.

    The library lets times of the future pass, and raises more than its own error on hostile
    input; all of it is `Forged`.
    """
    given = {name.lower(): value for name, value in headers.items()}
    signature = given.get("stripe-signature", "")
    _demand_signed(body, signature)
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


def _demand_signed(body: bytes, signature: str) -> None:
    """By one of the secrets: each of Stripe's destinations has its own, and a new one at times."""
    secrets = [held.strip() for held in settings.STRIPE_WEBHOOK_SECRET.split(",")]
    refused: Exception | None = None
    for secret in filter(None, secrets):
        try:
            stripe.WebhookSignature.verify_header(body, signature, secret, _TOLERANCE_SECONDS)
        except (stripe.SignatureVerificationError, ValueError, TypeError) as error:
            refused = error
        else:
            return
    raise Forged(f"The signature does not hold ({type(refused).__name__}).") from refused


def subject(delivery_type: str, payload: dict[str, Any]) -> Subject | None:
    """By the object that the event holds; what has become of it is asked for.

    A dispute and a refund name their payment only, a change of a way to pay its customer.
    """
    about = shapes.part(payload, "data", "object")
    if not delivery_type.startswith(_ABOUT):
        return None
    metadata, customer = shapes.part(about, "metadata"), shapes.id_of(about.get("customer"))
    reference, subscription, payment = "", "", ""
    if delivery_type.startswith("checkout.session."):
        reference = shapes.text(about, "client_reference_id")
        subscription = shapes.id_of(about.get("subscription"))
    elif delivery_type.startswith("customer.subscription."):
        reference, subscription = shapes.text(metadata, REFERENCE), shapes.id_of(about)
    elif delivery_type.startswith("invoice."):
        details = shapes.part(about, "parent", "subscription_details")
        if not details:  # until 2025-03-31 (basil)
            details = shapes.part(about, "subscription_details") | {
                "subscription": about.get("subscription")
            }
        reference = (
            shapes.text(metadata, CHARGE)
            or shapes.text(metadata, SALE)
            or shapes.text(shapes.part(details, "metadata"), REFERENCE)
        )
        subscription = shapes.id_of(details.get("subscription"))
    elif delivery_type == "customer.updated":
        customer = shapes.id_of(about)
    elif delivery_type.startswith("payment_intent."):
        reference, payment = shapes.text(metadata, SALE), shapes.id_of(about)
    else:
        payment = shapes.id_of(about.get("payment_intent"))
    found = Subject(reference, subscription, payment, customer)
    return found if any((reference, subscription, payment, customer)) else None
