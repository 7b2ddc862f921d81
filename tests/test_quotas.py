"""Quotas and notices: what the numbers say about where an account is heading."""

from datetime import UTC, datetime, timedelta

import pytest

from keys.models import Entitlement
from portal import notices, quotas
from portal.quotas import Quota

START = datetime(2026, 11, 1, tzinfo=UTC)
END = datetime(2026, 12, 1, tzinfo=UTC)


def quota(used, included=1000, *, days=10, refuses=True):
    return Quota("calls", used, included, refuses, START, END, START + timedelta(days=days))


def entitlement(**fields):
    meter = {"included": 500, "past": "refuse", "limit": 500}
    terms = {
        "rate_per_second": 5,
        "burst": 5,
        "meters": {"rows": meter, "calls": meter},
        "test_quota_per_day": 10,
        "key_limit": 3,
    }
    periods = [int(START.timestamp()), int(END.timestamp())]
    return Entitlement(**({"terms": terms, "periods": periods, "state": "active"} | fields))


def test_percent_is_rounded_down_so_that_100_means_all():
    assert [quota(used).percent for used in (0, 999, 1000, 5000)] == [0, 99, 100, 100]
    assert quota(0, included=0).percent == 100


def test_the_even_pace_is_the_share_of_the_period_gone_by():
    assert quota(0, days=10).even_pace_percent == 33
    assert quota(0, days=0).even_pace_percent == 0


def test_the_pace_says_when_the_limit_is_reached():
    assert quota(500, days=10).used_up_at == START + timedelta(days=20)


@pytest.mark.parametrize(("used", "days"), [(0, 10), (100, 10), (1000, 10), (2000, 10), (900, 0.1)])
def test_no_day_is_named_where_there_is_none(used, days):
    """Nothing used, lasting, used up, and too early to tell."""
    assert quota(used, days=days).used_up_at is None


def test_the_forecast_is_the_pace_until_the_period_ends():
    assert quota(500, days=10).forecast == 1500
    assert quota(500, days=0.1).forecast is None


def test_a_quota_that_will_run_out_is_warned_of_with_its_day():
    (notice,) = notices.of_quota(quota(500))

    assert notice.tone == "warn"
    assert notice.text == "At this pace you reach the limit on 21 November 2026."


def test_a_used_up_quota_says_until_when_calls_are_refused():
    (notice,) = notices.of_quota(quota(1000))

    assert notice.tone == "bad"
    assert "refused until 1 December 2026" in notice.text


def test_billed_units_past_the_quota_are_no_alarm():
    assert [notice.tone for notice in notices.of_quota(quota(1000, refuses=False))] == [""]
    assert [notice.tone for notice in notices.of_quota(quota(500, refuses=False))] == [""]


def test_a_quota_that_lasts_needs_no_notice():
    assert notices.of_quota(quota(100)) == []


def test_quotas_are_those_of_the_terms_calls_first():
    granted = entitlement()
    now = START + timedelta(days=1)
    period = quotas.period_of(granted, now)

    found = quotas.of_period(granted, period, {"calls": 7}, now)

    assert period == (START, END)
    assert [(quota.meter, quota.used, quota.included) for quota in found] == [
        ("calls", 7, 500),
        ("rows", 0, 500),
    ]


def test_there_is_no_period_before_between_or_without_terms():
    assert quotas.period_of(entitlement(), START - timedelta(seconds=1)) is None
    assert quotas.period_of(entitlement(), END) is None
    assert quotas.period_of(entitlement(periods=[]), START) is None
    assert quotas.period_of(None, START) is None


def test_an_account_in_order_needs_no_notice():
    assert notices.of_account(entitlement(), None, START) == []
    assert notices.of_account(None, None, START) == []


def test_suspension_and_the_end_are_said():
    ended = entitlement(state="ended", suspended=True, plan_name="Pro")

    found = notices.of_account(ended, None, START)

    assert [notice.headline for notice in found] == [
        "This account is suspended.",
        "Pro has ended.",
    ]


def test_who_has_own_terms_is_asked_to_write_when_they_are_used_up():
    (on_a_plan,) = notices.of_quota(quota(1000, refuses=True))
    (own,) = notices.of_quota(quota(1000, refuses=True), own_terms=True)

    assert (on_a_plan.href, own.href) == ("/pricing", "/enterprise/")
