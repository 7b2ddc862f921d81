"""The ledger's page in the admin: every call once, newest first, found by what staff know."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from django.urls import reverse

from gateway import partitions
from gateway.models import UsageEvent
from keys import clock
from keys.models import ApiKey
from portal.models import User
from portal.staff import ledger
from tests.factories import make_account

PAGE = reverse("admin:ledger")
NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@pytest.fixture
def desk(db, redis_clean, client):
    partitions.make_ahead(NOON)
    client.force_login(User.objects.create_superuser("staff@example.com", "a long enough one"))
    return client


def called(account_id, at, **fields):
    """One row of the ledger, its id drawn at the moment of admission."""
    event = {
        "id": UUID(int=(int(at.timestamp() * 1000) << 80) | (7 << 76) | (uuid4().int >> 66)),
        "admitted_at": at,
        "recorded_at": at + timedelta(seconds=1),
        "account_id": account_id,
        "key_id": uuid4(),
        "api": "holidays",
        "operation": "GET /v1/countries",
        "mode": ApiKey.Mode.LIVE,
        "outcome": UsageEvent.Outcome.COMPLETED,
        "status": 200,
        "code": "",
        "billable": True,
        "units": {"calls": 1},
        "metadata": {},
        "latency_us": 4_000,
        "upstream_us": 3_000,
        "request_bytes": 0,
        "response_bytes": 100,
        "period_start": at,
        "terms_id": "version:1",
        **fields,
    }
    return UsageEvent.objects.create(**event)


def shown(answer):
    return [row["event"].id for row in answer.context["rows"]]


def test_pages_follow_each_other_without_a_gap_or_a_repeat(desk):
    account = make_account()
    events = [
        called(account.pk, NOON + timedelta(seconds=second // 2))
        for second in range(2 * ledger.ROWS_PER_PAGE + 1)
    ]
    events.sort(key=lambda event: event.id)
    newest_first = [event.id for event in reversed(events)]

    for query in ("", f"?account={account.pk}"):
        seen, address = [], PAGE + query
        while address:
            answer = desk.get(address)
            seen += shown(answer)
            address = answer.context["older"] and PAGE + answer.context["older"]
        assert seen == newest_first


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"account": "northwind"}, {"old", "failed", "tried", "abandoned"}),
        ({"account": "other@example.com"}, {"others"}),
        ({"status": "5"}, {"failed"}),
        ({"status": "0"}, {"abandoned"}),
        ({"mode": "test"}, {"tried"}),
        ({"operation": "GET /v1/fail"}, {"failed"}),
        ({"first_day": "2026-11-20"}, {"others", "failed", "tried", "abandoned"}),
        ({"last_day": "2026-11-19"}, {"old"}),
        ({"account": "northwind", "last_day": "2026-11-19"}, {"old"}),
    ],
)
def test_calls_are_found_by_what_staff_know(query, found, desk):
    northwind = make_account(name="Northwind Labs")
    other = make_account(name="Other")
    other.billing_email = "other@example.com"
    other.save(update_fields=["billing_email"])
    events = {
        "old": called(northwind.pk, NOON - timedelta(days=1)),
        "others": called(other.pk, NOON),
        "failed": called(northwind.pk, NOON, status=503, operation="GET /v1/fail"),
        "tried": called(northwind.pk, NOON, mode=ApiKey.Mode.TEST),
        "abandoned": called(northwind.pk, NOON, outcome="abandoned", status=0),
    }

    answer = desk.get(PAGE, query)

    assert set(shown(answer)) == {events[name].id for name in found}


def test_calls_of_a_deleted_account_are_still_there(desk):
    event = called(uuid4(), NOON)

    answer = desk.get(PAGE, {"account": str(event.account_id)})

    assert shown(answer) == [event.id]
    assert "deleted" in answer.content.decode()


@pytest.mark.parametrize(
    "query",
    [
        {"account": "nobody"},
        {"first_day": "yesterday"},
        {"status": "9"},
        {"before": "x"},
        {"before": "2026-11-20T12:00:00,1"},
    ],
)
def test_nonsense_in_the_address_is_answered_with_a_page(query, desk):
    assert desk.get(PAGE, query).status_code == 200


def test_a_search_that_would_take_too_long_is_given_up(desk):
    called(uuid4(), NOON)
    slow = UsageEvent.objects.extra(where=["pg_sleep(5) IS NOT NULL"])

    with pytest.raises(ledger.TooSlow):
        ledger.read_page(slow, timedelta(milliseconds=20))

    assert len(ledger.read_page(UsageEvent.objects.all())) == 1


def test_calls_of_a_moved_clock_are_found_by_the_day_that_it_was(desk, settings):
    settings.CLOCK_CAN_MOVE = True
    clock.forget()
    clock.move(timedelta(days=20))
    event = called(make_account().pk, NOON)
    UsageEvent.objects.filter(pk=(event.id, event.admitted_at)).update(
        admitted_at=NOON + timedelta(days=2)
    )

    found = desk.get(f"{PAGE}?first_day=2026-11-22&last_day=2026-11-22")
    clock.forget()

    assert shown(found) == [event.id]
