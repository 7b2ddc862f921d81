"""An invoice is closed once, has every entry of the ledger once, and never changes."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Event

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, OperationalError, connection, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from billing import contracts, explanations, free_plan, invoices, tasks, terms
from billing.models import Contract, Invoice, InvoiceCounter, InvoiceLine, PlanMeter, PlanVersion
from gateway import chain
from gateway.models import LedgerHour, Meter, UsageEvent
from keys import service_tokens
from portal.models import Membership, User
from tests.factories import make_account, make_api, make_member, make_plans
from tests.ledger_world import DAY, HOUR, close, closed, lines, month, subscribe, tell, use
from tests.markup import faults
from tests.shop import coming_bill, until, working

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_clean")]

MARCH, APRIL, MAY = month(3), month(4), month(5)


@pytest.fixture
def plans():
    return make_plans()


@pytest.fixture
def account(plans):
    return make_account()


def everything_is_on_one_invoice(*accounts):
    """Each billable unit of the ledger is on one line, and each line's hours add up to it."""
    for account in accounts:
        events = UsageEvent.objects.filter(account_id=account.pk, mode="live", billable=True)
        in_ledger = sum(event.units.get("calls", 0) for event in events)
        found = InvoiceLine.objects.filter(invoice__account=account, meter="calls")
        assert sum(line.units for line in found) == in_ledger
        for line in found:
            assert sum(hour["units"] for hour in line.hours) == line.units
            assert sum(hour["events"] for hour in line.hours) == line.entries


# ------------------------------------------------------------------ closing


def test_an_invoice_has_the_usage_of_its_period_and_the_next_base_price(account, plans):
    subscription = subscribe(account, plans["basic"], MARCH)
    use(account, MARCH + DAY, 9_000)
    use(account, MARCH + 20 * DAY, 3_300)
    tell(subscription, APRIL)

    assert close(APRIL + 2 * HOUR) == 1

    (invoice,) = closed(account)
    assert (invoice.period_start, invoice.period_end) == (MARCH, APRIL)
    assert lines(invoice) == [
        ("Basic, from 1 April 2026", 50_00),
        ("2,300 calls past 10,000", 13_80),
    ]
    assert (invoice.total_minor, invoice.currency, invoice.number) == (63_80, "USD", 1)
    usage = invoice.lines.get(meter="calls")
    assert (usage.units, usage.included_units, usage.entries) == (12_300, 10_000, 2)
    everything_is_on_one_invoice(account)


def test_it_waits_until_the_hours_it_rests_on_are_closed(account, plans):
    subscription = subscribe(account, plans["basic"], MARCH)
    use(account, MARCH + DAY)
    tell(subscription, APRIL)

    assert close(APRIL) == close(APRIL + HOUR / 2) == close(APRIL + HOUR - DAY / 86400) == 0
    assert close(APRIL + HOUR) == 1
    assert close(APRIL + HOUR) == close(APRIL + 5 * HOUR) == 0
    assert closed(account)[0].cut == APRIL + HOUR


def test_a_year_of_months_comes_to_twelve_invoices_also_when_closed_late(plans):
    prompt, late = make_account(), make_account()
    for account in (prompt, late):
        subscription = subscribe(account, plans["basic"], month(1, 31))
        for number in range(1, 13):
            now = month(number, 28)
            tell_at = terms.usage_periods(terms.standing(account.pk, now), now)[1]
            use(account, tell_at - DAY, 10_000 + number * 100)
            tell(subscription, tell_at)
            if account is prompt:
                close(tell_at + HOUR * 2)
    close(month(12, 31) + 40 * DAY)

    for account in (prompt, late):
        found = closed(account)
        assert [invoice.period_end.day for invoice in found[:4]] == [28, 31, 30, 31]
        assert [invoice.total_minor for invoice in found[:12]] == [
            50_00 + number * 60 for number in range(1, 13)
        ]
        for one, following in pairwise(found):
            assert one.period_end == following.period_start
    everything_is_on_one_invoice(prompt, late)


