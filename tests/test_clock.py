"""A clock moved ahead: what goes by it, and what goes by the real time all the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from gateway import ledger, refill
from gateway import tasks as gateway_tasks
from gateway.models import RefusalRollup, UsageEvent
from keys import clock, records
from keys import tasks as keys_tasks
from keys.models import ClockShift
from tests import traffic
from tests.doors import assert_refused
from tests.traffic import NOW, entitle, make_customer, put_on_sale, terms

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)
READY = records.ready_name(0)
START, END, AFTER = NOW - DAY, NOW + 29 * DAY, NOW + 60 * DAY


@pytest.fixture
def movable(settings):
    settings.CLOCK_CAN_MOVE = True
    clock.forget()
    yield
    clock.forget()


def move(by: timedelta) -> timedelta:
    with traffic.committed():
        return clock.move(by)


@pytest.fixture
def customer(movable, redis_clean, backend):
    """Two periods of 29 and 31 days, 3 calls in each."""
    put_on_sale(backend.url)
    customer = make_customer()
    entitle(customer.account, terms(limit=3), periods=[START, END, AFTER])
    return customer


def statuses(call, customer, times: int) -> list[int]:
    return [call("/gateway/demo/echo", customer.bearer).status for _ in range(times)]


# ------------------------------------------------------------------ the move itself


def test_it_moves_ahead_by_what_is_said_and_stays_there(movable):
    assert move(3 * DAY) == 3 * DAY
    assert move(timedelta(seconds=1.9)) == 3 * DAY + timedelta(seconds=1)

    ahead = clock.now() - timezone.now()
    assert abs(ahead - clock.shift()) < timedelta(seconds=1)
    assert ClockShift.objects.get().seconds == 3 * 86400 + 1


@pytest.mark.parametrize("by", [timedelta(), -DAY, timedelta(milliseconds=999), 101 * 365 * DAY])
def test_it_moves_neither_back_nor_out_of_all_calendars(movable, by):
    with pytest.raises(ValueError, match="ahead"):
        clock.move(by)

    assert clock.shift() == timedelta()


def test_where_money_moves_the_time_is_the_real_one(movable, settings, redis_clean):
    redis_clean.set(READY, 0)
    move(DAY)
    settings.CLOCK_CAN_MOVE = False

    with pytest.raises(clock.CannotMove):
        clock.move(DAY)

    assert abs(clock.now() - timezone.now()) < timedelta(seconds=1)
    keys_tasks.republish()
    assert redis_clean.get(READY) == b"0"


# ------------------------------------------------------------------ at the gateway


def test_calls_after_a_move_are_of_the_period_that_it_led_to(call, customer):
    assert statuses(call, customer, 4) == [200, 200, 200, 429]

    move(30 * DAY)

    assert statuses(call, customer, 4) == [200, 200, 200, 429]
    traffic.entries()
    ledger.drain(0, clock.exactly)
    events = list(UsageEvent.objects.order_by("admitted_at"))
    starts = [START.replace(microsecond=0)] * 3 + [END.replace(microsecond=0)] * 3
    assert [event.period_start for event in events] == starts
    moved = [event.admitted_at - timezone.now() for event in events[3:]]
    assert all(29.9 * DAY < ahead <= 30 * DAY for ahead in moved)
    assert all(event.recorded_at >= event.admitted_at for event in events)


def test_what_a_key_has_left_is_told_of_the_period_that_it_is(call, customer):
    statuses(call, customer, 2)
    before = call("/gateway/demo/.limits", customer.bearer).json

    move(30 * DAY)
    after = call("/gateway/demo/.limits", customer.bearer).json

    assert before["quotas"]["calls"]["used"] == 2
    assert after["quotas"]["calls"]["used"] == 0
    assert datetime.fromisoformat(after["period"]["start"]) == END.replace(microsecond=0)


def test_an_end_that_the_clock_has_passed_holds(call, customer):
    entitle(customer.account, terms(), periods=[START, END, AFTER], ends_at=NOW + DAY)
    assert statuses(call, customer, 1) == [200]

    move(DAY + timedelta(minutes=1))

    assert_refused(call("/gateway/demo/echo", customer.bearer), "subscription_ended")


def test_a_rate_goes_by_the_real_time(call, customer):
    entitle(customer.account, terms(rate=1, burst=1), periods=[START, END, AFTER])
    assert statuses(call, customer, 1) == [200]

    move(DAY)

    assert_refused(call("/gateway/demo/echo", customer.bearer), "rate_limited")


def test_counters_live_for_as_long_as_their_period_lasts_from_now_on(call, customer, redis_clean):
    move(30 * DAY)

    statuses(call, customer, 1)

    name = records.used_name(0, customer.account.pk, "live", END, "calls")
    lifetime = timedelta(seconds=redis_clean.ttl(name))
    left = AFTER - clock.now() + timedelta(days=40)
    assert abs(lifetime - left) < timedelta(minutes=1)


def test_test_calls_have_their_quota_again_on_the_day_that_it_is(call, customer):
    entitle(customer.account, terms(test_quota=1), periods=[START, END, AFTER])
    _, secret = traffic.make_key(customer.account, "test")
    bearer = {"Authorization": f"Bearer {secret}"}
    call("/gateway/demo/echo", bearer)
    assert_refused(call("/gateway/demo/echo", bearer), "quota_exceeded")

    move(DAY)

    assert call("/gateway/demo/echo", bearer).status == 200


def test_refusals_are_counted_in_the_minute_that_it_is_and_leave_redis_after_it(
    call, customer, redis_clean
):
    move(30 * DAY)
    statuses(call, customer, 4)

    ledger.drain_refusals(0)
    (refused,) = RefusalRollup.objects.all()
    assert redis_clean.hlen(records.refused_name(0)) == 1
    assert abs(refused.minute - clock.now()) < timedelta(minutes=2)

    move(timedelta(minutes=3))
    ledger.drain_refusals(0)
    assert not redis_clean.exists(records.refused_name(0))


# ------------------------------------------------------------------ whoever missed it


def test_a_redis_that_was_away_hears_of_it_later(customer, redis_clean):
    clock.move(DAY)  # the test's transaction does not commit: nobody is told
    assert redis_clean.get(READY) == b"0"

    keys_tasks.republish()

    assert redis_clean.get(READY) == b"86400"


def test_who_was_told_late_does_not_turn_it_back(customer, redis_clean):
    move(2 * DAY)

    records.publish_shift(0, 86400)

    assert redis_clean.get(READY) == b"172800"


def test_an_empty_redis_is_filled_with_the_time_that_it_is(customer, redis_clean):
    move(30 * DAY)
    redis_clean.flushdb()
    records.publish_shift(0, 5)
    assert not redis_clean.exists(READY), "who moves the time of an empty Redis makes it ready"

    assert refill.refill(0, clock.now())

    assert redis_clean.get(READY) == str(30 * 86400).encode()
    assert abs(records.moment(0) - clock.now()) < timedelta(seconds=2)


def test_a_marker_of_an_earlier_release_is_the_real_time(call, customer, redis_clean):
    redis_clean.set(READY, "0192d3c4-7a51-7cc2-9d6e-1f2e3d4c5b6a")

    assert statuses(call, customer, 1) == [200]
    assert abs(records.moment(0) - datetime.now(UTC)) < timedelta(seconds=2)


def test_the_counters_are_found_right_at_a_moved_time(call, customer, redis_clean):
    move(30 * DAY)
    statuses(call, customer, 2)
    traffic.entries()
    gateway_tasks.drain()
    name = records.used_name(0, customer.account.pk, "live", END, "calls")
    redis_clean.set(name, 7)

    gateway_tasks.check_counters()
    gateway_tasks.check_counters()

    assert redis_clean.get(name) == b"2"
