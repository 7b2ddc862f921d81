"""A named meter through the whole pipe: said by the backend with a call, and reported later."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from django.urls import reverse
from django.utils import timezone

from gateway import ledger, usage
from gateway.models import Meter, UsageEvent, UsageRollup
from keys.entitlements import MeterTerms
from portal.models import Membership
from tests import traffic
from tests.factories import make_user
from tests.markup import faults
from tests.test_api_keys import token_of
from tests.test_reported_events import Backend
from tests.traffic import NOW, Answer, Customer, ask, entitle, make_customer, put_on_sale, terms
from tests.traffic import used as counted

pytestmark = pytest.mark.django_db

SAID = "/gateway/demo/units?units=tokens%3D512%2C%20rows%3D3"


@pytest.fixture(scope="module")
def running():
    with traffic.gateway() as running:
        yield running


@pytest.fixture
def port(running, redis_clean) -> int:
    return running.port


@pytest.fixture
def customer(port, backend) -> Customer:
    """1000 tokens are a quota, 10 rows are included and further ones billed."""
    for name in ("calls", "rows"):
        Meter.objects.create(name=name, label=name)
    Meter.objects.create(name="tokens", label="tokens of text", dimensions=["model"])
    costs = {"max_units": {"tokens": 600, "rows": 20}}
    put_on_sale(backend.url, {"GET /units": costs, "GET /raw": costs, "GET /echo": {}})
    meters = {
        "tokens": MeterTerms(1000, "refuse", 1000),
        "rows": MeterTerms(10, "bill", None),
    }
    return make_customer(terms(limit=100, **meters))


@pytest.fixture
def seller(customer) -> Backend:
    return Backend(token_of(None, ("events:write",)))


def call(port: int, customer: Customer) -> Answer:
    answer = ask(port, "GET", SAID, customer.bearer)
    traffic.entries()
    ledger.drain(0, timezone.now)
    return answer


def test_what_a_backend_says_with_a_call_and_later_comes_together(port, customer, seller):
    answer = call(port, customer)

    more = {"id": "1", "event": answer["keystile-event"], "metadata": {"model": "large"}}
    assert seller.send(more | {"units": {"tokens": 88, "rows": 30}})["accepted"] == 1

    ran, reported = UsageEvent.objects.order_by("outcome")
    assert ran.units == {"calls": 1, "tokens": 512, "rows": 3}
    assert ran.metadata == {"model": "large", "region": "eu"}
    assert (reported.operation, reported.key_id) == (ran.operation, ran.key_id)
    assert (reported.period_start, reported.terms_id) == (ran.period_start, ran.terms_id)
    period = usage.of_period(customer.account.pk, ran.period_start)
    assert (period.calls, period.errors) == (1, 0)
    assert period.billable_units == {"calls": 1, "tokens": 600, "rows": 33}
    assert {meter: counted(customer, meter) for meter in period.units} == period.billable_units


def test_a_meters_dimension_is_summed_apart(port, customer, seller):
    event = call(port, customer)["keystile-event"]
    for number, metadata in enumerate(({"model": "large"}, {"model": "small"}, {})):
        report = {"id": str(number), "event": event, "units": {"tokens": 10}}
        seller.send(report | {"metadata": metadata})

    sums = UsageRollup.objects.filter(meter="tokens").values_list("dimensions", "billable_units")
    summed = {text and json.loads(text)["model"]: units for text, units in sums}
    assert summed == {"large": 522, "small": 10, "": 10}
    assert set(
        UsageRollup.objects.exclude(meter="tokens").values_list("dimensions", flat=True)
    ) == {""}


def test_each_meter_has_a_quota_of_its_own_and_a_report_may_go_past_it(port, customer, seller):
    first = call(port, customer)
    second = call(port, customer)  # 600 are reserved: there is no room for them past 512
    report = {"id": "1", "account": str(customer.account.pk), "units": {"tokens": 5000}}
    seller.send(report)
    third = ask(port, "GET", SAID, customer.bearer)
    other = ask(port, "GET", "/gateway/demo/echo", customer.bearer)

    assert first.status == 200
    assert (second.status, second.code) == (429, "quota_exceeded")
    assert (third.status, third.code) == (429, "quota_exceeded")
    assert other.status == 200
    assert counted(customer, "tokens") == 5512


def test_units_of_a_call_that_is_not_billed_come_back_of_every_meter(port, customer):
    says = "HTTP/1.1 500 X\r\nKeystile-Units: tokens=9, rows=1\r\nContent-Length: 0\r\n\r\n"

    answer = ask(port, "GET", f"/gateway/demo/raw?say={quote(says)}", customer.bearer)

    assert answer.status == 500
    (entry,) = traffic.entries()
    assert (entry["billable"], entry["units"]) == (False, {"calls": 1, "tokens": 9, "rows": 1})
    assert [counted(customer, meter) for meter in entry["units"]] == [0, 0, 0]


# ------------------------------------------------------------------ on the dashboard


@pytest.fixture
def overview(customer, client):
    """The account's overview, as its owner sees it."""
    owner = make_user()
    Membership.objects.create(user=owner, account=customer.account, role=Membership.Role.OWNER)

    def shown():
        client.force_login(owner, backend="django.contrib.auth.backends.ModelBackend")
        html = client.get(reverse("overview")).content.decode()
        assert faults(html) == []
        return html

    return shown


def test_the_overview_shows_every_meter_and_marks_what_was_reported(
    port, customer, seller, overview
):
    event = call(port, customer)["keystile-event"]
    seller.send({"id": "1", "event": event, "units": {"tokens": 1488, "rows": 1}})
    seller.send({"id": "2", "account": str(customer.account.pk), "units": {"rows": 1}})

    html = overview()

    assert "tokens of text" in html
    assert '<td class="n" data-label="Used">2,000</td>' in html
    assert "1,000 more; calls are refused" in html
    assert html.count('<span class="tag plain">reported</span>') == 2
    assert "no operation" in html


def test_the_overview_of_an_account_that_only_calls_has_no_meters(port, customer, overview):
    entitle(customer.account, terms(limit=100), now=NOW)
    ask(port, "GET", "/gateway/demo/echo", customer.bearer)
    traffic.entries()
    ledger.drain(0, timezone.now)

    assert "By meter" not in overview()
