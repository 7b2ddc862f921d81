"""Usage that a backend reports later: kept once, counted once, and what is wrong is named."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from django.db import close_old_connections
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import ledger, reports, usage
from gateway.models import CreditUse, Meter, ReportedEvent, UsageEvent, UsageRollup
from keys import records
from keys.entitlements import Grant, MeterTerms
from tests.test_api_keys import Program, problem, token_of
from tests.test_key_restrictions import restrict
from tests.test_publish import redis_away
from tests.traffic import NOW, committed, entitle, make_customer, make_key, put_on_sale, terms, used

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_clean")]

EVENTS = "/api/v1/events"
DAY = timedelta(days=1)
PERIOD = (NOW - DAY).replace(microsecond=0)


class Backend(Program):
    """A seller's backend that holds a token."""

    def send(self, *events):
        with committed():
            answer = self.ask("POST", EVENTS, {"events": list(events)})
        assert answer.status_code == 200, answer.content
        return answer.json()

    def refused(self, event):
        """The code of the one error that comes back for it, and nothing is stored."""
        before = UsageEvent.objects.count()
        body = self.send(event)
        assert (body["accepted"], body["duplicates"], len(body["errors"])) == (0, 0, 1)
        assert UsageEvent.objects.count() == before
        (error,) = body["errors"]
        assert error["detail"].endswith(".")
        assert error["index"] == 0
        return error["code"]


@pytest.fixture
def api():
    for name in ("calls", "tokens", "rows"):
        Meter.objects.create(name=name, label=name)
    return put_on_sale("http://127.0.0.1:9", {"GET /v1/next": {}, "POST /v1/jobs": {}})


@pytest.fixture
def customer(api):
    return make_customer(terms(tokens=MeterTerms(1000, "refuse", 1000)))


@pytest.fixture
def backend(api):
    return Backend(token_of(None, ("events:write",)))


@pytest.fixture
def use(customer):
    def one(event_id="job-1", **changes):
        given = {"id": event_id, "account": str(customer.account.pk), "units": {"tokens": 512}}
        return {name: value for name, value in (given | changes).items() if value is not None}

    return one


def stored():
    return UsageEvent.objects.get()


# ------------------------------------------------------------------ what is kept


def test_a_report_is_a_row_of_the_ledger_that_is_billed_and_no_call(backend, customer, use):
    happened = (timezone.now() - timedelta(hours=3)).replace(microsecond=1)
    key, api = str(customer.key.pk), {"api": "demo", "operation": "POST /v1/jobs"}

    body = backend.send(use(time=happened.isoformat(), key=key, metadata={"model": "large"}, **api))

    row = stored()
    assert body == {"accepted": 1, "duplicates": 0, "errors": []}
    assert (row.account_id, row.key_id) == (customer.account.pk, customer.key.pk)
    assert (row.outcome, row.billable, row.mode) == ("reported", True, "live")
    assert (row.units, row.metadata) == ({"tokens": 512}, {"model": "large"})
    assert (row.api, row.operation) == ("demo", "POST /v1/jobs")
    assert row.admitted_at == happened
    assert (row.period_start, row.terms_id) == (PERIOD, "version:1")
    (rolled,) = UsageRollup.objects.all()
    assert (rolled.meter, rolled.calls, rolled.billable_units) == ("tokens", 0, 512)
    period = usage.of_period(customer.account.pk, PERIOD)
    assert (period.calls, period.errors, period.billable_units) == (0, 0, {"tokens": 512})


def test_what_is_left_out_is_now_live_and_of_no_key(backend, use):
    before = timezone.now()

    backend.send(use())

    row = stored()
    assert before <= row.admitted_at <= row.recorded_at <= timezone.now()
    assert (row.key_id, row.mode) == (reports.NO_KEY, "live")
    assert (row.api, row.operation, row.metadata) == ("", "", {})


def test_the_use_of_a_test_key_is_never_billed(backend, customer, use):
    key, _ = make_key(customer.account, "test")

    backend.send(use(key=str(key.pk), units={"calls": 2}))

    row = stored()
    midnight = row.admitted_at.replace(hour=0, minute=0, second=0, microsecond=0)
    assert (row.mode, row.billable, row.period_start) == ("test", False, midnight)
    assert used(customer, "calls", "test") == 2
    assert used(customer) == 0


