"""The terms of an account: its plan version and its add-ons, or a contract in their place.

The one place that says what an account may do (`keys.entitlements.Terms`); what that costs stands
in `pricing`. Everything that changes either ends with `refresh`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from uuid import UUID

from django.conf import settings
from django.db.models import Q

from billing import caps, opening, periods, plan_credits, pricing, rating
from billing.models import (
    AddOn,
    Charge,
    Contract,
    CreditGrant,
    PastIncluded,
    PlanMeter,
    SpendCap,
    Subscription,
    SubscriptionAddOn,
)
from gateway import usage
from gateway.models import CALLS
from keys import entitlements
from keys.entitlements import Grant, MeterTerms, Terms
from keys.models import Entitlement
from keys.spend import Earlier

NO_PROVIDER = "none"
# Traffic goes on for this long while a renewal is unconfirmed, or its payment has failed.
RENEWAL_GRACE = timedelta(hours=settings.RENEWAL_GRACE_HOURS)
PAYMENT_GRACE = timedelta(days=settings.PAST_DUE_GRACE_DAYS)
CONTRACT_PLAN_NAME = "Enterprise"
CONTRACT_KEY_LIMIT = 100
CONTRACT_TEST_QUOTA_PER_DAY = 1000


@dataclass(frozen=True)
class Standing:
    """What an account has at a moment: a running contract, a subscription that lives, or both.

    A contract takes the place of the subscription's terms and price while it runs.

    add_ons: those that the subscription has, by id
    staying: those of them that are not dropped when the period ends
    """

    contract: Contract | None
    subscription: Subscription | None
    add_ons: tuple[AddOn, ...] = ()
    staying: tuple[AddOn, ...] = ()

    @property
    def plan_name(self) -> str:
        if self.contract:
            return CONTRACT_PLAN_NAME
        return self.subscription.version.plan.name if self.subscription else ""

    @property
    def currency(self) -> str:
        if self.contract:
            return self.contract.currency
        return self.subscription.version.currency if self.subscription else "USD"

    @cached_property
    def price(self) -> rating.Price | None:
        """What one period of these terms costs; None where there are none.

        Units past the included ones cost what the tiers say, whatever the customer has chosen
        since: where calls stop there, there are none.
        """
        if self.contract:
            return pricing.contract_price(self.contract)
        if self.subscription is None:
            return None
        return pricing.version_price(self.subscription.version, self.add_ons)

    @property
    def monthly_minor(self) -> int:
        """The account's monthly recurring revenue, minor units: base prices and add-ons.

        A yearly price counts a twelfth, half a unit rounded up; a trial and a pause count
        nothing, a failed payment still does until the subscription ends.
        """
        if self.contract:
            return self.contract.base_price_minor
        unpaid = (Subscription.State.TRIALING, Subscription.State.PAUSED)
        if self.subscription is None or self.subscription.state in unpaid:
            return 0
        version = self.subscription.version
        months = pricing.months_of(version)
        amount = version.base_price_minor + sum(one.price_minor for one in self.add_ons)
        return (2 * amount + months) // (2 * months)


def standing(account_id: UUID, now: datetime) -> Standing:
    """What the account has now, read from the rows."""
    contract = (
        Contract.objects.filter(account_id=account_id, starts_at__lte=now)
        .filter(Q(ends_at=None) | Q(ends_at__gt=now))
        .first()
    )
    subscription = (
        Subscription.objects.filter(account_id=account_id)
        .exclude(state=Subscription.State.ENDED)
        .select_related("version__plan")
        .first()
    )
    if subscription is None:
        return Standing(contract, None)
    alive = SubscriptionAddOn.objects.filter(subscription=subscription, ended_at=None)
    rows = alive.select_related("add_on__meter").order_by("add_on_id")
    return Standing(
        contract,
        subscription,
        tuple(row.add_on for row in rows),
        tuple(row.add_on for row in rows if not row.ends_at_period_end),
    )


def refresh(account_id: UUID, now: datetime) -> Entitlement | None:
    """Makes the account's entitlement say what it has now; None where it never had anything.

    In the caller's transaction, which holds the account (`accounts.locked`). What ends keeps
    the terms that it had: its keys answer `subscription_ended`, and its plan can be named.
    """
    has = standing(account_id, now)
    if has.contract:
        state = Entitlement.State.ACTIVE
        ends_at = None if has.subscription else has.contract.ends_at
        granted = _of_contract(has.contract)
    elif has.subscription:
        state, ends_at = _access(has.subscription, now)
        granted = _of_plan(has.subscription, has.add_ons)
    else:
        return _end(account_id, now)
    boundaries = usage_periods(has, now)
    opening.run_on(account_id, now)
    opening.begin(account_id, boundaries)
    is_let_through = state == Entitlement.State.ACTIVE and (ends_at is None or ends_at > now)
    if has.subscription and not has.contract and is_let_through:
        plan_credits.give(has.subscription, boundaries, now)
    return entitlements.apply(
        account_id,
        state=state,
        plan_name=has.plan_name,
        terms_id=terms_id(has),
        terms=_with_allowances(granted, account_id, has, now),
        periods=boundaries,
        ends_at=ends_at,
        now=now,
    )


def usage_periods(has: Standing, now: datetime) -> list[datetime]:
    """Boundaries of the months in which usage is counted, the current one's start first.

    A trial is a period of its own.
    """
    if has.subscription is not None:
        subscription = has.subscription
        trial_ends_at = subscription.trial_ends_at
        in_trial = trial_ends_at is not None and subscription.period_end <= trial_ends_at
        return periods.boundaries(
            subscription.period_start,
            subscription.period_end,
            months=1 if in_trial else pricing.months_of(subscription.version),
            anchor_day=subscription.anchor_day,
            now=now,
        )
    if has.contract is None:
        return []
    start = has.contract.starts_at.replace(microsecond=0)
    end = periods.add_months(start, 1, start.day)
    return periods.boundaries(start, end, months=1, anchor_day=start.day, now=now)


def terms_id(has: Standing) -> str:
    """What every usage event carries, so that it can be priced years later."""
    if has.contract:
        return pricing.id_of_contract(has.contract)
    if has.subscription is None:
        return ""
    return pricing.id_of_version(has.subscription.version_id, has.add_ons)


def _access(subscription: Subscription, now: datetime) -> tuple[Entitlement.State, datetime | None]:
    """Whether calls are let through, and the moment from which they no longer are.

    The grace of a failed payment has no such moment: what follows it is `payment_required`,
    which `deadlines.advance` and `charges.advance` set, not the end.
    """
    since = subscription.past_due_since
    paused = subscription.state == Subscription.State.PAUSED
    unpaid = paused or (since is not None and since + PAYMENT_GRACE <= now)
    unpaid = unpaid or _owes(subscription.account_id, now)
    state = Entitlement.State.PAYMENT_REQUIRED if unpaid else Entitlement.State.ACTIVE
    if subscription.cancel_at_period_end:
        return state, subscription.period_end
    if subscription.provider == NO_PROVIDER or since is not None or paused:
        return state, None
    return state, subscription.period_end + RENEWAL_GRACE


def _owes(account_id: UUID, now: datetime) -> bool:
    """Whether an invoice could not be charged for the whole grace; see `charges`."""
    owed = Charge.objects.filter(account_id=account_id, failed_since__lte=now - PAYMENT_GRACE)
    return owed.exists()


def _of_contract(contract: Contract) -> Terms:
    return Terms(
        rate_per_second=contract.rate_per_second,
        burst=contract.burst,
        meters={
            CALLS: _meter(
                contract.included_calls, contract.past_included, contract.credits_per_unit
            )
        },
        test_quota_per_day=CONTRACT_TEST_QUOTA_PER_DAY,
        key_limit=CONTRACT_KEY_LIMIT,
        apis=_apis(contract.apis),
        concurrency=contract.concurrency,
    )


def _of_plan(subscription: Subscription, add_ons: Sequence[AddOn]) -> Terms:
    """Prices compiled away: the gateway gets the units at which to refuse.

    Of a meter that the plan doesn't count, add-ons can't include more.
    """
    version = subscription.version
    stops = subscription.overage == Subscription.Overage.STOP
    further, faster = pricing.further_units(add_ons), sum(one.rate_per_second for one in add_ons)
    return Terms(
        rate_per_second=version.rate_per_second + faster,
        burst=version.burst + faster,
        meters={
            meter.meter.name: _meter(
                meter.included_units + further[meter.meter.name],
                _past(meter, stops),
                meter.credits_per_unit,
            )
            for meter in version.meters.select_related("meter")
        },
        test_quota_per_day=version.test_quota_per_day,
        key_limit=version.key_limit,
        apis=_apis(version.apis),
        scopes=tuple(sorted({scope for one in add_ons for scope in one.scopes})),
        concurrency=version.concurrency,
    )


def _past(meter: PlanMeter, stops: bool) -> str:
    """The customer may have calls stop where the plan would bill; credits are paid already."""
    if stops and meter.past_included == PastIncluded.BILL:
        return PastIncluded.REFUSE
    return meter.past_included


def _apis(slugs: list[str] | None) -> tuple[str, ...] | None:
    return None if slugs is None else tuple(sorted(slugs))


def _meter(included: int, past_included: str, credits_per_unit: int) -> MeterTerms:
    if past_included == PastIncluded.BILL:
        return MeterTerms(included, "bill", None)
    if past_included == PastIncluded.CREDITS:
        return MeterTerms(included, "credits", None, credits_per_unit)
    return MeterTerms(included, "refuse", included)


def _with_allowances(granted: Terms, account_id: UUID, has: Standing, now: datetime) -> Terms:
    """The terms with the account's credits and its own spend cap.

    Grants that are used up or over are left out; an expiry in between the gateway sees itself.
    """
    drawn = usage.credits_drawn(account_id)
    alive = CreditGrant.objects.filter(account_id=account_id, taken_back_at=None).exclude(
        expires_at__lte=now
    )
    cap = SpendCap.objects.filter(account_id=account_id).first()
    priced = has.price
    return replace(
        granted,
        grants=tuple(
            Grant(row.pk, row.amount, int(row.expires_at.timestamp()) if row.expires_at else None)
            for row in alive
            if drawn.get(row.pk, 0) < row.amount
        ),
        spend_cap=caps.compile_cap(cap.cap_minor, priced, _earlier(account_id, has, now))
        if cap and priced
        else None,
    )


def _earlier(account_id: UUID, has: Standing, now: datetime) -> Earlier | None:
    """What this period's usage under other terms costs, as far as the ledger has it."""
    start, end = (boundary.replace(microsecond=0) for boundary in usage_periods(has, now)[:2])
    by_terms: dict[str, list[usage.PricedUnits]] = {}
    for its_id, under_it in groupby(
        usage.priced_units(account_id, start, end), attrgetter("terms_id")
    ):
        by_terms.setdefault(pricing.priced_as(its_id), []).extend(under_it)
    by_terms.pop(pricing.priced_as(terms_id(has)), None)
    spent, units, before = 0, Counter[str](), rating.NOTHING
    for its_id, its_price in pricing.in_turn(
        {its_id: pricing.price_of(its_id) for its_id in by_terms}
    ):
        if its_price is None or its_price.currency != has.currency:
            continue
        carried = before if pricing.carries_over(its_id) else rating.NOTHING
        lines = rating.rate(its_price, by_terms[its_id], carried)[1:]
        spent += sum(line.amount_minor for line in lines)
        for quantity in by_terms[its_id]:
            units[quantity.meter] += quantity.units
        if pricing.carries_over(its_id):
            before = before.then(its_price, lines)
    if not units:
        return None
    left, reached = _carried(has, before)
    return Earlier(int(start.timestamp()), spent, dict(units), left, reached)


