"""Plans that credits pay for, packs of credits, and what calls drew of them."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from uuid import UUID

from billing import catalogue, pricing, subscriptions, terms
from billing.models import (
    CreditPack,
    PastIncluded,
    Plan,
    PlanMeter,
    PlanVersion,
    Subscription,
)
from billing.providers import SubscriptionState
from billing.subscriptions import Fetched
from gateway.models import CreditUse, Meter
from keys.entitlements import Terms
from keys.models import Entitlement
from portal.models import Account
from tests.factories import make_account

START = datetime(2026, 5, 10, 12, tzinfo=UTC)
_serial = count(1)


def prepaid_version(
    *, kind: str = Plan.Kind.PAID, per_unit: int = 1, plan: Plan | None = None, **fields
) -> PlanVersion:
    """A published version whose calls take credits from the first one on."""
    number = next(_serial)
    if plan is None:
        plan = Plan.objects.create(slug=f"prepaid-{number}", name="Prepaid", kind=kind)
    version = PlanVersion.objects.create(
        plan=plan,
        number=number,
        **{"base_price_minor": 10_00, "rate_per_second": 10, "burst": 10} | fields,
    )
    calls, _ = Meter.objects.get_or_create(name="calls", defaults={"label": "calls"})
    PlanMeter.objects.create(
        version=version,
        meter=calls,
        included_units=0,
        past_included=PastIncluded.CREDITS,
        credits_per_unit=per_unit,
    )
    catalogue.publish(version, START)
    return version


def make_pack(amount: int = 1000, price_minor: int = 10_00, **fields) -> CreditPack:
    fields = {"name": f"{amount:,} credits", "credits": amount} | fields
    return CreditPack.objects.create(price_minor=price_minor, **fields)


def subscribed(version: PlanVersion, account: Account | None = None, **fields) -> Subscription:
    """A subscription at the sandbox from `START` on, without a visit to its checkout."""
    account = account or make_account()
    months = pricing.months_of(version)
    subscription = Subscription.objects.create(
        account=account,
        version=version,
        provider=fields.pop("provider", "sandbox"),
        provider_subscription_id=f"sub_{next(_serial)}",
        provider_customer_id=f"cus_{next(_serial)}",
        **{
            "state": Subscription.State.ACTIVE,
            "started_at": START,
            "period_start": START,
            "period_end": START.replace(year=2027) if months == 12 else START.replace(month=6),
            "anchor_day": START.day,
        }
        | fields,
    )
    terms.refresh(account.pk, subscription.period_start)
    return subscription


def said(subscription: Subscription, now: datetime, **fields) -> None:
    """The provider says something else of it from now on."""
    subscription.refresh_from_db()
    state = {
        "id": subscription.provider_subscription_id,
        "customer_id": subscription.provider_customer_id,
        "status": subscription.state,
        "period_start": subscription.period_start,
        "period_end": subscription.period_end,
    }
    fetched = Fetched(subscription.applied_ticket + 1, SubscriptionState(**state | fields))
    subscriptions.apply(subscription.account, fetched, subscription.provider, now)


def draw(account: Account, grant_id: int, amount: int) -> None:
    """Calls drew so much, and the ledger has it."""
    use, _ = CreditUse.objects.get_or_create(grant_id=grant_id, account_id=account.pk)
    use.credits += amount
    use.save()


def granted(account_id: UUID) -> list[tuple[int, int]]:
    """Amounts that the next call may draw of, with the priority that each has in the rows."""
    held = Terms.from_json(Entitlement.objects.get(account_id=account_id).terms)
    return [(grant.id, grant.amount) for grant in held.grants]
