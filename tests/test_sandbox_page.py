"""The staff's control page of the sandbox: what its buttons do, and who may press them."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission
from django.urls import reverse
from django.utils import timezone

from billing import rehearsal
from billing.sandbox import orders
from billing.sandbox.models import SandboxFaults, SandboxOrder
from keys import clock
from portal.models import Account, User
from tests.factories import make_account, make_user
from tests.shop import Shop

PAGE, JOURNEY = reverse("admin:sandbox"), reverse("admin:sandbox_journey")
DAY = timedelta(days=1)


@pytest.fixture
def desk(client, transactional_db):
    client.force_login(User.objects.create_superuser("staff@example.com", "a long enough one"))
    return client


@pytest.fixture
def customer(shop: Shop, movable) -> Account:
    account = make_account(name="Fjord Weather AS")
    shop.buy(account, "basic", at=timezone.now())
    return account


def text(answer) -> str:
    return " ".join(re.sub(r"<[^>]+>", "", answer.content.decode()).split())


def buttons(answer) -> set[str]:
    return set(re.findall(r'name="deed" value="(\w+)"', answer.content.decode()))


def press(desk, **named):
    return desk.post(PAGE, named, follow=True)


def test_it_lists_customers_with_what_they_pay_and_when_their_period_ends(desk, customer):
    shown = text(desk.get(PAGE))

    order = SandboxOrder.objects.get()
    assert "Fjord Weather AS" in shown
    assert "$50.00 a month" in shown
    assert f"{order.period_end:%Y-%m-%d %H:%M}" in shown
    assert "Everything that was due is done." in shown


def test_without_customers_it_says_how_to_get_one(desk, movable):
    assert "Buy a plan on the" in text(desk.get(PAGE))


def test_a_week_ahead_is_a_week_ahead_on_every_page(desk, customer):
    before = clock.now()

    shown = press(desk, move="week")

    assert timedelta(days=7) <= clock.now() - before < timedelta(days=7, minutes=1)
    assert f"{clock.now():%A, %-d %B %Y}" in text(shown)
    home = desk.get("/")
    assert f"Demo, {clock.now():%-d %b %Y}" in text(home)
    assert f'data-ahead-seconds="{clock.shift() // timedelta(seconds=1)}"' in home.content.decode()


def test_to_the_end_of_a_period_is_a_moment_after_it(desk, customer):
    order = SandboxOrder.objects.get()
    ended = order.period_end

    press(desk, to_end="1", order=order.pk)

    order.refresh_from_db()
    assert order.period_start == ended
    assert customer.billing_events.filter(kind="renewed").count() == 1
    assert ended < clock.now() < ended + timedelta(minutes=1)


def test_who_asks_for_an_end_that_is_on_the_way_gets_no_further(desk, customer):
    until = rehearsal.set_out(40 * DAY)

    shown = press(desk, to_end="1", order=SandboxOrder.objects.get().pk)

    assert "on the way past it already" in text(shown)
    assert rehearsal.under_way().until == until


def test_the_way_is_shown_until_it_is_over(desk, customer):
    rehearsal.set_out(10 * DAY)

    under_way = desk.get(JOURNEY)
    assert "On the way to" in text(under_way)
    assert 'hx-trigger="every 1s"' in under_way.content.decode()

    rehearsal.travel(60)
    assert desk.get(JOURNEY)["HX-Refresh"] == "true"

    orders.cancel(SandboxOrder.objects.get().pk, True, clock.now())
    assert "Catching up: deliveries to send 1" in text(desk.get(JOURNEY))


def test_an_end_by_the_provider_reaches_the_customer(desk, customer, shop):
    order = SandboxOrder.objects.get()

    assert "End it now: done." in text(press(desk, deed="end", order=order.pk))

    rehearsal.catch_up()
    assert customer.subscriptions.get().state == "ended"
    assert "There is nothing to do any more." in text(press(desk, deed="end", order=order.pk))


def test_a_card_is_declined_until_it_is_accepted_again(desk, customer):
    order = SandboxOrder.objects.get()

    assert "card declined" in text(press(desk, deed="decline", order=order.pk))
    order.refresh_from_db()
    assert order.declines

    press(desk, deed="accept", order=order.pk)
    order.refresh_from_db()
    assert not order.declines


def test_what_was_past_due_is_paid_when_the_card_is_accepted(desk, customer):
    order = SandboxOrder.objects.get()
    press(desk, deed="decline", order=order.pk)
    press(desk, to_end="1", order=order.pk)
    assert customer.subscriptions.get().state == "past_due"

    press(desk, deed="accept", order=order.pk)
    rehearsal.catch_up()

    assert customer.subscriptions.get().state == "active"


def test_a_payment_is_disputed_decided_and_paid_back(desk, customer):
    order = SandboxOrder.objects.get()

    shown = press(desk, deed="dispute", order=order.pk)
    assert order.payments.get().dispute == "open"
    assert buttons(shown) >= {"dispute_won", "dispute_lost"}
    assert buttons(shown).isdisjoint({"dispute", "refund"})

    shown = press(desk, deed="dispute_won", order=order.pk)
    assert order.payments.get().dispute == "won"
    assert buttons(shown) >= {"dispute", "refund"}

    shown = press(desk, deed="refund", order=order.pk)
    assert sum(order.payments.get().refunds.values()) == 5000
    assert "refund" not in buttons(shown)


def test_a_pause_stops_the_calls_until_it_is_over(desk, customer):
    order = SandboxOrder.objects.get()

    press(desk, deed="pause", order=order.pk)
    rehearsal.catch_up()
    assert customer.subscriptions.get().state == "paused"

    assert "pause" not in buttons(desk.get(PAGE))
    press(desk, deed="unpause", order=order.pk)
    rehearsal.catch_up()
    assert customer.subscriptions.get().state == "active"


def test_what_goes_wrong_is_set_and_kept(desk, movable):
    given = {"drop": 100, "repeat": 2, "delay_seconds": 0, "refused": 0, "unanswered": 5}

    assert "What goes wrong is set." in text(press(desk, faults="1", **given))
    assert SandboxFaults.objects.get().drop == 100

    refused = press(desk, faults="1", **(given | {"drop": 101}))
    assert "less than or equal to 100" in text(refused)
    assert SandboxFaults.objects.get().drop == 100


@pytest.mark.parametrize(
    "given",
    [
        {"move": "century"},
        {"to_end": "1", "order": "co_none"},
        {"deed": "end", "order": "co_none"},
        {"deed": "nothing", "order": ""},
        {},
    ],
)
def test_what_no_button_says_does_nothing(desk, movable, given):
    assert press(desk, **given).status_code == 200
    assert clock.shift() == timedelta()


def test_where_another_provider_sells_there_is_no_such_page(desk, settings):
    settings.PAYMENT_PROVIDER = "stripe"

    assert desk.get(PAGE).status_code == 404
    assert desk.get(JOURNEY).status_code == 404
    assert "/admin/sandbox/" not in desk.get("/admin/").content.decode()


def test_where_the_clock_stands_the_page_says_so(desk, shop, settings):
    assert "CLOCK_CAN_MOVE=1" in text(desk.get(PAGE))
    assert "can’t be moved here" in text(press(desk, move="day"))


def test_only_staff_who_may_change_subscriptions_get_there(client, customer):
    assert client.get(PAGE).status_code == 302
    client.force_login(customer.members.first())
    assert client.get(PAGE).status_code == 302

    clerk = make_user()
    User.objects.filter(pk=clerk.pk).update(is_staff=True)
    client.force_login(clerk)
    assert client.get(PAGE).status_code == 403
    assert client.post(PAGE, {"move": "year"}).status_code == 403
    assert clock.shift() == timedelta()

    clerk.user_permissions.add(Permission.objects.get(codename="change_subscription"))
    assert client.get(PAGE).status_code == 200


def test_the_index_leads_there(desk, movable):
    assert f'href="{PAGE}"' in desk.get("/admin/").content.decode()