def test_a_yearly_plan_has_its_usage_by_the_month_and_its_base_price_once_a_year(account, plans):
    version = PlanVersion.objects.create(
        plan=plans["basic"].plan, number=2, interval="year", base_price_minor=500_00
    )
    for meter in plans["basic"].meters.all():
        meter.pk, meter.version = None, version
        meter.save(force_insert=True)
    subscription = subscribe(account, version, MARCH, months=12)
    for number in (3, 4, 12):
        use(account, month(number, 5), 11_000)
    close(month(12, 30))
    tell(subscription, subscription.period_end)
    close(subscription.period_end + HOUR)

    totals = [invoice.total_minor for invoice in closed(account)]
    assert totals == [6_00, 6_00, *[0] * 7, 6_00, 0, 500_00]
    everything_is_on_one_invoice(account)


def test_a_purchase_ends_the_free_period_and_its_price_is_on_the_receipt(account, plans):
    owner = account.members.get()
    owner.emailaddress_set.create(email=owner.email, verified=True)
    free_plan.start(account, owner, MARCH)
    use(account, MARCH + DAY, 400)
    subscribe(account, plans["basic"], MARCH + 9 * DAY)
    use(account, MARCH + 10 * DAY, 10_500)
    close(month(5))

    free, paid = closed(account)
    assert (free.period_start, free.period_end) == (MARCH, MARCH + 9 * DAY)
    assert lines(free) == [("400 calls of 500 included", 0)]
    assert (free.total_minor, free.number) == (0, None)
    assert paid.period_start == MARCH + 9 * DAY
    assert lines(paid)[-1] == ("500 calls past 10,000", 3_00)
    everything_is_on_one_invoice(account)


def test_a_contract_and_the_plan_before_it_each_rate_what_was_used_under_them(account, plans):
    subscribe(account, plans["basic"], MARCH)
    use(account, MARCH + DAY, 11_000)
    Contract.objects.create(
        account=account,
        base_price_minor=900_00,
        rate_per_second=50,
        burst=50,
        included_calls=1_000,
        past_included="bill",
        tiers=[{"up_to": None, "price": "1.00", "per": 1000}],
        starts_at=MARCH + 10 * DAY,
    )
    contracts.apply(account, MARCH + 10 * DAY)
    use(account, MARCH + 11 * DAY, 3_000)
    close(APRIL + HOUR)

    (invoice,) = closed(account)
    assert lines(invoice) == [
        ("Enterprise, from 1 April 2026", 900_00),
        ("2,000 calls past 1,000", 2_00),
        ("1,000 calls past 10,000", 6_00),
    ]
    everything_is_on_one_invoice(account)


def test_the_bill_before_the_end_and_the_closed_invoice_agree_to_the_cent(account, plans):
    make_api()
    Meter.objects.filter(name="calls").update(dimensions=["model"])
    version = PlanVersion.objects.create(plan=plans["pro"].plan, number=2, base_price_minor=99_99)
    PlanMeter.objects.create(
        version=version,
        meter=Meter.objects.get(name="calls"),
        included_units=10,
        past_included="bill",
        tiers=[{"up_to": None, "price": "0.0033", "per": 1}],
        special_prices=[
            {
                "dimensions": {"model": "large"},
                "tiers": [{"up_to": None, "price": "0.07", "per": 3}],
            },
            {
                "operation": "GET /v1/countries",
                "tiers": [{"up_to": None, "price": "0.0101", "per": 1}],
            },
        ],
    )
    subscription = subscribe(account, version, MARCH)
    for number, model in enumerate(["large", "small", "large", "small"], 1):
        use(account, MARCH + number * DAY, 7 * number, meta={"model": model})
        use(account, MARCH + number * DAY, 11, operation="other", meta={"model": model})
    bill = coming_bill(account, APRIL - HOUR)
    tell(subscription, APRIL)
    close(APRIL + HOUR)

    (invoice,) = closed(account)
    assert invoice.total_minor == bill.total_minor > 99_99
    assert lines(invoice)[1:] == [(line.text, line.amount_minor) for line in bill.lines[1:]]
    large = invoice.lines.get(selects__filter={"dimensions": {"model": "large"}})
    assert (large.units, large.included_units) == (7 + 21 + 22, 10)
    everything_is_on_one_invoice(account)


