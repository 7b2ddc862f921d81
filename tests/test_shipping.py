"""What is in the ledger arrives at the provider once, whatever the provider does meanwhile."""

import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import stripe
from django.db import connection
from django.utils import timezone

from billing import doubts, inbox, shipping, tasks
from billing.models import ProviderEvent, Reconciliation, Shipment, ShippingClock
from billing.providers import Forged, metering
from billing.providers.stripe import webhooks
from billing.sandbox.models import SandboxMeterEvent, SandboxOrder
from gateway.alone import alone
from gateway.models import Meter
from tests.factories import make_plans
from tests.metered import NEXT_PERIOD, NOON, PERIOD, body_of, states, subscribe, use
from tests.shop import until, working

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_clean")]

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def plans():
    return make_plans()


def ship(double, provider, now):
    """One run at a moment that both sides agree on."""
    double.now = now
    shipping.collect(now)
    return shipping.send(provider, now)


def run(double, provider, start, end, every):
    """Runs as beat would, on a clock that is moved."""
    now = start
    while now < end:
        ship(double, provider, now)
        now += every


def multiply(times):
    """So many shipments like the one there is."""
    columns = [field.attname for field in Shipment._meta.concrete_fields]
    values = Shipment.objects.values(*columns).get()
    Shipment.objects.bulk_create(Shipment(**values | {"id": uuid4()}) for _ in range(times - 1))


# ------------------------------------------------------------------ collecting


def test_each_row_of_the_ledger_is_in_one_shipment(plans):
    subscription = subscribe("stripe", plans["pro"])
    use(subscription, NOON, calls=3)
    shipping.collect(NOON + MINUTE)
    use(subscription, NOON + 2 * MINUTE, calls=4)

    counts = [shipping.collect(NOON + 3 * MINUTE) for _ in range(3)]

    assert counts == [1, 0, 0]
    assert sorted(Shipment.objects.values_list("units", flat=True)) == [3, 4]
    assert ShippingClock.objects.get().at >= NOON + 3 * MINUTE


def test_units_are_summed_by_what_a_price_may_depend_on(plans):
    Meter.objects.create(name="tokens", label="tokens", dimensions=["model"])
    subscription = subscribe("dodo", plans["pro"])
    large = {"units": {"calls": 1, "tokens": 500}, "metadata": {"model": "large", "x": "y"}}
    small = {"units": {"calls": 1, "tokens": 20}, "metadata": {"model": "small"}}
    use(subscription, NOON, calls=2, **large)
    use(subscription, NOON, calls=3, **small)

    shipping.collect(NOON + MINUTE)

    held = Shipment.objects.values_list("meter", "dimensions", "units")
    assert Counter(held) == Counter(
        [
            ("calls", "", 5),
            ("tokens", '{"model":"large"}', 1000),
            ("tokens", '{"model":"small"}', 60),
        ]
    )


def test_what_is_not_billed_is_not_shipped(plans):
    subscription = subscribe("stripe", plans["pro"])
    use(subscription, NOON, billable=False)
    use(subscription, NOON, mode="test", billable=False)
    use(subscription, NOON, units={"calls": 0})
    use(subscription, NOON, terms_id="contract:1")
    use(subscribe("none", plans["free"]), NOON)

    shipping.collect(NOON + MINUTE)

    assert not Shipment.objects.exists()


def test_usage_of_the_free_plan_before_a_purchase_stays_here(plans):
    free = subscribe("none", plans["free"])
    free.state, free.ended_at = "ended", NOON
    free.save()
    paid = subscribe("stripe", plans["pro"])
    paid.account_id = free.account_id
    paid.started_at = NOON
    paid.save()
    use(free, NOON + timedelta(milliseconds=5), calls=2)  # admitted before the news was there
    use(paid, NOON + MINUTE, calls=3)

    shipping.collect(NOON + 2 * MINUTE)

    assert states() == {"pending": 3}


