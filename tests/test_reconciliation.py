"""What a provider counts beside what the ledger says: any unit that differs is found and told."""

from datetime import timedelta

import pytest
from django.core import mail
from django.urls import reverse
from django.utils import timezone

from billing import reconciliation, shipping
from billing.models import Reconciliation, ReconciliationLine, Shipment
from gateway.models import UsageRollup
from portal import announcements
from portal.models import User
from tests.factories import make_plans
from tests.metered import NEXT_PERIOD, NOON, PERIOD, subscribe, use

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_clean")]

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@pytest.fixture
def pro():
    return make_plans()["pro"]


def ship(double, provider, now):
    double.now = now
    shipping.collect(now)
    shipping.send(provider, now)


def compared(found):
    """(ledger, provider, difference) of each line, in the order of periods."""
    lines = found.lines.order_by("period_start", "meter")
    return [(line.ledger_units, line.provider_units, line.difference) for line in lines]


@pytest.mark.parametrize("provider", ["stripe", "dodo"])
def test_what_arrived_in_full_agrees(pro, at_stripe, at_dodo, provider):
    double = {"stripe": at_stripe, "dodo": at_dodo}[provider]
    subscription = subscribe(provider, pro)
    for hour in range(3):
        use(subscription, NOON + hour * HOUR, calls=hour + 1)
        ship(double, provider, NOON + hour * HOUR + MINUTE)

    found = reconciliation.reconcile(provider, NOON + 5 * HOUR)

    assert compared(found) == [(6, 6, 0)]
    assert (found.until, found.differing) == (NOON + 4 * HOUR, 0)


def test_what_was_used_lately_is_not_compared_yet(pro, at_stripe):
    subscription = subscribe("stripe", pro)
    use(subscription, NOON, calls=3)
    ship(at_stripe, "stripe", NOON + MINUTE)
    use(subscription, NOON + 2 * HOUR, calls=5)

    found = reconciliation.reconcile("stripe", NOON + 2 * HOUR + 30 * MINUTE)

    assert compared(found) == [(3, 3, 0)]


def test_units_that_the_provider_lost_are_found_and_priced(pro, at_stripe):
    subscription = subscribe("stripe", pro)
    use(subscription, NOON, units={"calls": 100_500})
    use(subscription, NOON + HOUR, units={"calls": 2_500})
    ship(at_stripe, "stripe", NOON + HOUR + MINUTE)
    at_stripe.events = [event for event in at_stripe.events if event.value != 2_500]

    found = reconciliation.reconcile("stripe", NOON + 5 * HOUR)

    line = found.lines.get()
    assert (line.ledger_units, line.provider_units, line.difference) == (103_000, 100_500, 2_500)
    assert line.difference_minor == 500  # Pro: $2 per 1,000 past 100,000
    assert (found.differing, line.note) == (1, "")


def test_units_that_the_provider_counts_twice_are_found(pro, at_stripe):
    use(subscribe("stripe", pro), NOON, units={"calls": 101_000})
    ship(at_stripe, "stripe", NOON + MINUTE)
    at_stripe.events *= 2

    line = reconciliation.reconcile("stripe", NOON + 5 * HOUR).lines.get()

    assert (line.difference, line.difference_minor) == (-101_000, -20_200)


def test_what_is_missing_in_the_ledger_is_found(pro, at_stripe):
    use(subscribe("stripe", pro), NOON, calls=4)
    ship(at_stripe, "stripe", NOON + MINUTE)
    UsageRollup.objects.all().delete()

    assert compared(reconciliation.reconcile("stripe", NOON + 5 * HOUR)) == [(0, 4, -4)]


def test_a_difference_says_what_of_it_is_held_or_waits(pro, at_stripe):
    subscription = subscribe("stripe", pro)
    use(subscription, NOON, calls=1)
    ship(at_stripe, "stripe", NOON + MINUTE)
    at_stripe.customers.clear()
    use(subscription, NOON + 2 * MINUTE, calls=2)
    ship(at_stripe, "stripe", NOON + 3 * MINUTE)
    use(subscription, NOON + 4 * MINUTE, calls=4)
    at_stripe.faults.append(429)
    ship(at_stripe, "stripe", NOON + 5 * MINUTE)

    line = reconciliation.reconcile("stripe", NOON + 5 * HOUR).lines.get()

    assert (line.ledger_units, line.provider_units, line.waiting_units) == (7, 1, 6)
    assert line.note == "4 pending, 2 refused"


def test_what_staff_wrote_off_is_no_difference(pro, at_stripe):
    use(subscribe("stripe", pro), NOON, calls=4)
    shipping.collect(NOON + MINUTE)
    shipment = Shipment.objects.get()
    shipping.hold(shipment.pk, "By staff.")
    shipping.write_off(shipment.pk, "By staff.")

    found = reconciliation.reconcile("stripe", NOON + 5 * HOUR)

    assert (compared(found), found.differing) == ([(4, 0, 0)], 0)


