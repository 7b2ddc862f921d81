"""What billing asks of a payment provider, in Keystile's words.

A provider is one module here that has these functions; it turns its own states into ours and
its own errors into the two below. It writes nothing of Keystile's. Nothing here is called
inside a transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from typing import Any, Literal, Protocol, cast

from django.conf import settings

_ADAPTERS = ("sandbox", "stripe", "dodo")


class ProviderUnavailable(Exception):
    """The provider could not be asked, or gave no usable answer: try again later."""


class Declined(Exception):
    """The provider said no, and will again."""


class Forged(Exception):
    """A delivery that the provider did not sign, or not lately, or that can't be read."""


Interval = Literal["month", "year"]


@dataclass(frozen=True)
class Item:
    """One thing that a subscription consists of: its plan, or an add-on.

    key: `version:7`, `addon:3`; what is asked for one never changes
    """

    key: str
    description: str
    amount_minor: int


@dataclass(frozen=True)
class Offer:
    """A plan version or an add-on that is on sale."""

    item: Item
    currency: str
    interval: Interval


@dataclass(frozen=True)
class Order:
    """What a buyer is sent to a hosted checkout for.

    reference:   our checkout's id; asking twice with the same one gives the same session, where
                 the provider keeps it
    items:       the plan first, then add-ons
    customer_id: the provider's own, where the account is known there
    trial_days:  before the first payment
    starts_at:   the first payment is due then, instead of now
    """

    reference: str
    items: tuple[Item, ...]
    currency: str
    interval: Interval
    customer_email: str
    return_url: str
    cancel_url: str
    customer_id: str = ""
    trial_days: int = 0
    starts_at: datetime | None = None

    @property
    def plan(self) -> Item:
        return self.items[0]


@dataclass(frozen=True)
class Sale:
    """What is paid once, in a hosted checkout. `reference`: our top-up's id."""

    reference: str
    description: str
    amount_minor: int
    currency: str
    customer_email: str
    return_url: str
    cancel_url: str
    customer_id: str = ""


@dataclass(frozen=True)
class Session:
    """A hosted checkout: where the buyer goes, and how to ask about it later."""

    id: str
    url: str


@dataclass(frozen=True)
class Change:
    """What a subscription shall consist of from now on, or from its next period on.

    reference: the same each time it is asked for
    items:     all of them, the plan first, then add-ons
    as_of:     prorated as of this moment, that of the preview which the customer has seen, where
               the provider can; minutes ago at most
    """

    reference: str
    items: tuple[Item, ...]
    currency: str
    interval: Interval
    at: Literal["now", "period_end"]
    as_of: datetime | None = None


@dataclass(frozen=True)
class Changed:
    """What became of a change: it holds, or it was not paid and nothing has changed."""

    kind: Literal["done", "unpaid"]
    reason: str = ""


@dataclass(frozen=True)
class Preview:
    """What a change takes now, with tax where the provider knows it; below 0: it gives back."""

    due_now_minor: int
    currency: str


@dataclass(frozen=True)
class ChargeLine:
    text: str
    amount_minor: int


@dataclass(frozen=True)
class ChargeOrder:
    """Money to be taken once from a customer who isn't there.

    reference: our charge's id; however often it is asked for, it is taken once
    lines:     each above 0
    """

    reference: str
    subscription_id: str
    customer_id: str
    description: str
    lines: tuple[ChargeLine, ...]
    currency: str

    @property
    def amount_minor(self) -> int:
        return sum(line.amount_minor for line in self.lines)


