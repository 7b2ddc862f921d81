"""Staff bring quarantined entries into the ledger, or give them up; both are remembered."""

from __future__ import annotations

import pytest
from django.contrib.admin.models import LogEntry
from django.urls import reverse
from django.utils import timezone

from gateway import ledger
from gateway.models import CounterCorrection, QuarantinedEntry, UsageEvent, UsageRollup
from keys import records
from portal.models import User
from tests.factories import make_account
from tests.test_admin import desk, do, page_of, said, staff  # noqa: F401
from tests.test_ledger import NOW, PERIOD, add, entry
from tests.test_publish import redis_away

pytestmark = pytest.mark.django_db(transaction=True)

LIST = reverse("admin:gateway_quarantinedentry_changelist")


@pytest.fixture
def account(desk):  # noqa: F811
    return make_account()


@pytest.fixture
def poison(account):
    """An entry whose sum does not fit, in quarantine as the drain puts it there."""
    add(entry(account=account.pk))
    ledger.drain(0, lambda: NOW)
    UsageRollup.objects.update(latency_us_sum=2**63 - 10**6)
    add(entry(account=account.pk, latency_us=10**9, operation="x"))
    ledger.drain(0, lambda: NOW)
    return QuarantinedEntry.objects.get()


def give_up(desk, row, reason):  # noqa: F811
    address = reverse("admin:gateway_quarantinedentry_deed", args=["discard"])
    return desk.post(address, {"pk": row.pk, "reason": reason}, follow=True)


def test_its_page_tells_of_the_call_and_why_it_is_here(desk, account, poison):  # noqa: F811
    page = desk.get(page_of(poison)).content.decode()

    assert "out of range" in page
    assert account.name in page
    assert "holidays GET /v1/next/{country}, live, status 200" in page
    assert "&quot;latency_us&quot;: 1000000000" in page


def test_a_repaired_entry_that_is_tried_again_is_in_the_ledger_once(desk, poison):  # noqa: F811
    UsageRollup.objects.update(latency_us_sum=0)

    answer = do(desk, "replay", poison)
    assert "on its way into the ledger" in said(answer)
    ledger.drain(0, lambda: NOW)

    assert UsageEvent.objects.count() == 2
    assert QuarantinedEntry.objects.filter(closed_at=None).count() == 0
    poison.refresh_from_db()
    assert poison.resolution == "replayed"
    assert LogEntry.objects.get().change_message == "Try again"
    assert "tried again" in desk.get(LIST).content.decode()


def test_one_that_still_cannot_be_stored_comes_back(desk, poison):  # noqa: F811
    do(desk, "replay", poison)
    ledger.drain(0, lambda: NOW)

    again = QuarantinedEntry.objects.get(closed_at=None)
    assert again.pk != poison.pk
    assert "out of range" in again.error
    assert UsageEvent.objects.count() == 1


def test_what_cannot_be_read_is_not_tried_again(desk, account):  # noqa: F811
    add({"id": "nonsense"})
    ledger.drain(0, lambda: NOW)
    kept = QuarantinedEntry.objects.get()

    assert "can’t be read" in said(do(desk, "replay", kept))

    kept.refresh_from_db()
    assert kept.closed_at is None
    assert not LogEntry.objects.exists()


def test_it_stays_where_it_is_while_redis_is_away(desk, poison):  # noqa: F811
    with redis_away():
        answer = do(desk, "replay", poison)

    assert "Redis did not take" in said(answer)
    poison.refresh_from_db()
    assert poison.closed_at is None


def test_who_gives_one_up_says_why(desk, staff, poison):  # noqa: F811
    for nothing in ("", "  ", "a\0b", "x" * 201):
        assert give_up(desk, poison, nothing).status_code == 200
        poison.refresh_from_db()
        assert poison.closed_at is None

    answer = give_up(desk, poison, "a test of ours")

    assert "given up" in said(answer)
    poison.refresh_from_db()
    assert (poison.resolution, poison.reason) == ("discarded", "a test of ours")
    assert poison.closed_at is not None
    noted = LogEntry.objects.get()
    assert (noted.user, noted.change_message) == (staff, "Give up: a test of ours")
    assert "nothing to do" in said(give_up(desk, poison, "again"))


def test_the_first_page_counts_those_that_wait(desk, poison):  # noqa: F811
    assert b"usage entry in quarantine" in desk.get(reverse("admin:index")).content

    give_up(desk, poison, "a test of ours")

    assert b"in quarantine</a>" not in desk.get(reverse("admin:index")).content
    waiting = desk.get(LIST, {"standing": "waiting"}).content.decode()
    assert poison.stream_id not in waiting
    assert poison.stream_id in desk.get(LIST, {"standing": "discarded"}).content.decode()


def test_staff_without_the_permission_do_neither(client, poison):
    helper = User.objects.create_user("helper@example.com", "a long enough one", is_staff=True)
    client.force_login(helper)

    for deed in ("replay", "discard"):
        address = reverse("admin:gateway_quarantinedentry_deed", args=[deed])
        assert client.post(address, {"pk": poison.pk, "reason": "mine"}).status_code == 403
    assert client.get(page_of(poison)).status_code == 403


def test_corrected_counters_are_listed(desk, account):  # noqa: F811
    name = records.used_name(0, account.pk, "live", PERIOD, "calls")
    CounterCorrection.objects.create(
        at=timezone.now(), account_id=account.pk, counter=name, counted=1200, booked=10
    )

    page = desk.get(reverse("admin:gateway_countercorrection_changelist")).content.decode()

    assert name in page
    assert account.name in page
    assert "-1,190" in page


def test_the_ledger_says_what_is_on_its_way(desk, account):  # noqa: F811
    redis = records.connection()
    seconds, _ = redis.time()
    redis.xadd(records.usage_stream(0), entry(), id=f"{(seconds - 75) * 1000}-0")
    redis.hset(records.open_name(0), "event", "…")
    redis.hset(records.sightings_name(0), "used:a", 1)

    page = desk.get(reverse("admin:ledger"))

    told = page.context["on_the_way"]
    assert (told.waiting, told.open, told.differing) == (1, 1, 1)
    assert 74 < told.lag_seconds < 90
    first = desk.get(reverse("admin:index")).content.decode()
    assert "call waits for the ledger, for more than a minute" in first
    ledger.drain(0, lambda: NOW)
    assert "waits for the ledger" not in desk.get(reverse("admin:index")).content.decode()


def test_staff_can_work_while_redis_is_away(desk, account):  # noqa: F811
    with redis_away():
        page = desk.get(reverse("admin:ledger"))
        first = desk.get(reverse("admin:index"))

    assert b"Redis is away" in page.content
    assert (page.status_code, first.status_code) == (200, 200)