def test_periods_that_share_a_minute_are_told_apart(pro, at_stripe):
    """Stripe answers for whole minutes; this period begins at 10:07:33."""
    subscription = subscribe("stripe", pro)
    use(subscription, NEXT_PERIOD - timedelta(seconds=20), calls=3)
    later = {"period_start": NEXT_PERIOD}
    use(subscription, NEXT_PERIOD + timedelta(seconds=3), calls=5, **later)
    use(subscription, NEXT_PERIOD - 24 * HOUR, calls=7)
    ship(at_stripe, "stripe", NEXT_PERIOD + MINUTE)

    found = reconciliation.reconcile("stripe", NEXT_PERIOD + 5 * HOUR)

    assert compared(found) == [(10, 10, 0), (5, 5, 0)]
    assert [line.period_start for line in found.lines.order_by("period_start")] == [
        PERIOD,
        NEXT_PERIOD,
    ]


def test_what_counts_from_when_it_arrived_is_put_where_it_belongs(pro, at_dodo):
    subscription = subscribe("dodo", pro)
    use(subscription, NEXT_PERIOD - 30 * MINUTE, calls=4)
    use(subscription, NEXT_PERIOD + MINUTE, calls=1, period_start=NEXT_PERIOD)
    ship(at_dodo, "dodo", NEXT_PERIOD + 45 * MINUTE)
    held = Shipment.objects.get(state="held")
    shipping.replay(held.pk, NEXT_PERIOD + 46 * MINUTE)
    ship(at_dodo, "dodo", NEXT_PERIOD + 47 * MINUTE)

    found = reconciliation.reconcile("dodo", NEXT_PERIOD + 5 * HOUR)

    assert compared(found) == [(4, 4, 0), (1, 1, 0)]


def test_what_was_sent_too_late_to_count_by_then_is_no_difference(pro, at_dodo):
    use(subscribe("dodo", pro), NOON, calls=4)
    ship(at_dodo, "dodo", NOON + 4 * HOUR + 30 * MINUTE)  # without its time

    found = reconciliation.reconcile("dodo", NOON + 5 * HOUR)

    assert found.until == NOON + 4 * HOUR
    assert compared(found) == [(4, 4, 0)]


def test_a_provider_without_the_meter_is_a_difference_that_says_so(pro, at_stripe):
    use(subscribe("stripe", pro), NOON, calls=4)
    at_stripe.meters.clear()

    found = reconciliation.reconcile("stripe", NOON + 5 * HOUR)

    line = found.lines.get()
    assert (found.differing, line.provider_units) == (1, None)
    assert line.note == "Stripe has no active meter for events named keystile_calls."


def test_a_provider_that_is_away_is_not_asked_about_everybody(pro, at_stripe):
    for _ in range(5):
        use(subscribe("stripe", pro), NOON, calls=4)
    at_stripe.away = True

    found = reconciliation.reconcile("stripe", NOON + 5 * HOUR)

    assert (found.lines_count, found.differing) == (5, 5)
    assert len(at_stripe.requests) == 3


def test_only_providers_with_subscriptions_are_compared(pro):
    assert reconciliation.in_use() == []

    for customer_id in ("cus_1", "cus_2"):
        subscribe("stripe", pro, customer_id)
    subscribe("none", pro, "")

    assert reconciliation.in_use() == ["stripe"]
    assert reconciliation.reconcile("stripe", NOON).lines_count == 0


# ------------------------------------------------------------------ telling staff


def test_staff_get_one_mail_of_a_difference(pro, at_stripe, settings):
    settings.STAFF_EMAIL = "staff@example.com"
    use(subscribe("stripe", pro), NOON, units={"calls": 102_500})
    ship(at_stripe, "stripe", NOON + MINUTE)
    at_stripe.events.clear()
    found = reconciliation.reconcile("stripe", NOON + 5 * HOUR)

    announcements.send_waiting(NOON + 5 * HOUR)
    announcements.send_waiting(NOON + 6 * HOUR)

    (sent,) = mail.outbox
    assert sent.to == ["staff@example.com"]
    assert sent.subject == "Stripe and the ledger differ: 1 of 1 line"
    assert "ledger 102,500, Stripe 0: +102,500 units, $5.00" in " ".join(sent.body.split())
    assert reverse("admin:billing_reconciliation_change", args=[found.pk]) in sent.body