def test_a_late_row_keeps_the_hour_in_which_it_was_used(plans):
    subscription = subscribe("stripe", plans["pro"])
    use(subscription, NOON - 5 * HOUR, calls=1)
    use(subscription, NOON, calls=2)

    shipping.collect(NOON + MINUTE)

    assert dict(Shipment.objects.values_list("at", "units")) == {NOON - 5 * HOUR: 1, NOON: 2}


# ------------------------------------------------------------------ outcomes


def test_what_is_sent_counts_and_is_not_sent_again(plans, at_stripe):
    use(subscribe("stripe", plans["pro"]), NOON, calls=7)

    taken = [ship(at_stripe, "stripe", NOON + MINUTE) for _ in range(3)]

    assert taken == [1, 0, 0]
    assert at_stripe.total() == 7
    assert states() == {"sent": 7}


@pytest.mark.parametrize(
    "faults",
    [
        ["lost answer"],
        ["500 after", "lost answer", "garbage"],
        [500, 503, 429, 409, "drop"],
        ["drop", "500 after", 429, "lost answer", 502],
        [401, 403],
    ],
)
@pytest.mark.parametrize("provider", ["stripe", "dodo"])
def test_a_provider_that_fails_counts_each_unit_once(plans, at_stripe, at_dodo, provider, faults):
    double = {"stripe": at_stripe, "dodo": at_dodo}[provider]
    use(subscribe(provider, plans["pro"]), NOON, calls=7)
    double.faults.extend(faults)

    run(double, provider, NOON + MINUTE, NOON + 55 * MINUTE, every=6 * MINUTE)

    assert not double.faults
    assert double.total() == 7
    assert states() == {"sent": 7}


def test_an_outcome_that_was_not_heard_is_said_to_be_unknown(plans, at_stripe):
    use(subscribe("stripe", plans["pro"]), NOON)
    at_stripe.faults.append("lost answer")

    ship(at_stripe, "stripe", NOON + MINUTE)

    shipment = Shipment.objects.get()
    assert (shipment.state, shipment.unsure_since) == ("unknown", NOON + MINUTE)
    assert "No answer" in shipment.reason


def test_nobody_at_home_leaves_no_doubt(plans, settings, at_stripe):
    settings.STRIPE_API_BASE = "http://127.0.0.1:9"
    settings.DODO_PAYMENTS_BASE_URL = "http://127.0.0.1:9"
    settings.DODO_PAYMENTS_API_KEY = "key"
    use(subscribe("stripe", plans["pro"]), NOON)
    use(subscribe("dodo", plans["pro"]), NOON)
    shipping.collect(NOON + MINUTE)

    shipping.send("stripe", NOON + MINUTE)
    shipping.send("dodo", NOON + MINUTE)

    assert states() == {"pending": 2}
    assert not Shipment.objects.exclude(unsure_since=None).exists()


def test_a_refused_event_says_why_and_is_sent_under_a_new_id_when_replayed(plans, at_stripe):
    use(subscribe("stripe", plans["pro"], "cus_gone"), NOON, calls=5)
    ship(at_stripe, "stripe", NOON + MINUTE)
    refused = Shipment.objects.get()
    at_stripe.customers.add("cus_gone")

    shipping.replay(refused.pk, NOON + 2 * MINUTE)
    ship(at_stripe, "stripe", NOON + 2 * MINUTE)

    assert refused.state == "refused"
    assert "No such customer: 'cus_gone'" in refused.reason
    assert [event.identifier for event in at_stripe.events] == [f"{refused.pk}.1"]
    assert states() == {"sent": 5}


def test_one_bad_event_does_not_keep_a_batch_from_arriving(plans, at_dodo):
    for number in range(9):
        customer = "cus_gone" if number == 4 else f"cus_{number}"
        at_dodo.customers.add(f"cus_{number}")
        use(subscribe("dodo", plans["pro"], customer), NOON)

    ship(at_dodo, "dodo", NOON + MINUTE)

    assert states() == {"sent": 8, "refused": 1}
    assert Shipment.objects.get(state="refused").reason == "422: No customer cus_gone"