def test_what_is_reported_counts_against_the_quotas_of_account_and_key(backend, customer, use):
    restrict(customer.key, monthly_quota=5)

    backend.send(
        use("1", units={"tokens": 600, "calls": 3}, key=str(customer.key.pk)),
        use("2", units={"tokens": 600}),
        use("2", units={"tokens": 600}),
        use("3", units={"rows": 0}),
    )
    backend.send(use("1", units={"tokens": 600, "calls": 3}, key=str(customer.key.pk)))

    assert used(customer, "tokens") == 1200
    assert used(customer, "calls") == 3
    own = records.used_name(0, customer.key.pk, "live", PERIOD, "calls")
    assert records.connection().get(own) == b"3"
    counter = records.used_name(0, customer.account.pk, "live", PERIOD, "tokens")
    assert records.connection().ttl(counter) > 60 * 86400


def test_what_was_used_in_the_period_before_counts_there(backend, customer, use):
    before = PERIOD - 30 * DAY
    backend.send(use("known", time=PERIOD.isoformat()))
    UsageRollup.objects.update(period_start=before, quarter=before + DAY)

    backend.send(use("late", time=(PERIOD - timedelta(seconds=1)).isoformat()))

    late = UsageEvent.objects.get(pk__in=[stored_as("late")])
    assert late.period_start == before


def stored_as(event_id):
    row = ReportedEvent.objects.get(event_id=event_id)
    return row.usage_id, row.admitted_at


def test_a_month_that_no_partition_was_made_for_is_made(backend, customer, use):
    long_ago = timezone.now() - 34 * DAY
    entitle(customer.account, terms(), periods=[long_ago - DAY, long_ago + 60 * DAY])

    assert backend.send(use(time=long_ago.isoformat()))["accepted"] == 1
    assert stored().admitted_at == long_ago


# ------------------------------------------------------------------ credits


def test_past_what_is_included_credits_are_drawn_and_no_more_than_there_are(backend, customer, use):
    tokens = MeterTerms(100, "credits", None, 2)
    grants = (Grant(1, 90, int((NOW - DAY).timestamp())), Grant(2, 50, None), Grant(3, 40, None))
    entitle(customer.account, replace(terms(tokens=tokens), grants=grants))

    backend.send(use("1", units={"tokens": 80}), use("2", units={"tokens": 50}))
    first = dict(UsageEvent.objects.values_list("units__tokens", "credits"))
    backend.send(use("3", units={"tokens": 1000}))

    assert first == {80: None, 50: {"2": 50, "3": 10}}
    assert UsageEvent.objects.get(units__tokens=1000).credits == {"3": 30}
    assert dict(CreditUse.objects.values_list("grant_id", "credits")) == {2: 50, 3: 40}
    redis = records.connection()
    assert [redis.get(records.drawn_name(0, grant)) for grant in (1, 2, 3)] == [None, b"50", b"40"]


# ------------------------------------------------------------------ of a call


@pytest.fixture
def called(customer):
    """A call of the customer's, admitted and still open, by its id; `settle` ends it."""
    connection = records.connection()
    event_id = str(uuid.uuid4())
    at = int(NOW.timestamp() * 1e6)
    start = int(PERIOD.timestamp())
    open_ = [str(customer.account.pk), str(customer.key.pk), "live", start, "version:0", at]
    opened = "\t".join(map(str, [*open_, "demo", "GET /v1/next", '{"calls":1}', at, ""]))
    connection.hset(records.open_name(0), event_id, opened)
    end = {"outcome": "completed", "status": 200, "code": "", "billable": True}
    end |= {"units": {"calls": 1}, "meta": {}, "latency_us": 5, "upstream_us": 4, "in": 0, "out": 0}

    def settle():
        connection.hdel(records.open_name(0), event_id)
        fields = {"id": event_id, "open": opened, "end": json.dumps(end)}
        connection.xadd(records.usage_stream(0), fields)

    return event_id, settle


