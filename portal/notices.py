"""What a customer should know on arriving: a payment that failed, a limit that is near.

Words for states that others own; changes nothing and reads no database.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.urls import reverse

from billing import money, terms
from billing.allowances import Held
from billing.models import CreditGrant, PriceMove, Subscription
from keys.models import Entitlement
from portal.quotas import Quota
from portal.templatetags.texts import day

CREDITS_EXPIRE_SOON = timedelta(days=7)


@dataclass(frozen=True)
class Notice:
    """`tone` is a class of `.note`: "", "ok", "warn" or "bad"; `action` is its link's text."""

    tone: str
    headline: str
    text: str
    href: str = ""
    action: str = ""


def of_account(
    entitlement: Entitlement | None,
    subscription: Subscription | None,
    now: datetime,
    *,
    owed_since: datetime | None = None,
) -> list[Notice]:
    """What the account's state asks for, the worst first.

    subscription: the living one
    owed_since:   an invoice could not be charged since then
    """
    if entitlement is None:
        return []
    notices = []
    if entitlement.suspended:
        notices.append(
            Notice(
                "bad",
                "This account is suspended.",
                "Every call is refused with account_suspended. Please get in touch with us.",
                reverse("enterprise"),
                "Write to us",
            )
        )
    if entitlement.state == Entitlement.State.ENDED:
        notices.append(
            Notice(
                "bad",
                f"{entitlement.plan_name} has ended.",
                "Calls are refused with subscription_ended. Choose a plan, and the same keys "
                "work again.",
                reverse("pricing"),
                "Choose a plan",
            )
        )
    if subscription is not None and subscription.past_due_since is not None:
        notices.append(_past_due(subscription.past_due_since + terms.PAYMENT_GRACE, now))
    elif owed_since is not None:
        notices.append(_owed(owed_since + terms.PAYMENT_GRACE, now))
    if subscription is not None and subscription.state == Subscription.State.PAUSED:
        notices.append(
            Notice(
                "bad",
                f"{subscription.version.plan.name} is paused.",
                "Calls are refused with payment_required until it goes on; nothing is paid "
                "meanwhile.",
                reverse("enterprise"),
                "Write to us",
            )
        )
    if subscription is not None and subscription.cancel_at_period_end:
        name = subscription.version.plan.name
        notices.append(
            Notice(
                "warn",
                f"{name} ends on {day(subscription.period_end)}.",
                "Until then nothing changes; afterwards every key is refused.",
                reverse("billing"),
                f"Keep {name}",
            )
        )
    return notices


def of_price_change(move: PriceMove | None) -> list[Notice]:
    """A new price that was announced to the account."""
    if move is None:
        return []
    new, old = move.change.to_version, move.from_version
    prices = [
        money.text(version.base_price_minor, version.currency, short=True) for version in (old, new)
    ]
    return [
        Notice(
            "",
            f"{new.plan.name} has a new price from {day(move.change.effective_at)} on.",
            f"With your first period that begins then, {prices[1]} a {new.interval} instead of "
            f"{prices[0]}. The mail says what it includes. Your keys go on as they are.",
        )
    ]


def of_quota(quota: Quota, *, own_terms: bool = False) -> list[Notice]:
    """A quota that is used up, or will be before the period ends.

    Who has a contract finds no more on the price list, and is asked to write.
    """
    more = (
        (reverse("enterprise"), "Write to us")
        if own_terms
        else (reverse("pricing"), "Compare plans")
    )
    used = f"{quota.used:,} of {quota.included:,} {quota.meter} used."
    if not quota.left:
        if quota.refuses_past_included:
            text = f"Further calls are refused until {day(quota.period_end)}."
            return [Notice("bad", used, text, *more)]
        return [Notice("", used, "Further ones are billed at your plan’s price.")]
    if quota.used_up_at is not None:
        reach = "reach the limit" if quota.refuses_past_included else "pass what is included"
        text = f"At this pace you {reach} on {day(quota.used_up_at)}."
        tone = "warn" if quota.refuses_past_included else ""
        return [Notice(tone, used, text, *more)]
    if quota.tone:
        text = f"At this pace they last until {day(quota.period_end)}."
        return [Notice("", used, text)]
    return []


def _owed(grace_end: datetime, now: datetime) -> Notice:
    until = (
        "Calls are refused with payment_required until it is paid."
        if grace_end <= now
        else f"Calls keep working until {day(grace_end)}."
    )
    return Notice(
        "bad" if grace_end <= now else "warn",
        "An invoice could not be charged.",
        f"Update the payment method, or have it tried again. {until}",
        reverse("invoices"),
        "Invoices",
    )


def of_credits(holdings: Sequence[Held], now: datetime) -> list[Notice]:
    """Credits that are used up, nearly so, or about to expire, where calls need them.

    As far as the ledger has it. A plan's own credits of a month expire and come again.
    """
    left = sum(held.left for held in holdings)
    given = sum(held.grant.amount for held in holdings if not held.is_over)
    way = (reverse("credits"), "Buy credits")
    if not left:
        text = "Calls past what the plan includes are refused with credits_exhausted."
        return [Notice("warn", "No prepaid credits are left.", text, *way)]
    found = []
    if 10 * left < given:
        text = f"Of {given:,} that were there, {left:,} are left."
        found.append(Notice("", "Few prepaid credits are left.", text, *way))
    for held in holdings:
        at = held.grant.expires_at
        once = held.grant.source != CreditGrant.Source.PLAN
        if held.left and once and at is not None and at - now <= CREDITS_EXPIRE_SOON:
            text = "What is not used by then is gone."
            found.append(Notice("", f"{held.left:,} credits expire on {day(at)}.", text))
    return found


def _past_due(grace_end: datetime, now: datetime) -> Notice:
    if grace_end <= now:
        return Notice(
            "bad",
            "The payment is overdue.",
            "Calls are refused with payment_required until it arrives.",
            reverse("billing"),
            "Billing",
        )
    return Notice(
        "warn",
        "The last payment failed.",
        f"Calls keep working until {day(grace_end)}, then they are refused with payment_required.",
        reverse("billing"),
        "Billing",
    )
