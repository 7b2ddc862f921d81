"""Credits that come with a plan: each month's and the trial's, once, and never a day too long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from billing import allowances, plan_credits, terms
from billing.models import Contract, CreditGrant, PastIncluded, Plan, PlanVersion, Subscription
from tests.factories import make_account
from tests.prepaid import START, draw, granted, prepaid_version, said, subscribed

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_clean")]

State = Subscription.State


def given(subscription) -> list[tuple[str, int, int, datetime]]:
    """Source, credits, priority and end of what the account was given, the oldest first."""
    rows = CreditGrant.objects.filter(account_id=subscription.account_id).order_by("pk")
    return [(row.source, row.amount, row.priority, row.expires_at) for row in rows]


def pass_time(now: datetime) -> None:
    """What beat does once a minute."""
    for account_id in set(plan_credits.due(now).values_list("account_id", flat=True)):
        allowances.begin_months(account_id, now)


def test_each_month_brings_its_credits_once():
    subscription = subscribed(prepaid_version(monthly_credits=500))

    for _ in range(3):
        pass_time(START + timedelta(days=3))
        terms.refresh(subscription.account_id, START + timedelta(days=3))

    assert given(subscription) == [("plan", 500, 50, datetime(2026, 6, 10, 12, tzinfo=UTC))]


def test_a_yearly_plan_brings_them_month_by_month():
    version = prepaid_version(monthly_credits=500, interval=PlanVersion.Interval.YEAR)
    subscription = subscribed(version)

    for month in (6, 7):
        pass_time(datetime(2026, month, 10, 11, 59, 59, tzinfo=UTC))
        pass_time(datetime(2026, month, 10, 12, tzinfo=UTC))

    ends = [end.month for *_, end in given(subscription)]
    assert ends == [6, 7, 8]


def test_weeks_without_a_worker_bring_the_current_month_only():
    subscription = subscribed(
        prepaid_version(monthly_credits=500, interval=PlanVersion.Interval.YEAR)
    )
    now = datetime(2026, 9, 30, tzinfo=UTC)

    pass_time(now)

    assert [end.month for *_, end in given(subscription)] == [6, 10]
    assert allowances.balance(subscription.account_id, now) == 500
    assert [amount for _, amount in granted(subscription.account_id)] == [500]


def test_a_renewal_that_is_confirmed_late_does_not_bring_them_again():
    subscription = subscribed(prepaid_version(monthly_credits=500))
    pass_time(datetime(2026, 6, 10, 12, tzinfo=UTC))

    # The provider's month began when it had the money.
    began = datetime(2026, 6, 10, 15, 30, tzinfo=UTC)
    said(subscription, began, period_start=began, period_end=began.replace(month=7))

    assert [end.month for *_, end in given(subscription)] == [6, 7]


def test_an_upgrade_within_the_month_brings_the_difference():
    subscription = subscribed(prepaid_version(monthly_credits=500))
    bigger = prepaid_version(plan=subscription.version.plan, monthly_credits=800)
    smaller = prepaid_version(plan=subscription.version.plan, monthly_credits=100)

    for version in (bigger, smaller, bigger):
        Subscription.objects.update(version=version)
        terms.refresh(subscription.account_id, START + timedelta(days=5))

    assert [amount for _, amount, *_ in given(subscription)] == [500, 300]


def test_free_ended_and_taken_again_brings_nothing_in_the_same_month():
    version = prepaid_version(kind=Plan.Kind.FREE, monthly_credits=500)
    first = subscribed(version, provider="none")
    Subscription.objects.update(state=State.ENDED, ended_at=START)

    again = subscribed(version, first.account, provider="none")

    assert len(given(again)) == 1


@pytest.mark.parametrize("state", [State.PAUSED, State.ENDED])
def test_who_has_no_running_plan_gets_none(state):
    subscription = subscribed(prepaid_version(monthly_credits=500))
    Subscription.objects.update(state=state)

    pass_time(datetime(2026, 6, 20, tzinfo=UTC))

    assert len(given(subscription)) == 1


def test_a_plan_that_was_not_renewed_in_time_brings_no_more():
    subscription = subscribed(prepaid_version(monthly_credits=500))

    pass_time(subscription.period_end + terms.RENEWAL_GRACE)

    assert len(given(subscription)) == 1


def test_a_contract_takes_their_place():
    subscription = subscribed(prepaid_version(monthly_credits=500))
    Contract.objects.create(
        account=subscription.account,
        base_price_minor=0,
        rate_per_second=1,
        burst=1,
        included_calls=1,
        past_included=PastIncluded.REFUSE,
        starts_at=START,
    )
    terms.refresh(subscription.account_id, START)

    pass_time(datetime(2026, 6, 10, 13, tzinfo=UTC))
    terms.refresh(subscription.account_id, datetime(2026, 6, 10, 13, tzinfo=UTC))

    assert len(given(subscription)) == 1


# ------------------------------------------------------------------ trials


def trial(version: PlanVersion, account=None) -> Subscription:
    ends = START + timedelta(days=14)
    return subscribed(version, account, state=State.TRIALING, trial_ends_at=ends, period_end=ends)


def test_a_trial_has_its_own_credits_and_the_month_comes_with_the_first_payment():
    subscription = trial(prepaid_version(trial_credits=50, monthly_credits=500))
    ends = subscription.trial_ends_at
    in_trial = given(subscription)

    said(
        subscription,
        ends,
        status="active",
        period_start=ends,
        period_end=ends + timedelta(days=30),
    )

    assert in_trial == [("trial", 50, 10, ends)]
    assert given(subscription)[1:] == [("plan", 500, 50, ends + timedelta(days=30))]
    assert allowances.balance(subscription.account_id, ends) == 500


def test_trial_credits_are_given_once_per_account():
    account = make_account()
    first = trial(prepaid_version(trial_credits=50), account)
    Subscription.objects.update(state=State.ENDED)

    trial(prepaid_version(trial_credits=70), account)

    assert [amount for _, amount, *_ in given(first)] == [50]


def test_the_order_of_use_is_trial_then_month_then_bought():
    subscription = subscribed(prepaid_version(monthly_credits=500))
    account = subscription.account
    bought = allowances.grant(account, 7, reason="test", by=None, now=START)
    of_month = CreditGrant.objects.get(source="plan")
    of_trial = CreditGrant.objects.create(
        account=account,
        source="trial",
        amount=50,
        priority=plan_credits.OF_TRIAL,
        expires_at=START + timedelta(days=90),
        created_at=START + timedelta(days=1),
    )
    terms.refresh(account.pk, START)

    assert [pk for pk, _ in granted(account.pk)] == [of_trial.pk, of_month.pk, bought.pk]


# ------------------------------------------------------------------ what is left


def test_the_balance_counts_neither_drawn_nor_over():
    account = subscribed(prepaid_version(monthly_credits=500)).account
    later = START + timedelta(days=400)
    kept = allowances.grant(account, 100, reason="test", by=None, now=START)
    draw(account, kept.pk, 30)

    assert allowances.balance(account.pk, START) == 570
    assert allowances.balance(account.pk, later) == 70
    assert allowances.balances([account.pk, make_account().pk], later) == {account.pk: 70}