@pytest.mark.parametrize("stage", ["open", "settled", "drained"])
def test_a_use_belongs_to_its_call_wherever_that_is(backend, customer, called, stage):
    event_id, settle = called
    if stage != "open":
        settle()
    if stage == "drained":
        ledger.drain(0, timezone.now)

    body = backend.send({"id": "stream", "event": event_id, "units": {"tokens": 7}})

    assert body["accepted"] == 1
    row = UsageEvent.objects.get(outcome="reported")
    assert (row.account_id, row.key_id) == (customer.account.pk, customer.key.pk)
    assert (row.api, row.operation, row.mode) == ("demo", "GET /v1/next", "live")
    assert (row.period_start, row.terms_id) == (PERIOD, "version:0")
    assert row.admitted_at == NOW
    assert used(customer, "tokens") == 7


def test_a_report_names_no_other_things_than_its_call_had(backend, customer, called, use):
    event_id, _ = called
    other = make_customer()

    for named in (
        {"account": str(other.account.pk)},
        {"key": str(other.key.pk)},
        {"api": "other"},
        {"operation": "POST /v1/jobs"},
    ):
        report = {"id": "1", "event": event_id, "units": {"tokens": 1}} | named
        assert backend.refused(report) == "event_mismatch"

    right = use("2", event=event_id, key=str(customer.key.pk), api="demo")
    assert backend.send(right)["accepted"] == 1


def test_a_use_of_no_call_is_named(backend, use):
    assert backend.refused(use(event=str(uuid.uuid4()))) == "unknown_event"
    backend.send(use("1"))
    assert backend.refused(use("2", event=str(stored().id))) == "unknown_event"


def test_with_redis_away_calls_of_the_ledger_are_found_and_the_row_is_kept(
    backend, customer, called, use
):
    event_id, settle = called
    settle()
    ledger.drain(0, timezone.now)

    with redis_away():
        body = backend.send(use("1", event=event_id), use("2"), use("3", event=str(uuid.uuid4())))

    assert body["accepted"] == 2
    assert [error["code"] for error in body["errors"]] == ["unknown_event"]
    assert used(customer, "tokens") == 0


def test_a_redis_that_is_being_filled_is_not_counted_into(backend, customer, use):
    records.connection().delete(records.ready_name(0))

    assert backend.send(use())["accepted"] == 1
    assert used(customer, "tokens") == 0


# ------------------------------------------------------------------ once


def test_sent_again_it_is_the_same_use(backend, use):
    first = backend.send(use("1"), use("2"))
    again = backend.send(use("2"), use("1"), use("3"), use("3"))

    assert (first["accepted"], first["duplicates"]) == (2, 0)
    assert (again["accepted"], again["duplicates"]) == (1, 3)
    assert UsageEvent.objects.count() == ReportedEvent.objects.count() == 3


@pytest.mark.parametrize(
    "change",
    [
        {"units": {"tokens": 513}},
        {"units": {"tokens": 512, "rows": 1}},
        {"metadata": {"model": "large"}},
        {"time": NOW.isoformat()},
        {"api": "demo"},
    ],
)
def test_the_same_id_with_other_content_is_a_conflict(backend, use, change):
    backend.send(use())

    assert backend.refused(use(**change)) == "conflict"
    within = backend.send(use("2"), use("2", **change))
    assert (within["accepted"], [error["index"] for error in within["errors"]]) == (1, [1])
    assert within["errors"][0]["code"] == "conflict"


def test_another_accounts_ids_are_its_own(backend, use):
    other = make_customer()

    backend.send(use("1"))
    body = backend.send(use("1", account=str(other.account.pk)))

    assert body["accepted"] == 1


@pytest.mark.django_db(transaction=True)
def test_the_same_request_many_times_at_once_is_stored_once(backend, customer, use):
    events = [use(f"job-{number}") for number in range(100)]
    orders = [events, events[::-1], events[50:] + events[:50], events]

    def send(order):
        try:
            return backend.send(*order)
        finally:
            close_old_connections()

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(send, orders))

    assert sum(answer["accepted"] for answer in answers) == 100
    assert sum(answer["duplicates"] for answer in answers) == 300
    assert UsageEvent.objects.count() == 100
    assert used(customer, "tokens") == 51_200


