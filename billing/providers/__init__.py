"""What billing asks of a payment provider, in Keystile's words.

A provider is one module here that has these functions; it turns its own states into ours and
its own errors into the two below. It writes nothing of Keystile's. Nothing here is called
inside a transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from typing import Any, Literal, Protocol, cast

from django.conf import settings

_ADAPTERS = ("sandbox", "stripe", "dodo")


class ProviderUnavailable(Exception):
    """The provider could not be asked, or gave no usable answer: try again later."""


class Forged(Exception):
    """A delivery that the provider did not sign, or not lately, or that can't be read."""


@dataclass(frozen=True)
class Order:
    """What a buyer is sent to a hosted checkout for.

    reference: our checkout's id; asking twice with the same one gives the same session, where
               the provider keeps it
    version:   id of the plan version that is bought; what is asked for one never changes
    """

    reference: str
    version: str
    description: str
    amount_minor: int
    currency: str
    interval: Literal["month", "year"]
    customer_email: str
    return_url: str
    cancel_url: str


@dataclass(frozen=True)
class Session:
    """A hosted checkout: where the buyer goes, and how to ask about it later."""

    id: str
    url: str


@dataclass(frozen=True)
class SubscriptionState:
    """A subscription as its provider has it now."""

    id: str
    customer_id: str
    status: Literal["trialing", "active", "past_due", "ended"]
    period_start: datetime
    period_end: datetime
    cancel_at_period_end: bool = False
    ended_at: datetime | None = None


@dataclass(frozen=True)
class CheckoutState:
    """A hosted checkout as its provider has it now.

    pending: the buyer has paid by a way that takes time, the money isn't there yet
    error:   why the last attempt failed, in the provider's words; an open one may be retried
    """

    status: Literal["open", "pending", "paid", "failed", "expired"]
    error: str = ""
    subscription: SubscriptionState | None = None


@dataclass(frozen=True)
class Delivery:
    """A webhook whose signature holds. `payload` is the body, parsed, fit to be stored."""

    external_id: str
    type: str
    payload: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Subject:
    """What a delivery is about: our checkout's id, the provider's subscription id, or both."""

    reference: str
    subscription_id: str


class Provider(Protocol):
    def create_checkout(self, order: Order) -> Session:
        """Raises `ProviderUnavailable`, as every function here that asks the provider."""
        ...

    def fetch_checkout(self, session_id: str) -> CheckoutState: ...
    def fetch_subscription(self, subscription_id: str) -> SubscriptionState: ...

    def cancel(self, subscription_id: str, *, at_period_end: bool) -> None:
        """Ends it now or plans its end; one that has ended already stays as it is."""
        ...

    def resume(self, subscription_id: str) -> None:
        """Withdraws a planned end."""
        ...

    def refund_and_cancel(self, subscription_id: str) -> None:
        """Ends it now and pays its last charge back in full; asked again, does nothing."""
        ...

    def verify(self, headers: Mapping[str, str], body: bytes) -> Delivery:
        """Raises `Forged`, whatever the body and headers hold."""
        ...

    def subject(self, delivery_type: str, payload: dict[str, Any]) -> Subject | None:
        """None: of a type, new ones included, that changes no checkout or subscription."""
        ...


def get(name: str) -> Provider:
    """The provider's module; KeyError for a name that is none."""
    if name not in _ADAPTERS:
        raise KeyError(name)
    return cast(Provider, import_module(f"billing.providers.{name}"))


def in_use(name: str) -> bool:
    """Whether deliveries of this provider are listened to.

    The sandbox's are so only where it is the provider of new checkouts: it gives everything
    away, and settings refuse it off loopback without an explicit word. The others' are where
    there is a secret to verify them with.
    """
    if name == "stripe":
        return bool(settings.STRIPE_WEBHOOK_SECRET)
    if name == "dodo":
        return bool(settings.DODO_PAYMENTS_WEBHOOK_KEY)
    return bool(name == settings.PAYMENT_PROVIDER)