def test_batches_are_as_large_as_they_may_be(plans, at_dodo):
    use(subscribe("dodo", plans["pro"]), NOON)
    shipping.collect(NOON + MINUTE)
    multiply(1500)

    taken = ship(at_dodo, "dodo", NOON + MINUTE)

    assert (taken, at_dodo.total(), at_dodo.largest) == (1500, 1500, 1000)
    assert len(at_dodo.requests) == 2


def test_a_process_killed_while_sending_loses_nothing(plans, at_stripe):
    use(subscribe("stripe", plans["pro"]), NOON, calls=7)
    shipping.collect(NOON)
    limits = metering.get("stripe").LIMITS
    claim = shipping._claim("stripe", limits, NOON)
    metering.get("stripe").ship([doubts.event_of(row, row.at) for row in claim.dated])
    # Here it dies: it arrived, and nobody has written so.

    run(at_stripe, "stripe", NOON + MINUTE, NOON + 10 * MINUTE, every=3 * MINUTE)

    assert at_stripe.total() == 7
    assert states() == {"sent": 7}


def test_what_another_process_has_claimed_is_left_to_it(plans, at_stripe):
    use(subscribe("stripe", plans["pro"]), NOON)
    shipping.collect(NOON)
    shipping._claim("stripe", metering.get("stripe").LIMITS, NOON)

    assert shipping.send("stripe", NOON + MINUTE) == 0
    assert not at_stripe.requests


RUN = """
import sys
from datetime import datetime
import django
django.setup()
from billing import shipping
now = datetime.fromisoformat(sys.argv[1])
shipping.collect(now)
shipping.send("stripe", now)
"""


def test_killed_again_and_again_it_sends_each_unit_once(plans, at_stripe):
    subscription = subscribe("stripe", plans["pro"])
    for number in range(40):
        use(subscription, NOON, calls=1, operation=f"GET /v1/{number}")
    at_stripe.delay_seconds = 0.1
    database = urlsplit(os.environ["DATABASE_URL"])
    name = connection.settings_dict["NAME"]
    environment = os.environ | {
        "DATABASE_URL": database._replace(path=f"/{name}").geturl(),
        "DJANGO_SETTINGS_MODULE": "portal.settings",
        "STRIPE_API_BASE": at_stripe.url,
        "STRIPE_SECRET_KEY": at_stripe.key,
    }
    now = NOON
    for requests in (1, 12, 25):
        now += 10 * MINUTE
        at_stripe.now = now
        process = subprocess.Popen([sys.executable, "-c", RUN, now.isoformat()], env=environment)
        until(lambda requests=requests: len(at_stripe.requests) >= requests, seconds=60)
        process.kill()
        process.wait()
    killed_with = Counter(Shipment.objects.values_list("state", flat=True))
    at_stripe.delay_seconds = 0

    run(at_stripe, "stripe", now + 10 * MINUTE, now + 40 * MINUTE, every=10 * MINUTE)

    assert killed_with["unknown"] > 0
    assert at_stripe.total() == 40
    assert states() == {"sent": 40}


# ------------------------------------------------------------------ outages and ages


def test_after_two_hours_of_outage_dodo_gets_what_is_older_without_its_time(plans, at_dodo):
    subscription = subscribe("dodo", plans["pro"])
    at_dodo.away = True
    for minutes in range(0, 120, 10):
        use(subscription, NOON + minutes * MINUTE)
        ship(at_dodo, "dodo", NOON + minutes * MINUTE)
    assert at_dodo.total() == 0

    at_dodo.away = False
    run(at_dodo, "dodo", NOON + 2 * HOUR, NOON + 2 * HOUR + 15 * MINUTE, every=6 * MINUTE)

    assert at_dodo.total() == 12
    assert states() == {"sent": 12}
    assert 0 < Shipment.objects.filter(undated=True).count() < 12