def test_a_thousand_go_in_while_calls_are_drained(backend, customer, called, use):
    event_id, settle = called
    settle()
    ledger.drain(0, timezone.now)
    events = [use(f"job-{number}", event=event_id) for number in range(1000)]

    body = backend.send(*events)

    assert (body["accepted"], body["errors"]) == (1000, [])
    recorded = UsageEvent.objects.filter(outcome="reported").values_list("recorded_at", flat=True)
    (moment,) = set(recorded)
    assert moment > UsageEvent.objects.get(outcome="completed").recorded_at
    assert used(customer, "tokens") == 512_000


# ------------------------------------------------------------------ what is wrong


@pytest.mark.parametrize(
    "change",
    [
        {"id": ""},
        {"id": 7},
        {"id": "x" * 101},
        {"id": "a\nb"},
        {"units": {}},
        {"units": {"tokens": -1}},
        {"units": {"tokens": 1.0}},
        {"units": {"tokens": True}},
        {"units": {"tokens": "1"}},
        {"units": {"tokens": 10**12 + 1}},
        {"units": {"To kens": 1}},
        {"units": {f"m{number}": 1 for number in range(9)}},
        {"units": [1]},
        {"account": "northwind"},
        {"account": 7},
        {"account": ["a"]},
        {"key": {}},
        {"event": "1"},
        {"time": "yesterday"},
        {"time": "2026-11-24"},
        {"time": "2026-11-24T19:20:00"},
        {"time": "2026-13-24T19:20:00Z"},
        {"time": "0001-01-01T00:00:00+14:00"},
        {"time": 1_700_000_000},
        {"api": 7},
        {"operation": "x" * 312},
        {"metadata": {"model": 7}},
        {"metadata": {"model": "a,b"}},
        {"metadata": {"model": "é"}},
        {"metadata": {"model": "x" * 101}},
        {"metadata": {"": "x"}},
        {"metadata": {f"m{number}": "" for number in range(9)}},
        {"unit": {"tokens": 1}},
        {"mode": "live"},
    ],
)
def test_a_use_that_cannot_be_read_is_named_and_not_kept(backend, use, change):
    assert backend.refused(use(**change)) == "invalid"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"units": {"tokens": 1, "tokenz": 1}}, "unknown_meter"),
        ({"account": str(uuid.uuid4())}, "unknown_account"),
        ({"account": None}, "unknown_account"),
        ({"key": str(uuid.uuid4())}, "unknown_key"),
        ({"api": "elsewhere"}, "unknown_operation"),
        ({"api": "demo", "operation": "GET /v1/else"}, "unknown_operation"),
        ({"operation": "GET /v1/next"}, "unknown_operation"),
        ({"time": "2020-01-01T00:00:00Z"}, "time_out_of_range"),
        ({"time": "2100-01-01T00:00:00Z"}, "time_out_of_range"),
    ],
)
def test_a_use_that_names_what_is_not_there_is_named(backend, use, change, code):
    assert backend.refused(use(**change)) == code


def test_another_accounts_key_is_none(backend, use):
    other = make_customer()

    assert backend.refused(use(key=str(other.key.pk))) == "unknown_key"


def test_the_skew_is_five_minutes_ahead_and_five_weeks_back(backend, customer, use):
    now = timezone.now()
    entitle(customer.account, terms(), periods=[now - 60 * DAY, now + DAY])
    second = timedelta(seconds=30)

    def at(moment):
        return use(str(moment), time=moment.isoformat())

    ahead, ago = timedelta(minutes=5), 35 * DAY
    assert backend.send(at(now + ahead - second), at(now - ago + second))["accepted"] == 2
    assert backend.refused(at(now + ahead + second)) == "time_out_of_range"
    assert backend.refused(at(now - ago - second)) == "time_out_of_range"


def test_a_time_before_all_that_is_known_of_an_account_has_no_period(backend, use):
    assert backend.refused(use(time=(PERIOD - DAY).isoformat())) == "no_period"


