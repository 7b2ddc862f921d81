from datetime import UTC, datetime, timedelta

import pytest
from django.db import transaction

from keys import entitlements, records
from keys.entitlements import MeterTerms, Terms
from keys.models import Entitlement
from tests.factories import make_account

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_clean")]

NOW = datetime(2026, 5, 10, 12, tzinfo=UTC)
PERIODS = [datetime(2026, month, 1, tzinfo=UTC) for month in (5, 6, 7)]
TERMS = Terms(
    rate_per_second=20,
    burst=40,
    meters={
        "calls": MeterTerms(included=10_000, past="refuse", limit=10_000),
        "rows": MeterTerms(included=500, past="bill", limit=None),
    },
    test_quota_per_day=200,
    key_limit=10,
)


def apply(account, **changes):
    wanted = {
        "state": "active",
        "plan_name": "Basic",
        "terms_id": "version:2",
        "terms": TERMS,
        "periods": PERIODS,
        "ends_at": None,
        "now": NOW,
    }
    return entitlements.apply(account.pk, **wanted | changes)


def held(account, name):
    value = records.connection().hget(records.account_name(0, account.pk), name)
    return None if value is None else value.decode()


def test_terms_survive_their_storage():
    assert Terms.from_json(TERMS.to_json()) == TERMS


def test_what_is_applied_is_what_the_data_plane_holds():
    account = make_account()

    entitlement = apply(account)

    name = records.account_name(0, account.pk)
    record = {k.decode(): v.decode() for k, v in records.connection().hgetall(name).items()}
    assert record == {
        "rev": str(entitlement.revision),
        "state": "active",
        "suspended": "0",
        "plan": "Basic",
        "terms": "version:2",
        "rate": "20",
        "burst": "40",
        "ends_ms": "",
        "periods": ",".join(str(int(start.timestamp())) for start in PERIODS),
        "test_quota": "200",
        "included:calls": "10000",
        "limit:calls": "10000",
        "included:rows": "500",
        "limit:rows": "",
        "more": "",
    }
    entitlement.refresh_from_db()
    assert entitlement.published_revision == entitlement.revision


def test_applying_the_same_again_changes_and_publishes_nothing():
    account = make_account()
    first = apply(account)
    records.connection().flushdb()

    second = apply(account)

    assert second.revision == first.revision
    assert held(account, "rev") is None


def test_a_meter_that_left_the_terms_leaves_the_record():
    account = make_account()
    apply(account)

    only_calls = Terms(20, 40, {"calls": TERMS.meters["calls"]}, 200, 10)
    apply(account, terms=only_calls)

    assert held(account, "included:rows") is None
    assert held(account, "included:calls") == "10000"


def test_periods_are_published_from_the_current_one_on():
    account = make_account()

    apply(account, now=PERIODS[1] + timedelta(seconds=1))

    assert held(account, "periods") == ",".join(
        str(int(start.timestamp())) for start in PERIODS[1:]
    )


def test_the_current_period_is_half_open():
    entitlement = apply(make_account())
    may, june, july = (int(start.timestamp()) for start in PERIODS)

    assert entitlements.current_period(entitlement, PERIODS[0] - timedelta(seconds=1)) is None
    assert entitlements.current_period(entitlement, PERIODS[0]) == (may, june)
    assert entitlements.current_period(entitlement, PERIODS[1]) == (june, july)
    assert entitlements.current_period(entitlement, PERIODS[2]) == (july, None)


def test_an_application_that_is_rolled_back_reaches_nobody():
    account = make_account()

    with transaction.atomic():
        apply(account)
        transaction.set_rollback(True)

    assert held(account, "rev") is None
    assert not Entitlement.objects.filter(account=account).exists()


def test_a_suspension_is_confirmed_and_survives_new_terms():
    account = make_account()
    apply(account)

    assert entitlements.suspend(account.pk, NOW)
    assert held(account, "suspended") == "1"

    apply(account, plan_name="Pro")

    assert held(account, "suspended") == "1"
    assert held(account, "plan") == "Pro"
    assert entitlements.lift(account.pk, NOW)
    assert held(account, "suspended") == "0"


def test_an_account_without_any_terms_can_be_suspended():
    account = make_account()

    assert entitlements.suspend(account.pk, NOW)

    assert (held(account, "state"), held(account, "suspended")) == ("ended", "1")