def test_what_dodo_takes_too_late_for_its_period_is_held(plans, at_dodo):
    subscription = subscribe("dodo", plans["pro"])
    use(subscription, NEXT_PERIOD - 30 * MINUTE, calls=4)
    at_dodo.away = True
    run(at_dodo, "dodo", NEXT_PERIOD - 29 * MINUTE, NEXT_PERIOD + HOUR, every=10 * MINUTE)
    at_dodo.away = False

    run(at_dodo, "dodo", NEXT_PERIOD + 3 * HOUR, NEXT_PERIOD + 4 * HOUR, every=10 * MINUTE)

    assert states() == {"held": 4}
    assert at_dodo.total() == 0


def test_a_held_one_that_staff_replay_counts_when_it_arrives(plans, at_dodo):
    use(subscribe("dodo", plans["pro"]), NEXT_PERIOD - 30 * MINUTE, calls=4)
    ship(at_dodo, "dodo", NEXT_PERIOD + 3 * HOUR)
    held = Shipment.objects.get()

    shipping.replay(held.pk, NEXT_PERIOD + 4 * HOUR)
    ship(at_dodo, "dodo", NEXT_PERIOD + 4 * HOUR)

    assert (held.state, held.reason) == (
        "held",
        "Older than dodo takes, and its period is over.",
    )
    assert states() == {"sent": 4}
    assert "timestamp" not in at_dodo.requests[-1].body.decode()


def test_after_35_days_stripe_takes_nothing_and_staff_decide(plans, at_stripe):
    use(subscribe("stripe", plans["pro"]), PERIOD, calls=4)

    ship(at_stripe, "stripe", PERIOD + 35 * DAY)

    assert states() == {"held": 4}
    assert not at_stripe.requests


def test_after_an_outage_of_days_stripe_gets_each_event_at_its_time(plans, at_stripe):
    subscription = subscribe("stripe", plans["pro"])
    at_stripe.away = True
    use(subscription, NOON, calls=4)
    at_stripe.now = NOON
    shipping.collect(NOON)

    at_stripe.away = False
    ship(at_stripe, "stripe", NOON + 9 * DAY)

    assert [(event.at, event.value) for event in at_stripe.events] == [(NOON, 4)]


# ------------------------------------------------------------------ doubts


def unheard(double, provider, calls=4):
    """Sent, and the answer lost; then nobody sent for a day and more."""
    double.faults.append("lost answer")
    ship(double, provider, NOON + MINUTE)
    assert states() == {"unknown": calls}


def test_what_arrived_unheard_and_was_forgotten_is_not_sent_again(plans, at_stripe):
    use(subscribe("stripe", plans["pro"]), NOON, calls=4)
    unheard(at_stripe, "stripe")

    run(at_stripe, "stripe", NOON + 26 * HOUR, NOON + 28 * HOUR, every=30 * MINUTE)

    assert at_stripe.total() == 4
    assert states() == {"sent": 4}
    assert sum(one.path.endswith("meter_events") for one in at_stripe.requests) == 1


def test_what_never_arrived_is_sent_once_the_provider_says_so(plans, at_stripe):
    subscription = subscribe("stripe", plans["pro"])
    use(subscription, NOON, calls=4)
    at_stripe.away = True
    ship(at_stripe, "stripe", NOON + MINUTE)
    at_stripe.away = False

    run(at_stripe, "stripe", NOON + 26 * HOUR, NOON + 28 * HOUR, every=30 * MINUTE)

    assert at_stripe.total() == 4
    assert states() == {"sent": 4}