def test_what_is_not_billed_is_on_the_lines_and_costs_nothing(account, plans):
    subscribe(account, plans["basic"], MARCH)
    use(account, MARCH + DAY, 10_000)
    use(account, MARCH + DAY, status=503, billable=False)
    use(account, MARCH + DAY, 5_000, mode="test")
    use(account, MARCH + DAY, 1, units={"calls": 1, "rows": 40})
    close(APRIL + HOUR)

    (invoice,) = closed(account)
    assert [
        (line.text, line.units, line.entries, line.amount_minor)
        for line in invoice.lines.exclude(meter="")
    ] == [("1 calls past 10,000", 10_001, 3, 1), ("40 rows", 40, 1, 0)]


# ------------------------------------------------------------------ late


def test_late_usage_is_on_the_next_invoice_at_what_its_period_would_have_cost_more(account, plans):
    subscription = subscribe(account, plans["basic"], MARCH)
    use(account, MARCH + DAY, 9_000)
    tell(subscription, APRIL)
    close(APRIL + HOUR)
    before = lines(closed(account)[0])
    late_at = APRIL + 3 * DAY
    record_of_march(account, late_at, 1_600)
    use(account, APRIL + 4 * DAY, 20)
    tell(subscription, MAY)
    close(MAY + HOUR)

    march, april = closed(account)
    assert lines(march) == before
    assert lines(april) == [
        ("Basic, from 1 May 2026", 50_00),
        ("20 calls of 10,000 included", 0),
        ("600 calls past 1,000, recorded late, for the period from 1 March 2026", 3_60),
    ]
    late = april.lines.get(period_start=MARCH)
    assert (late.units, late.included_units) == (1_600, 1_000)
    everything_is_on_one_invoice(account)


def record_of_march(account, recorded_at, calls):
    """A call of March that reaches the ledger when it is over."""
    use(account, MARCH + 2 * DAY, calls, recorded_at=recorded_at, period_start=MARCH)


def test_late_usage_after_the_end_of_everything_waits_for_an_invoice_of_its_own(account, plans):
    subscription = subscribe(account, plans["basic"], MARCH)
    use(account, MARCH + DAY, 10_000)
    tell(subscription, APRIL, status="ended", ended_at=APRIL, period_start=MARCH, period_end=APRIL)
    close(APRIL + HOUR)
    close(month(7))
    record_of_march(account, month(8, 15), 1_000)
    close(month(10))

    last, late = closed(account)
    assert (last.total_minor, late.total_minor) == (0, 6_00)
    assert late.period_start == APRIL
    assert late.currency == "USD"
    everything_is_on_one_invoice(account)


def test_however_late_and_often_it_comes_a_unit_is_paid_once(account, plans):
    subscription = subscribe(account, plans["basic"], MARCH)
    use(account, MARCH + DAY, 10_000)
    for number in (4, 5, 6):
        tell(subscription, month(number))
        close(month(number, 1, 1))
        record_of_march(account, month(number, 2), 333)
        close(month(number, 1, 1) + 3 * DAY)
    tell(subscription, month(7))
    close(month(7, 1, 1))

    amounts = InvoiceLine.objects.filter(period_start=MARCH, meter="calls").order_by(
        "invoice__number"
    )
    assert [line.amount_minor for line in amounts] == [0, 2_00, 2_00, 1_99]
    assert sum(line.amount_minor for line in amounts) == 5_99  # of 999 units at $6 per 1,000
    everything_is_on_one_invoice(account)


# ------------------------------------------------------------------ once, and for good


def test_two_closers_close_each_invoice_once_and_number_without_a_gap(plans):
    accounts = [make_account() for _ in range(4)]
    for account in accounts:
        subscription = subscribe(account, plans["basic"], MARCH)
        use(account, MARCH + DAY, 11_000)
        tell(subscription, APRIL)
        tell(subscription, MAY)
    chain.close_hours(MAY + HOUR)

    def close_all(_):
        try:
            return sum(invoices.close_due(one.pk, MAY + HOUR) for one in accounts)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(close_all, range(4))) == 8

    numbers = Invoice.objects.filter(state="closed").values_list("number", flat=True)
    assert sorted(numbers) == list(range(1, 9))
    everything_is_on_one_invoice(*accounts)


