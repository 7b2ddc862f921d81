"""A contract's terms hold on the next call, from its start to its end."""

from datetime import UTC, datetime, timedelta

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from billing import contracts, subscriptions
from billing.models import Contract, PastIncluded
from keys.models import ApiKey, Entitlement
from tests.factories import make_account
from tests.shop import coming_bill, published

MARCH_15 = datetime(2026, 3, 15, 8, 0, tzinfo=UTC)


def make_contract(account, *, starts_at=MARCH_15, ends_at=None, **fields):
    contract = Contract(
        account=account,
        starts_at=starts_at,
        ends_at=ends_at,
        **{
            "base_price_minor": 5_000_00,
            "rate_per_second": 500,
            "burst": 1000,
            "included_calls": 5_000_000,
            **fields,
        },
    )
    contract.full_clean()
    contract.save()
    return contract


@pytest.fixture
def account(transactional_db, redis_clean):
    return make_account()


def kinds(account):
    return [event.kind for event in account.billing_events.order_by("id")]


def test_a_contract_works_without_any_subscription(account):
    contract = make_contract(account)

    contracts.apply(account, MARCH_15)

    record = published(account)
    assert (record["state"], record["plan"]) == ("active", "Enterprise")
    assert (record["rate"], record["burst"]) == ("500", "1000")
    assert record["limit:calls"] == "5000000"
    assert record["terms"] == f"contract:{contract.pk}"
    assert int(record["periods"].split(",")[0]) == MARCH_15.timestamp()
    assert account.keys.get().state == ApiKey.State.UNCLAIMED
    event = account.billing_events.get()
    assert (event.kind, event.mrr_minor) == ("contract_changed", 5_000_00)
    assert event.data == {"plan": "Enterprise", "title": "Enterprise agreement"}


def test_a_changed_contract_holds_at_once(account):
    contract = make_contract(account)
    contracts.apply(account, MARCH_15)

    contract.rate_per_second = 900
    contract.past_included = PastIncluded.BILL
    contract.tiers = [{"up_to": None, "price": "0.50", "per": 1000}]
    contract.full_clean()
    contract.save(update_fields=["rate_per_second", "past_included", "tiers"])
    contracts.apply(account, MARCH_15 + timedelta(days=1))

    record = published(account)
    assert (record["rate"], record["limit:calls"]) == ("900", "")
    assert account.keys.count() == 1


def test_a_contract_takes_the_place_of_a_plan_and_gives_it_back(shop):
    account = make_account()
    subscription = shop.buy(account, "pro", at=timezone.now())
    now = timezone.now()

    make_contract(account, starts_at=now, ends_at=now + timedelta(days=90))
    contracts.apply(account, now)
    during = published(account)
    contracts.advance(account.pk, now + timedelta(days=90))
    after = published(account)

    assert (during["plan"], during["rate"], during["ends_ms"]) == ("Enterprise", "500", "")
    assert int(during["periods"].split(",")[0]) == subscription.period_start.timestamp()
    assert (after["plan"], after["rate"], after["state"]) == ("Pro", "100", "active")
    assert kinds(account) == ["started", "contract_changed", "contract_changed"]
    assert [event.mrr_minor for event in account.billing_events.order_by("id")] == [
        200_00,
        5_000_00,
        200_00,
    ]


def test_a_contract_begins_and_ends_on_time_by_itself(account):
    ends_at = MARCH_15 + timedelta(days=30)
    make_contract(account, ends_at=ends_at)
    contracts.apply(account, MARCH_15 - timedelta(days=3))
    before = published(account)

    contracts.advance(account.pk, MARCH_15 - timedelta(seconds=1))
    too_early = published(account)
    contracts.advance(account.pk, MARCH_15)
    during = published(account)
    contracts.advance(account.pk, MARCH_15 + timedelta(days=1))
    due = contracts.due_to_advance(ends_at)
    contracts.advance(account.pk, ends_at)

    assert before == too_early == {}
    assert due == {account.pk}
    assert contracts.due_to_advance(ends_at) == set()
    assert during["state"] == "active"
    assert during["ends_ms"] == str(int(ends_at.timestamp() * 1000))
    assert published(account)["state"] == "ended"
    assert kinds(account) == ["contract_changed"] * 3


def test_a_deleted_contract_ends_the_access_that_it_gave(account):
    contract = make_contract(account)
    contracts.apply(account, MARCH_15)

    contract.delete()
    contracts.apply(account, MARCH_15 + timedelta(days=1))

    assert published(account)["state"] == "ended"
    assert account.billing_events.first().mrr_minor == 0


def test_the_later_of_two_contracts_holds_and_time_changes_nothing_twice(account):
    make_contract(account)
    make_contract(account, rate_per_second=700)
    contracts.apply(account, MARCH_15)
    revision = Entitlement.objects.get(account=account).revision

    for minute in range(3):
        contracts.advance(account.pk, MARCH_15 + timedelta(minutes=minute))

    assert published(account)["rate"] == "700"
    assert Entitlement.objects.get(account=account).revision == revision
    assert kinds(account) == ["contract_changed"]


def test_a_contract_outlives_the_subscription_beside_it(shop):
    account = make_account()
    shop.buy(account, at=timezone.now())
    now = timezone.now()
    make_contract(account, starts_at=now)
    contracts.apply(account, now)

    subscriptions.cancel(account, at_period_end=False, now=now)

    assert published(account)["state"] == "active"
    assert published(account)["plan"] == "Enterprise"


def test_the_coming_bill_of_a_contract_names_its_price(account):
    make_contract(account, ends_at=MARCH_15 + timedelta(days=40))
    contracts.apply(account, MARCH_15)

    first = coming_bill(account, MARCH_15 + timedelta(days=1))
    last = coming_bill(account, MARCH_15 + timedelta(days=35))

    assert [(line.text, line.amount) for line in first.lines] == [
        ("Enterprise, next period", "$5,000.00")
    ]
    assert first.period_end == datetime(2026, 4, 15, 8, 0, tzinfo=UTC)
    assert last.total_minor == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"past_included": PastIncluded.BILL},
        {"tiers": [{"up_to": None, "price": "1.00", "per": 1}]},
        {"past_included": PastIncluded.BILL, "tiers": [{"up_to": 5, "price": "1.00", "per": 1}]},
        {"ends_at": MARCH_15},
        {"rate_per_second": 0},
        {"rate_per_second": 1_000_001},
    ],
)
def test_a_contract_that_cannot_be_kept_is_refused(account, fields):
    with pytest.raises(ValidationError):
        make_contract(account, **fields)