def test_a_total_that_says_neither_is_held_for_staff(plans, at_stripe):
    subscription = subscribe("stripe", plans["pro"])
    use(subscription, NOON, calls=4)
    use(subscription, NOON, calls=3, operation="GET /v1/countries")
    at_stripe.faults.extend(["lost answer", "drop"])
    ship(at_stripe, "stripe", NOON + MINUTE)
    arrived = at_stripe.total()

    run(at_stripe, "stripe", NOON + 26 * HOUR, NOON + 28 * HOUR, every=30 * MINUTE)

    assert arrived in (3, 4)
    assert states() == {"held": 7}
    assert (
        f"stripe counts {arrived} units in that hour; 0 are known to have arrived, 7 may have."
        in Shipment.objects.values_list("reason", flat=True)
    )


@pytest.mark.parametrize(("fault", "requests"), [("lost answer", 1), ("drop", 2)])
def test_dodo_is_asked_about_the_very_event(plans, at_dodo, fault, requests):
    use(subscribe("dodo", plans["pro"]), NOON, calls=4)
    at_dodo.faults.append(fault)
    ship(at_dodo, "dodo", NOON + MINUTE)

    run(at_dodo, "dodo", NOON + 26 * HOUR, NOON + 28 * HOUR, every=30 * MINUTE)

    assert at_dodo.total() == 4
    assert states() == {"sent": 4}
    assert sum(one.method == "POST" for one in at_dodo.requests) == requests


def test_a_provider_that_is_away_is_asked_about_one_doubt_and_not_all(plans, at_dodo):
    use(subscribe("dodo", plans["pro"]), NOON)
    shipping.collect(NOON)
    multiply(1500)
    Shipment.objects.update(state="unknown", unsure_since=NOON)
    at_dodo.away = True

    ship(at_dodo, "dodo", NOON + 26 * HOUR)

    assert states() == {"unknown": 1500}
    assert len(at_dodo.requests) == 1


def test_a_provider_that_takes_nothing_of_a_batch_is_left_alone(plans, at_dodo):
    use(subscribe("dodo", plans["pro"]), NOON)
    shipping.collect(NOON + MINUTE)
    multiply(1500)
    at_dodo.away = True

    for seconds in range(3):
        ship(at_dodo, "dodo", NOON + MINUTE + timedelta(seconds=seconds))

    assert len(at_dodo.requests) == 1
    assert not shipping.due(NOON + MINUTE + timedelta(seconds=2)).exists()


def test_a_provider_with_much_to_be_told_is_told_by_one_task(plans, at_stripe):
    subscription = subscribe("stripe", plans["pro"])
    for hour in range(3):
        use(subscription, NOON + hour * HOUR)
    now = NOON + 3 * HOUR
    shipping.collect(now)

    assert shipping.due(now).count() == 3
    assert shipping.providers_due(now) == ["stripe"]


def test_one_process_at_a_time_sends_to_a_provider(plans, at_stripe):
    use(subscribe("stripe", plans["pro"]), NOON)
    shipping.collect(NOON)

    with ThreadPoolExecutor(1) as elsewhere, alone("billing.shipping:stripe"):
        taken = elsewhere.submit(elsewhere_send, NOON).result()

    assert (taken, at_stripe.requests) == (0, [])


def elsewhere_send(now):
    try:
        return shipping.send("stripe", now)
    finally:
        connection.close()


def test_a_doubt_waits_while_the_provider_is_away(plans, at_stripe):
    use(subscribe("stripe", plans["pro"]), NOON, calls=4)
    unheard(at_stripe, "stripe")
    at_stripe.away = True

    run(at_stripe, "stripe", NOON + 26 * HOUR, NOON + 28 * HOUR, every=30 * MINUTE)

    assert states() == {"unknown": 4}


def test_a_refusal_after_an_attempt_that_may_have_arrived_is_held(plans, at_stripe):
    use(subscribe("stripe", plans["pro"]), NOON, calls=4)
    at_stripe.faults.append("drop")
    ship(at_stripe, "stripe", NOON + MINUTE)
    at_stripe.customers.clear()

    ship(at_stripe, "stripe", NOON + 10 * MINUTE)

    assert states() == {"held": 4}
    assert Shipment.objects.get().reason.startswith("Refused now, an earlier attempt may have")