def test_a_closer_that_is_killed_in_the_middle_leaves_nothing_and_no_gap(account, plans):
    subscription = subscribe(account, plans["basic"], MARCH)
    use(account, MARCH + DAY, 11_000)
    tell(subscription, APRIL)
    chain.close_hours(APRIL + HOUR)
    InvoiceCounter.objects.create(pk=1)
    started = Event()

    def closer():
        try:
            with connection.cursor() as cursor:
                cursor.execute("SET application_name = 'closer'")
            started.set()
            invoices.close_due(account.pk, APRIL + HOUR)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool, transaction.atomic():
        InvoiceCounter.objects.select_for_update().get(pk=1)
        doomed = pool.submit(closer)
        started.wait()
        kill_when_waiting("closer")
        with pytest.raises(OperationalError):
            doomed.result()

    assert not InvoiceLine.objects.exists()
    assert invoices.close_due(account.pk, APRIL + HOUR) == 1
    assert closed(account)[0].number == 1
    everything_is_on_one_invoice(account)


def kill_when_waiting(name):
    """Kills the database session of that name once it waits for a lock."""
    query = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = %s AND wait_event_type = 'Lock'"
    )
    with connection.cursor() as cursor:
        while True:
            cursor.execute(query, [name])
            if cursor.fetchone():
                return
            cursor.execute("SELECT pg_sleep(0.05)")


def test_a_closed_invoice_refuses_every_change(account, plans):
    subscription = subscribe(account, plans["basic"], MARCH)
    use(account, MARCH + DAY, 11_000)
    tell(subscription, APRIL)
    close(APRIL + HOUR)
    (invoice,) = closed(account)
    line = invoice.lines.last()

    with pytest.raises(ValidationError, match="never changes"):
        invoice.save()
    line.pk, line.position = None, 9
    for attempt in (
        lambda: Invoice.objects.filter(pk=invoice.pk).update(total_minor=1),
        lambda: Invoice.objects.filter(pk=invoice.pk).update(state="open"),
        lambda: invoice.lines.update(amount_minor=1),
        lambda: invoice.lines.all().delete(),
        line.save,
    ):
        with pytest.raises(IntegrityError, match="never changes"), transaction.atomic():
            attempt()


# ------------------------------------------------------------------ taking it apart


def test_a_line_is_its_hours_and_an_hour_its_entries(account, plans):
    make_api()
    subscribe(account, plans["basic"], MARCH)
    for number in range(3):
        use(account, MARCH + number * HOUR, 1 + number, meta={"model": "large"})
        use(account, MARCH + number * HOUR, 10, operation="other")
        if number == 1:
            use(account, MARCH + HOUR, status=500, billable=False)
            use(account, MARCH + HOUR, 50, mode="test")
    close(APRIL + HOUR)
    line = closed(account)[0].lines.get(meter="calls")

    hours = explanations.hours(line)

    assert [(hour.hour, hour.events, hour.units) for hour in hours] == [
        (MARCH, 2, 11),
        (MARCH + HOUR, 3, 12),
        (MARCH + 2 * HOUR, 2, 13),
    ]
    assert [hour.digest for hour in hours] == list(
        LedgerHour.objects.filter(account_id=account.pk)
        .order_by("hour")
        .values_list("digest", flat=True)
    )
    said = "".join(f"{hour.hour:%Y-%m-%dT%H:%M:%SZ} {hour.digest}\n" for hour in hours)
    assert line.root == hashlib.sha256(said.encode()).hexdigest()
    for hour in hours:
        found = explanations.found(line, hour)
        assert (found.events, found.units) == (hour.events, hour.units)
        assert found.entries.count() == hour.events