def _carried(has: Standing, before: rating.Before) -> tuple[dict[str, int], dict[str, int]]:
    """Of today's price: what earlier terms have left of included units, and past which units its
    prices go on, by meter.
    """
    priced = has.price
    left, reached = dict[str, int](), dict[str, int]()
    if priced is None or not pricing.carries_over(terms_id(has)):
        return left, reached
    for meter in priced.meters:
        if used := before.units.get(meter.meter):
            left[meter.meter] = max(0, meter.included_units - used)
        if meter.special:
            continue  # of these the gateway has the dearest price only
        own = (meter.meter, meter.tier_mode, meter.in_order[-1])
        if past := before.past.get(own):
            reached[meter.meter] = past
    return left, reached


def _end(account_id: UUID, now: datetime) -> Entitlement | None:
    held = Entitlement.objects.filter(account_id=account_id).first()
    if held is None or held.state == Entitlement.State.ENDED:
        return held
    opening.run_on(account_id, now)
    opening.end(account_id, now)
    return entitlements.apply(
        account_id,
        state=Entitlement.State.ENDED,
        plan_name=held.plan_name,
        terms_id=held.terms_id,
        terms=Terms.from_json(held.terms),
        periods=[datetime.fromtimestamp(boundary, UTC) for boundary in held.periods],
        ends_at=held.ends_at,
        now=now,
    )
