"""What is billed and what is not: from the client's bytes to ledger, sums and quotas."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from django.test import Client
from django.urls import reverse

from gateway import ledger
from gateway.models import Api, RefusalRollup, UsageEvent, UsageRollup
from keys import records
from keys.entitlements import Grant, MeterTerms
from portal.models import User
from tests import traffic
from tests.test_key_restrictions import restrict
from tests.traffic import NOW, Customer, ask, connect, make_customer, put_on_sale, terms, used

pytestmark = pytest.mark.django_db

WEIGHTS = {"calls": 2, "rows": 5}
UNBILLED = [304, 404]


@pytest.fixture(scope="module")
def running():
    with traffic.gateway() as running:
        yield running


@pytest.fixture
def port(running, redis_clean) -> int:
    return running.port


@pytest.fixture
def api(port, backend) -> Api:
    paths = ("status/{code}", "echo", "pause", "raw", "truncated", "never", "events")
    return put_on_sale(
        backend.url,
        {f"{method} /{path}": {"weights": WEIGHTS} for path in paths for method in ("GET", "POST")},
        first_byte_timeout_seconds=1,
        max_body_bytes=1000,
        unbilled_statuses=UNBILLED,
    )


@pytest.fixture
def customer(api) -> Customer:
    """Its account and its key have quotas; past 1 included call credits are drawn."""
    granted = terms(
        calls=MeterTerms(1, "credits", None, 3), rows=MeterTerms(100, "refuse", 100), test_quota=50
    )
    customer = make_customer(replace(granted, grants=(Grant(7, 1000, None),)))
    restrict(customer.key, monthly_quota=60)
    return customer


@dataclass
class Books:
    """What is written down of one call, at every place that counts."""

    event: UsageEvent
    billable: dict[str, int]
    calls: int
    quota: dict[str, int]
    own_quota: int
    drawn: int
    drawn_in_ledger: dict[str, int] | None


def books(customer: Customer, mode: str = "live") -> Books:
    traffic.entries()  # none is open any more
    ledger.drain(0, lambda: NOW)
    (event,) = UsageEvent.objects.all()
    rolled = {row.meter: row for row in UsageRollup.objects.all()}
    redis = records.connection()
    own = [redis.get(name) for name in redis.scan_iter(f"used:*:{customer.key.pk}:*:calls")]
    return Books(
        event=event,
        billable={meter: row.billable_units for meter, row in rolled.items()},
        calls=sum(row.calls for row in rolled.values()),
        quota={meter: used(customer, meter, mode) for meter in WEIGHTS},
        own_quota=sum(map(int, own)),
        drawn=int(redis.get(records.drawn_name(0, 7)) or 0),
        drawn_in_ledger=event.credits,
    )


def assert_billed(customer: Customer, status: int) -> None:
    found = books(customer)
    assert (found.event.status, found.event.billable, found.event.outcome) == (
        status,
        True,
        "completed",
    )
    assert (found.calls, found.billable, found.quota) == (1, WEIGHTS, WEIGHTS)
    assert (found.own_quota, found.drawn, found.drawn_in_ledger) == (2, 3, {"7": 3})


def assert_free(customer: Customer, status: int, code: str = "") -> None:
    """It is in the ledger, with its units; it is in no bill, and all that it took came back."""
    found = books(customer)
    assert (found.event.status, found.event.code) == (status, code)
    assert (found.event.billable, found.event.units) == (False, WEIGHTS)
    assert (found.calls, found.billable) == (1, {"calls": 0, "rows": 0})
    assert found.quota == {"calls": 0, "rows": 0}
    assert (found.own_quota, found.drawn, found.drawn_in_ledger) == (0, 0, None)


def get(port: int, path: str, customer: Customer) -> int:
    return ask(port, "GET", f"/gateway/demo/{path}", customer.bearer).status


# ------------------------------------------------------------------ by status


@pytest.mark.parametrize("status", [200, 201, 204, 302, 400, 401, 403, 409, 410, 422, 451])
def test_what_the_backend_answered_is_billed(port, customer, status):
    assert get(port, f"status/{status}", customer) == status

    assert_billed(customer, status)


@pytest.mark.parametrize("status", [500, 501, 502, 503, 504, 599])
def test_a_failure_of_the_backend_is_not_billed(port, customer, status):
    assert get(port, f"status/{status}", customer) == status

    assert_free(customer, status)


@pytest.mark.parametrize("status", [408, 429])
def test_a_backend_that_had_no_time_is_not_billed(port, customer, status):
    assert get(port, f"status/{status}", customer) == status

    assert_free(customer, status)


@pytest.mark.parametrize("status", UNBILLED)
def test_a_status_that_the_api_gives_away_is_not_billed(port, customer, status):
    assert get(port, f"status/{status}", customer) == status

    assert_free(customer, status)


def test_another_apis_statuses_are_its_own(port, backend, customer):
    operations = {"GET /status/{code}": {"weights": WEIGHTS}}
    put_on_sale(backend.url, operations, slug="strict", name="Strict")

    assert ask(port, "GET", "/gateway/strict/status/404", customer.bearer).status == 404

    assert_billed(customer, 404)


def test_a_changed_setting_holds_from_the_next_call_on(port, api, customer):
    Api.objects.filter(pk=api.pk).update(unbilled_statuses=[])
    traffic.publish_routes()

    assert get(port, "status/404", customer) == 404

    assert_billed(customer, 404)


# ------------------------------------------------------------------ without a whole answer


def test_a_call_that_ran_out_of_time_is_not_billed(port, customer):
    assert get(port, "pause?seconds=3", customer) == 504

    assert_free(customer, 504, "upstream_timeout")


def test_a_backend_that_speaks_no_http_is_not_billed(port, customer):
    assert get(port, "raw?say=nonsense&close", customer) == 502

    assert_free(customer, 502, "upstream_unreachable")


def test_a_backend_that_is_away_is_not_billed(port, api, customer):
    gone = f"http://127.0.0.1:{traffic.free_port()}"
    Api.objects.filter(pk=api.pk).update(upstream_url=gone)
    traffic.publish_routes()

    assert get(port, "echo", customer) == 502

    assert_free(customer, 502, "upstream_unreachable")


def test_a_client_that_leaves_before_the_answer_is_not_billed(port, customer):
    with connect(port) as connection:
        connection.sendall(traffic.request_bytes("GET", "/gateway/demo/never", customer.bearer))
        traffic.eventually(lambda: records.connection().hlen(records.open_name(0)))

    assert_free(customer, 499)


def test_a_client_that_leaves_after_the_answer_has_begun_is_billed(port, customer):
    with connect(port) as connection:
        connection.sendall(
            traffic.request_bytes("GET", "/gateway/demo/events?pause=0.05", customer.bearer)
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")

    assert_billed(customer, 200)


def test_an_answer_that_breaks_off_is_billed_and_says_so(port, customer):
    assert get(port, "truncated", customer) == 200

    found = books(customer)
    assert (found.event.code, found.event.billable) == ("truncated", True)
    assert found.billable == WEIGHTS


def test_a_body_that_turns_out_too_large_is_not_billed(port, customer):
    fields = customer.bearer | {"Host": "gateway.test", "Transfer-Encoding": "chunked"}
    head = ["POST /gateway/demo/echo HTTP/1.1", *(f"{name}: {fields[name]}" for name in fields)]
    body = b"7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n"

    answer = traffic.ask_raw(port, ("\r\n".join(head) + "\r\n\r\n").encode() + body)

    assert answer is not None
    assert answer.status == 413
    assert_free(customer, 413, "body_too_large")


# ------------------------------------------------------------------ refusals, test mode


@pytest.mark.parametrize(
    ("path", "fields", "code"),
    [
        ("/gateway/nothing/echo", {}, "unknown_api"),
        ("/gateway/demo/elsewhere", {}, "unknown_operation"),
        ("/gateway/demo/echo", {"Content-Length": "2000"}, "body_too_large"),
    ],
)
def test_a_refused_call_is_counted_as_that_and_costs_nothing(port, customer, path, fields, code):
    answer = ask(port, "POST", path, customer.bearer | fields)

    assert answer.code == code
    ledger.drain(0, lambda: NOW)
    ledger.drain_refusals(0)
    assert not UsageEvent.objects.exists()
    assert not UsageRollup.objects.exists()
    assert [(row.code, row.count) for row in RefusalRollup.objects.all()] == [(code, 1)]
    assert {meter: used(customer, meter) for meter in WEIGHTS} == {"calls": 0, "rows": 0}


def test_a_call_past_the_quota_costs_nothing(port, customer):
    restrict(customer.key, monthly_quota=3)
    assert get(port, "echo", customer) == 200

    assert get(port, "echo", customer) == 429

    assert_billed(customer, 200)


@pytest.mark.parametrize("status", [200, 404, 500])
def test_a_test_call_is_never_billed(port, api, status):
    customer = make_customer(terms(test_quota=50), mode="test")

    assert get(port, f"status/{status}", customer) == status

    found = books(customer, mode="test")
    assert (found.event.mode, found.event.billable) == ("test", False)
    assert set(found.billable.values()) == {0}
    assert found.quota["calls"] == (2 if status == 200 else 0)
    assert used(customer) == 0


# ------------------------------------------------------------------ the setting, and what is said


@pytest.fixture
def desk(client) -> Client:
    client.force_login(User.objects.create_superuser("staff@example.com", "a long enough one"))
    return client


def form_of(desk: Client, api: Api) -> tuple[str, dict[str, object]]:
    page = reverse("admin:gateway_api_change", args=[api.pk])
    context = desk.get(page).context["adminform"].form
    form = {name: "" if value is None else value for name, value in context.initial.items()}
    lists = ("cors_origins", "private_networks")
    return page, form | dict.fromkeys(lists, "") | {
        "unbilled_statuses": context["unbilled_statuses"].value(),
        "operations-TOTAL_FORMS": 0,
        "operations-INITIAL_FORMS": 0,
    }


@pytest.mark.parametrize(
    ("written", "kept"),
    [("404", [404]), (" 410, 404 404 ", [404, 410]), ("408, 304, 429", [304]), ("", [])],
)
def test_staff_say_which_statuses_are_given_away(desk, api, written, kept):
    page, form = form_of(desk, api)
    assert form["unbilled_statuses"] == "304, 404"

    assert desk.post(page, form | {"unbilled_statuses": written}).status_code == 302

    api.refresh_from_db()
    assert api.unbilled_statuses == kept


@pytest.mark.parametrize("written", ["200", "500", "4xx", "404; 409", "99", "-404", "٤٠٤", "40 4"])
def test_what_is_no_status_of_the_apis_choice_is_refused_with_a_sentence(desk, api, written):
    page, form = form_of(desk, api)

    answer = desk.post(page, form | {"unbilled_statuses": written})

    assert answer.status_code == 200
    assert "is not a status from 201 to 499" in str(
        answer.context["adminform"].form.errors["unbilled_statuses"]
    )
    api.refresh_from_db()
    assert api.unbilled_statuses == UNBILLED


def test_the_docs_say_what_an_api_gives_away(api, client):
    limits = client.get(reverse("docs_limits")).content.decode()
    reference = client.get(reverse("docs_api", args=[api.slug])).content.decode()

    assert "<code>304</code>, <code>404</code>;" in limits
    assert "<code>304</code>, <code>404</code>" in reference


def test_the_docs_of_an_api_that_gives_nothing_away_say_nothing_of_it(api, client):
    Api.objects.update(unbilled_statuses=[])

    for page in (reverse("docs_limits"), reverse("docs_api", args=[api.slug])):
        assert "<code>404</code>" not in client.get(page).content.decode()