# ------------------------------------------------------------------ refused afterwards


def deliver(settings, thin, signed_at=None):
    settings.STRIPE_WEBHOOK_SECRET = "whsec_test"
    body = body_of(thin)
    header = stripe.WebhookSignature.generate_signature_header(
        body.decode(), "whsec_test", signed_at
    )
    return inbox.receive("stripe", {"Stripe-Signature": header}, body, timezone.now())


@pytest.mark.parametrize("suffix", ["", "/3f2a"])
def test_a_report_of_errors_marks_the_shipment(plans, at_stripe, settings, suffix):
    use(subscribe("stripe", plans["pro"]), NOON, calls=4)
    ship(at_stripe, "stripe", NOON + MINUTE)
    shipment = Shipment.objects.get()
    thin = at_stripe.report(
        "evt_1", [f"{shipment.pk}{suffix}", "somebody-else"], "meter_event_customer_not_found"
    )

    received = deliver(settings, thin)
    inbox.process(received.event_id, timezone.now() + MINUTE)

    shipment.refresh_from_db()
    assert shipment.state == "refused"
    assert shipment.reason == (
        "meter_event_customer_not_found: As told: meter_event_customer_not_found."
    )


def test_a_late_report_says_nothing_of_what_was_sent_since(plans, at_stripe, settings):
    use(subscribe("stripe", plans["pro"], "cus_gone"), NOON, calls=4)
    ship(at_stripe, "stripe", NOON + MINUTE)
    shipment = Shipment.objects.get()
    at_stripe.customers.add("cus_gone")
    shipping.replay(shipment.pk, NOON + 2 * MINUTE)
    ship(at_stripe, "stripe", NOON + 2 * MINUTE)

    received = deliver(settings, at_stripe.report("evt_1", [str(shipment.pk)], "no_meter"))
    inbox.process(received.event_id, timezone.now() + MINUTE)

    assert states() == {"sent": 4}


def test_stripe_is_listened_to_where_there_is_a_secret(settings, client):
    settings.STRIPE_WEBHOOK_SECRET = ""
    closed = client.post("/webhooks/stripe", b"{}", content_type="application/json")
    settings.STRIPE_WEBHOOK_SECRET = "whsec_test"
    unsigned = client.post("/webhooks/stripe", b"{}", content_type="application/json")
    body = b'{"id": "evt_1", "type": "customer.created"}'
    signature = stripe.WebhookSignature.generate_signature_header(body.decode(), "whsec_test")
    signed = client.post(
        "/webhooks/stripe", body, content_type="application/json", HTTP_STRIPE_SIGNATURE=signature
    )
    event = ProviderEvent.objects.get()
    inbox.process(event.pk, timezone.now() + MINUTE)

    assert [answer.status_code for answer in (closed, unsigned, signed)] == [404, 400, 200]
    event.refresh_from_db()
    assert event.ignored


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Stripe-Signature": ""},
        {"Stripe-Signature": "t=1,v1=00"},
        {"Stripe-Signature": "t=9999999999999,v1=é"},
        {"Stripe-Signature": "t=,v1="},
        {"Stripe-Signature": "v1=abc"},
    ],
)
@pytest.mark.parametrize("body", [b"{}", b"\xff", b"", b'{"id": "evt_1", "type": "x"}'])
def test_a_delivery_that_stripe_did_not_sign_is_forged(settings, headers, body):
    settings.STRIPE_WEBHOOK_SECRET = "whsec_test"

    with pytest.raises(Forged):
        webhooks.verify(headers, body)


