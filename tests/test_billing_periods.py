"""Periods are anchored, touch one another and never run out."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from billing import periods

# 2020 to 2060, whole seconds as entitlements hold them.
moments = st.integers(1_577_836_800, 2_840_140_800).map(
    lambda seconds: datetime.fromtimestamp(seconds, UTC)
)


def test_a_short_month_ends_sooner_and_the_next_returns_to_the_anchor():
    start = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)

    months = [periods.add_months(start, month, 31) for month in range(5)]

    assert [month.strftime("%m-%d %H:%M") for month in months] == [
        "01-31 09:30",
        "02-28 09:30",
        "03-31 09:30",
        "04-30 09:30",
        "05-31 09:30",
    ]


def test_a_leap_day_is_an_anchor_too():
    leap_day = datetime(2028, 2, 29, tzinfo=UTC)

    assert periods.add_months(leap_day, 12, 29) == datetime(2029, 2, 28, tzinfo=UTC)
    assert periods.add_months(leap_day, 48, 29) == datetime(2032, 2, 29, tzinfo=UTC)


@given(moments, st.sampled_from([1, 12]), st.timedeltas(timedelta(0), timedelta(days=1500)))
def test_the_current_period_holds_now_and_two_years_follow(start, months, elapsed):
    now = start + elapsed
    end = periods.add_months(start, months, start.day)

    found = periods.boundaries(start, end, months=months, anchor_day=start.day, now=now)

    assert found[0] <= now < found[1]
    assert len(found) == periods.AHEAD + 1
    assert all(
        timedelta(days=28) <= later - earlier <= timedelta(days=31)
        for earlier, later in pairwise(found)
    )


@given(moments, st.timedeltas(timedelta(0), timedelta(days=365)))
def test_a_moment_on_a_boundary_belongs_to_the_later_period(start, elapsed):
    end = periods.add_months(start, 1, start.day)
    arguments = {"months": 1, "anchor_day": start.day}
    boundary = periods.boundaries(start, end, now=start + elapsed, **arguments)[1]

    on_it = periods.boundaries(start, end, now=boundary, **arguments)
    before_it = periods.boundaries(start, end, now=boundary - timedelta(seconds=1), **arguments)

    assert on_it[0] == boundary
    assert before_it[1] == boundary


def test_a_yearly_plan_counts_usage_month_by_month():
    start = datetime(2026, 1, 31, tzinfo=UTC)

    found = periods.boundaries(
        start, datetime(2027, 1, 31, tzinfo=UTC), months=12, anchor_day=31, now=start
    )

    assert [moment.strftime("%y-%m-%d") for moment in found[:3]] == [
        "26-01-31",
        "26-02-28",
        "26-03-31",
    ]
    assert found[12] == datetime(2027, 1, 31, tzinfo=UTC)


def test_the_first_period_ends_when_the_provider_says():
    start = datetime(2026, 1, 1, tzinfo=UTC)
    trial_end = datetime(2026, 1, 15, tzinfo=UTC)

    found = periods.boundaries(start, trial_end, months=1, anchor_day=15, now=start)

    assert found[:3] == [start, trial_end, datetime(2026, 2, 15, tzinfo=UTC)]