def test_an_entry_is_found_on_the_line_of_its_price_only(account, plans):
    make_api()
    Meter.objects.filter(name="calls").update(dimensions=["model"])
    version = PlanVersion.objects.create(plan=plans["pro"].plan, number=2)
    one_dollar = [{"up_to": None, "price": "1.00", "per": 1}]
    PlanMeter.objects.create(
        version=version,
        meter=Meter.objects.get(name="calls"),
        included_units=0,
        past_included="bill",
        tiers=one_dollar,
        special_prices=[
            {"api": "holidays", "dimensions": {"model": "large"}, "tiers": one_dollar},
            {"operation": "GET /v1/countries", "tiers": one_dollar},
        ],
    )
    subscribe(account, version, MARCH)
    use(account, MARCH, 1, meta={"model": "large"})
    use(account, MARCH, 2, meta={"model": "large"}, operation="other")
    use(account, MARCH, 4, meta={"model": "small"})
    use(account, MARCH, 8, meta={"model": "small"}, operation="other")
    use(account, MARCH, 16, operation="other")
    close(APRIL + HOUR)

    found = {
        line.units: explanations.found(line, explanations.hours(line)[0])
        for line in closed(account)[0].lines.all()
    }

    assert {units: (one.events, one.units) for units, one in found.items()} == {
        3: (2, 3),
        4: (1, 4),
        24: (2, 24),
    }


def test_a_dimension_counts_from_the_hour_on_that_sums_by_it(account, plans):
    version = PlanVersion.objects.create(plan=plans["pro"].plan, number=2)
    one_dollar = [{"up_to": None, "price": "1.00", "per": 1}]
    PlanMeter.objects.create(
        version=version,
        meter=Meter.objects.get(name="calls"),
        included_units=0,
        past_included="bill",
        tiers=one_dollar,
        special_prices=[{"dimensions": {"model": "large"}, "tiers": one_dollar}],
    )
    subscribe(account, version, MARCH)
    use(account, MARCH, 1, meta={"model": "large"})
    chain.close_hours(MARCH + HOUR)
    Meter.objects.filter(name="calls").update(dimensions=["model"])
    use(account, MARCH + HOUR, 2, meta={"model": "large"})
    close(APRIL + HOUR)

    special, others = closed(account)[0].lines.all()
    for line, units in ((special, 2), (others, 1)):
        (hour,) = explanations.hours(line)
        found = explanations.found(line, hour)
        assert (hour.units, found.units, found.events) == (units, units, 1)


def test_beat_closes_what_is_due(account, plans):
    subscription = subscribe(account, plans["basic"], MARCH)
    use(account, MARCH + DAY)
    tell(subscription, APRIL)
    chain.close_hours(APRIL + HOUR)

    with working():
        tasks.close_invoices.delay()
        until(lambda: bool(closed(account)))

    assert lines(closed(account)[0])[-1] == ("1 calls of 10,000 included", 0)


# ------------------------------------------------------------------ pages and API


@pytest.fixture
def march(account, plans):
    """A closed invoice of 12,300 calls in two hours, one of which failed."""
    subscription = subscribe(account, plans["basic"], MARCH)
    use(account, MARCH + DAY, 9_000)
    use(account, MARCH + 2 * DAY, 3_300)
    use(account, MARCH + 2 * DAY, status=502, billable=False)
    tell(subscription, APRIL)
    close(APRIL + HOUR)
    return closed(account)[0]


def browser_of(user):
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def pages_of(invoice):
    line = invoice.lines.get(meter="calls")
    return [
        reverse("invoice", args=[invoice.pk]),
        reverse("invoice_file", args=[invoice.pk]),
        reverse("invoice_line", args=[invoice.pk, line.position]),
        reverse("invoice_hour", args=[invoice.pk, line.position, "2026-03-03T00"]),
    ]


def test_an_invoice_is_taken_apart_down_to_its_calls(account, march):
    browser = browser_of(account.members.get())
    invoice, file, line, hour = pages_of(march)

    texts = {path: browser.get(path).content.decode() for path in (invoice, line, hour)}

    assert [faults(text) for text in texts.values()] == [[], [], []]
    assert line in texts[invoice]
    assert "$63.80" in texts[invoice]
    assert hour in texts[line]
    assert "adds up to the line" in texts[line]
    assert "agrees with its calls" in texts[hour]
    assert "3,300" in texts[hour]
    assert texts[hour].count("GET /v1/countries") == 2
    called = UsageEvent.objects.filter(admitted_at__gte=MARCH + 2 * DAY)
    assert all(str(call.id) in texts[hour] for call in called)
    listed = browser.get(reverse("invoices")).content.decode()
    assert invoice in listed
    assert faults(listed) == []
    assert reverse("invoices") in browser.get(reverse("billing")).content.decode()
    assert browser.get(file).json()["lines"][1]["hours"][1]["units"] == 3_300