@pytest.mark.parametrize("body", [b"[]", b'{"id": 1, "type": "x"}', b"NaN", b'{"id": "\\u0000"}'])
@pytest.mark.parametrize("off", [0, -400, 400])
def test_a_signed_delivery_that_is_none_or_of_another_time_is_forged(settings, body, off):
    settings.STRIPE_WEBHOOK_SECRET = "whsec_test"
    at = int(timezone.now().timestamp()) + off
    header = stripe.WebhookSignature.generate_signature_header(body.decode(), "whsec_test", at)

    with pytest.raises(Forged):
        webhooks.verify({"Stripe-Signature": header}, body)


# ------------------------------------------------------------------ the sandbox


def test_the_sandbox_counts_what_arrives_once(plans):
    SandboxOrder.objects.create(
        id="co_1", reference="r", customer_id="cus_1", amount_minor=1, created_at=NOON
    )
    use(subscribe("sandbox", plans["pro"]), NOON, calls=6)
    use(subscribe("sandbox", plans["pro"], "cus_strange"), NOON, calls=1)
    shipping.collect(NOON + MINUTE)

    shipping.send("sandbox", NOON + MINUTE)
    Shipment.objects.update(state="unknown")
    shipping.send("sandbox", NOON + HOUR)

    counted = SandboxMeterEvent.objects.get()
    assert (counted.units, counted.name, counted.at) == (6, "keystile_calls", NOON)
    assert counted.metadata["operation"] == "GET /v1/next/{country}"
    assert states() == {"sent": 6, "refused": 1}


def test_a_worker_takes_usage_from_the_ledger_to_the_meter(plans):
    SandboxOrder.objects.create(
        id="co_1", reference="r", customer_id="cus_1", amount_minor=1, created_at=NOON
    )
    use(subscribe("sandbox", plans["pro"]), timezone.now() - MINUTE, calls=6)

    with working():
        tasks.collect_shipments.delay()
        until(SandboxMeterEvent.objects.exists)
        tasks.reconcile_providers.delay()
        until(Reconciliation.objects.exists)

    assert SandboxMeterEvent.objects.get().units == 6


# ------------------------------------------------------------------ staff


def test_what_staff_hold_is_not_sent_until_they_replay_it(plans, at_stripe):
    use(subscribe("stripe", plans["pro"]), NOON, calls=4)
    shipping.collect(NOON)
    shipment = Shipment.objects.get()
    shipping.hold(shipment.pk, "By staff.")
    ship(at_stripe, "stripe", NOON + MINUTE)
    assert states() == {"held": 4}

    shipping.replay(shipment.pk, NOON + MINUTE)
    ship(at_stripe, "stripe", NOON + MINUTE)

    assert states() == {"sent": 4}
    assert [event.at for event in at_stripe.events] == [NOON]


def test_nothing_brings_back_what_was_written_off(plans, at_stripe):
    use(subscribe("stripe", plans["pro"]), NOON, calls=4)
    shipping.collect(NOON)
    shipment = Shipment.objects.get()
    shipping.hold(shipment.pk, "By staff.")
    shipping.write_off(shipment.pk, "By staff.")

    shipping.replay(shipment.pk, NOON + MINUTE)
    shipping.mark_arrived(shipment.pk, NOON)
    ship(at_stripe, "stripe", NOON + MINUTE)

    assert states() == {"written_off": 4}


def test_attempts_wait_longer_each_time_and_never_in_step():
    waits = [shipping.backoff(attempts).total_seconds() for attempts in range(1, 2000)]

    assert 2.5 <= waits[0] <= 5
    assert all(150 <= wait <= 300 for wait in waits[10:])
    assert len(set(waits[10:])) > 100


def test_the_lag_tells_what_waits(plans):
    use(subscribe("stripe", plans["pro"]), NOON, calls=4)
    shipping.collect(NOON + MINUTE)

    lag = shipping.lag()

    assert (lag.waiting, lag.oldest_at) == (1, NOON)
    assert lag.read_until >= NOON + MINUTE