@dataclass(frozen=True)
class PaymentState:
    """A payment as its provider has it now.

    kind:         for a period of a subscription, for a change within one, for a charge or a sale
                  of ours
    reference:    of the charge or sale; else empty
    amount_minor: with tax
    tax_lines:    (text, minor units)
    buyer:        name, address, tax_id, as far as the provider knows them
    """

    id: str
    kind: Literal["subscription", "change", "charge", "sale"]
    status: Literal["pending", "paid", "failed"]
    amount_minor: int
    currency: str
    at: datetime
    reference: str = ""
    tax_minor: int = 0
    refunded_minor: int = 0
    dispute: Literal["", "open", "won", "lost"] = ""
    failure: str = ""
    number: str = ""
    page_url: str = ""
    pdf_url: str = ""
    tax_lines: tuple[tuple[str, int], ...] = ()
    buyer: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SubscriptionState:
    """A subscription as its provider has it now.

    items:    keys of what it consists of now; empty where the provider can't say
    payments: the latest, in any order; those of charges too
    """

    id: str
    customer_id: str
    status: Literal["trialing", "active", "past_due", "paused", "ended"]
    period_start: datetime
    period_end: datetime
    cancel_at_period_end: bool = False
    ended_at: datetime | None = None
    trial_ends_at: datetime | None = None
    items: tuple[str, ...] = ()
    payments: tuple[PaymentState, ...] = ()
    method: str = ""
    """How it is paid, in words such as “Visa ending in 4242”; empty where it isn't known."""
    charges_usage: bool = False
    """Whether the provider's own meters charge what is used, instead of us; never changes."""


@dataclass(frozen=True)
class CheckoutState:
    """A hosted checkout as its provider has it now.

    pending:      the buyer has paid by a way that takes time, the money isn't there yet
    error:        why the last attempt failed, in the provider's words; an open one may be retried
    subscription: of a paid order
    payment:      of a paid sale
    customer_id:  likewise
    """

    status: Literal["open", "pending", "paid", "failed", "expired"]
    error: str = ""
    subscription: SubscriptionState | None = None
    payment: PaymentState | None = None
    customer_id: str = ""


@dataclass(frozen=True)
class Delivery:
    """A webhook whose signature holds. `payload` is the body, parsed, fit to be stored."""

    external_id: str
    type: str
    payload: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Subject:
    """What a delivery is about, as far as it says; the provider's own ids but for the first.

    reference: our id: of a checkout, a top-up, or a charge
    """

    reference: str
    subscription_id: str
    payment_id: str = ""
    customer_id: str = ""


class Provider(Protocol):
    def create_checkout(self, order: Order) -> Session:
        """Raises `ProviderUnavailable`, as every function here that asks the provider."""
        ...

    def create_sale(self, sale: Sale) -> Session: ...

    def fetch_checkout(self, session_id: str) -> CheckoutState:
        """Of an order or a sale."""
        ...

    def fetch_subscription(self, subscription_id: str) -> SubscriptionState: ...

    def cancel(self, subscription_id: str, *, at_period_end: bool) -> None:
        """Ends it now or plans its end; one that has ended already stays as it is."""
        ...

    def resume(self, subscription_id: str) -> None:
        """Withdraws a planned end."""
        ...

    def preview(self, subscription_id: str, change: Change) -> Preview:
        """What `change` would take now; changes nothing."""
        ...

    def change(self, subscription_id: str, change: Change) -> Changed:
        """Now: prorated and paid for at once, else nothing changes. At the period's end: nothing
        is paid before. Asking for what it consists of already does nothing, or withdraws what was
        planned. Raises `Declined` for what the provider can't put off.
        """
        ...

    def charge(self, order: ChargeOrder) -> PaymentState:
        """Asked again with the same reference, says what has become of it; one that failed is
        tried once more. Raises `Declined` where the provider won't even try.
        """
        ...

    def refund(self, payment_id: str, amount_minor: int, currency: str, reference: str) -> None:
        """Pays back part of a payment, once for each reference.

        Raises `Declined` where the provider won't.
        """
        ...

    def portal(self, customer_id: str, return_url: str) -> str:
        """Where a customer changes how they pay, and their tax data."""
        ...

    def unlisted(self, offers: Sequence[Offer]) -> list[Offer]:
        """Those that the provider has no price for yet; changes nothing."""
        ...

    def list_offer(self, offer: Offer) -> None:
        """Makes the price, unless there is one."""
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