def test_the_good_ones_are_kept_and_the_others_named_by_place_and_id(backend, use):
    body = backend.send(
        use("good"), use("bad", units={"tokens": -1}), "nonsense", use("lost", account=None)
    )

    assert body["accepted"] == 1
    named = [(error["index"], error["id"], error["code"]) for error in body["errors"]]
    assert named == [(1, "bad", "invalid"), (2, None, "invalid"), (3, "lost", "unknown_account")]
    assert ReportedEvent.objects.get().event_id == "good"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(
        st.sampled_from(
            ["id", "units", "account", "event", "key", "time", "api", "operation", "metadata"]
        ),
        json_values,
    )
)
def test_whatever_a_use_is_the_answer_is_about_it(backend, use, hostile):
    body = backend.send(hostile, use() | hostile)

    assert len(body["errors"]) + body["accepted"] + body["duplicates"] == 2


# ------------------------------------------------------------------ the request as a whole


def test_up_to_a_thousand_uses_come_in_a_request(backend, use):
    answer = backend.ask("POST", EVENTS, {"events": [use(str(n)) for n in range(1001)]})

    assert (answer.status_code, problem(answer)) == (413, "too_many_events")
    assert not UsageEvent.objects.exists()
    assert backend.send() == {"accepted": 0, "duplicates": 0, "errors": []}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "bad_json"),
        (b"[]", 400, "bad_json"),
        (b'{"events": [], "events": []}', 400, "bad_json"),
        (b"\xff", 400, "bad_json"),
        ({}, 400, "invalid_request"),
        ({"events": {}}, 400, "invalid_request"),
        ({"events": [], "more": 1}, 400, "invalid_request"),
        (b" " * (2 * 1024 * 1024 + 1), 413, "body_too_large"),
    ],
)
def test_a_request_that_is_none_is_refused_as_a_whole(backend, body, status, code):
    answer = backend.ask("POST", EVENTS, body)

    assert (answer.status_code, problem(answer)) == (status, code)


def test_only_the_sellers_tokens_with_the_scope_report(customer, use):
    own = Program(token_of(customer.account, ("keys:read", "keys:write", "usage:read")))
    sellers = Program(token_of(None, ("keys:write",)))

    for program in (own, sellers):
        answer = program.ask("POST", EVENTS, {"events": [use()]})
        assert (answer.status_code, problem(answer)) == (403, "scope_missing")
    nobody = Program("kst_nothing").ask("POST", EVENTS, {"events": [use()]})
    assert (nobody.status_code, problem(nobody)) == (401, "bad_token")
    assert not UsageEvent.objects.exists()


# ------------------------------------------------------------------ CloudEvents


def cloud_event(use, **changes):
    data = {name: value for name, value in use.items() if name not in ("id", "time")}
    envelope = {"specversion": "1.0", "source": "/jobs", "type": "example.job", "id": use["id"]}
    return envelope | {"time": "2026-11-24T19:20:00Z", "data": data} | changes


def send_cloud_events(backend, *events):
    return Client().generic(
        "POST",
        EVENTS,
        json.dumps(events),
        "application/cloudevents-batch+json",
        headers={"Authorization": f"Bearer {backend._text}"},
    )


def test_a_batch_of_cloud_events_says_the_same(backend, use):
    now = datetime.now(UTC).isoformat()
    plain = use("1", time=now)

    answer = send_cloud_events(
        backend,
        cloud_event(plain, time=now, datacontenttype="application/json", traceparent="00-x"),
        cloud_event(use("2"), time=now, specversion="0.3"),
        cloud_event(use("3"), time=now, data="text"),
        cloud_event(use("4"), time=now, data={"id": "5"}),
        cloud_event(use("6"), time=now, source=""),
        7,
    )

    body = answer.json()
    assert (answer.status_code, body["accepted"]) == (200, 1)
    assert [error["index"] for error in body["errors"]] == [1, 2, 3, 4, 5]
    assert {error["code"] for error in body["errors"]} == {"invalid"}
    assert backend.send(plain)["duplicates"] == 1


def test_one_cloud_event_is_no_batch(backend, use):
    answer = Client().generic(
        "POST",
        EVENTS,
        json.dumps(cloud_event(use())),
        "application/cloudevents-batch+json",
        headers={"Authorization": f"Bearer {backend._text}"},
    )

    assert (answer.status_code, problem(answer)) == (400, "bad_json")