def test_staff_read_invoices_and_write_over_none(march):
    staff = User.objects.create_superuser("staff@example.com", "a long enough one")
    path = reverse("admin:billing_invoice_change", args=[march.pk])

    page = browser_of(staff).get(path).content.decode()

    assert "2,300 calls past 10,000" in page
    assert browser_of(staff).post(path, {"total_minor": 1}).status_code == 403


def test_an_hour_that_was_tampered_with_shows(account, march):
    with connection.cursor() as cursor:
        changed = json.dumps({"calls": 1}), json.dumps({"calls": 3300})
        cursor.execute("UPDATE gateway_usageevent SET units = %s WHERE units @> %s", changed)

    page = browser_of(account.members.get()).get(pages_of(march)[-1])

    assert "does not agree with its calls" in page.content.decode()


def test_a_month_without_an_invoice_says_when_the_first_one_comes(account):
    page = browser_of(account.members.get()).get(reverse("invoices")).content.decode()

    assert "No invoice yet" in page
    assert faults(page) == []


def test_outsiders_get_404_and_developers_are_told_whom_to_ask(account, march):
    outsider = browser_of(make_account(name="Somebody else").members.get())
    developer = browser_of(make_member(account, Membership.Role.DEVELOPER))
    accountant = browser_of(make_member(account, Membership.Role.BILLING))

    for path in pages_of(march):
        assert outsider.get(path).status_code == 404
        assert developer.get(path).status_code == 403
        assert accountant.get(path).status_code == 200


def test_what_is_no_line_or_hour_of_an_invoice_is_404(account, march):
    browser = browser_of(account.members.get())
    position = march.lines.get(meter="calls").position

    for path in (
        reverse("invoice_line", args=[march.pk, march.lines.get(meter="").position]),
        reverse("invoice_line", args=[march.pk, 10**12]),
        reverse("invoice_hour", args=[march.pk, position, "2026-03-03T01"]),
        reverse("invoice_hour", args=[march.pk, position, "x"]),
        reverse("invoice", args=[account.invoices.get(state="open").pk]),
    ):
        assert browser.get(path).status_code == 404, path


def api(account, path, scope="invoices:read"):
    _, text = service_tokens.create(
        account,
        name="books",
        scopes=[scope],
        expires_at=None,
        actor=None,
        address=None,
        now=timezone.now(),
    )
    return Client().get(path, headers={"Authorization": f"Bearer {text}"})


def test_the_api_gives_an_invoice_with_the_hours_it_rests_on(account, march):
    listed = api(account, "/api/v1/invoices").json()
    answer = api(account, f"/api/v1/invoices/{march.pk}").json()

    assert listed == {
        "data": [{name: value for name, value in answer.items() if name != "lines"}],
        "next_cursor": None,
    }
    assert (answer["number"], answer["total_minor"], answer["currency"]) == (1, 63_80, "USD")
    base, usage = answer["lines"]
    assert (base["meter"], base["amount_minor"], base["hours"]) == ("", 50_00, [])
    assert usage["period"] == "2026-03-01T00:00:00Z"
    assert [(hour["hour"], hour["events"], hour["units"]) for hour in usage["hours"]] == [
        ("2026-03-02T00:00:00Z", 1, 9_000),
        ("2026-03-03T00:00:00Z", 2, 3_300),
    ]
    assert usage["units"] == 12_300
    assert usage["root"] == invoices.root(usage["hours"])


def test_the_api_keeps_invoices_to_their_account_and_scope(account, march, plans):
    path = f"/api/v1/invoices/{march.pk}"
    outsider = make_account()
    subscribe(outsider, plans["basic"], MARCH)

    assert api(outsider, path).status_code == 404
    assert api(account, path, scope="usage:read").status_code == 403
    assert api(outsider, "/api/v1/invoices").json()["data"] == []
    assert api(account, f"/api/v1/invoices?cursor={march.pk}").json()["data"] == []