def test_agreement_is_no_mail(pro, at_stripe, settings):
    settings.STAFF_EMAIL = "staff@example.com"
    use(subscribe("stripe", pro), NOON, calls=4)
    ship(at_stripe, "stripe", NOON + MINUTE)
    reconciliation.reconcile("stripe", NOON + 5 * HOUR)

    announcements.send_waiting(NOON + 5 * HOUR)

    assert not mail.outbox
    assert Reconciliation.objects.get().announced_at == NOON + 5 * HOUR


# ------------------------------------------------------------------ the admin


@pytest.fixture
def desk(client, transactional_db):
    client.force_login(User.objects.create_superuser("staff@example.com", "a long enough one"))
    return client


def deed(desk, name, *shipments):
    address = reverse("admin:billing_shipment_deed", args=[name])
    return desk.post(address, {"pk": [str(one.pk) for one in shipments]}, follow=True)


def test_staff_see_what_was_refused_and_replay_it(pro, at_stripe, desk):
    use(subscribe("stripe", pro, "cus_gone"), NOON, calls=4)
    use(subscribe("stripe", pro, "cus_too"), NOON, calls=2)
    ship(at_stripe, "stripe", NOON + MINUTE)
    at_stripe.customers |= {"cus_gone", "cus_too"}
    refused = list(Shipment.objects.filter(state="refused"))

    index = desk.get(reverse("admin:index")).content.decode()
    listed = desk.get(reverse("admin:billing_shipment_changelist") + "?state__in=refused,held")
    page = desk.get(reverse("admin:billing_shipment_change", args=[refused[0].pk]))
    asked = desk.get(reverse("admin:billing_shipment_deed", args=["replay"]), {"pk": refused[0].pk})
    deed(desk, "replay", *refused)
    shipping.send("stripe", timezone.now())

    assert "shipments of usage refused or held" in index
    assert "No such customer: &#x27;cus_gone&#x27;" in listed.content.decode()
    assert "keystile_calls" in page.content.decode()
    assert "They are sent again." in asked.content.decode()
    assert not Shipment.objects.filter(state="refused").exists()


def test_staff_hold_mark_and_write_off(pro, desk):
    use(subscribe("stripe", pro), NOON, calls=4)
    use(subscribe("stripe", pro), NOON, calls=2)
    shipping.collect(NOON + MINUTE)
    first, second = Shipment.objects.all()

    deed(desk, "hold", first, second)
    held = set(Shipment.objects.values_list("state", "reason"))
    deed(desk, "arrived", first)
    deed(desk, "write-off", second)

    assert held == {("held", "Held by staff@example.com.")}
    assert {row.pk: row.state for row in Shipment.objects.all()} == {
        first.pk: "sent",
        second.pk: "written_off",
    }


def test_the_list_tells_the_lag(pro, desk):
    address = reverse("admin:billing_shipment_changelist")
    before = desk.get(address).content.decode()
    use(subscribe("stripe", pro), NOON, calls=4)
    shipping.collect(NOON + MINUTE)

    after = desk.get(address).content.decode()

    assert "The ledger has not been read yet; nothing waits to be sent." in before
    assert "1 shipment waits, the oldest of 2026-05-20 12:00:00 UTC." in after


def test_staff_read_a_reconciliation(pro, at_stripe, desk):
    use(subscribe("stripe", pro), NOON, units={"calls": 102_500})
    ship(at_stripe, "stripe", NOON + MINUTE)
    at_stripe.events.clear()
    found = reconciliation.reconcile("stripe", NOON + 5 * HOUR)
    line = ReconciliationLine.objects.get()

    pages = [
        desk.get(reverse("admin:billing_reconciliation_changelist")),
        desk.get(reverse("admin:billing_reconciliation_change", args=[found.pk])),
        desk.get(
            reverse("admin:billing_reconciliationline_changelist")
            + f"?reconciliation__id__exact={found.pk}"
        ),
        desk.get(reverse("admin:billing_reconciliationline_change", args=[line.pk])),
        desk.get(reverse("admin:billing_sandboxmeterevent_changelist")),
        desk.get(reverse("admin:index")),
    ]

    assert [page.status_code for page in pages] == [200] * 6
    assert "1 line differs" in pages[0].content.decode()
    assert "+102,500" in pages[1].content.decode()
    assert "$5.00" in pages[2].content.decode()
    assert "provider counts other than the ledger" in pages[5].content.decode()


def test_a_comparison_is_asked_for_by_staff_who_may(pro, client, desk):
    address = reverse("admin:billing_reconciliation_run")

    answers = [desk.get(address).status_code, desk.post(address).status_code]
    client.force_login(
        User.objects.create_user("reader@example.com", "a long enough one", is_staff=True)
    )
    answers.append(client.post(address).status_code)
    client.logout()
    answers.append(client.post(address).status_code)

    assert answers == [405, 302, 403, 302]
