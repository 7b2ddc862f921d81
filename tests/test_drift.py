"""The daily comparison with providers: what no webhook told of is found and repaired."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core import mail
from django.urls import reverse
from django.utils import timezone

from billing import drift
from billing.models import Drift, Subscription
from billing.providers import ProviderUnavailable
from billing.sandbox import orders
from billing.sandbox.models import SandboxDelivery, SandboxFaults, SandboxOrder
from portal import announcements
from portal.models import User
from tests.factories import make_account
from tests.shop import Shop

DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)


@pytest.fixture
def started_at():
    return timezone.now()


@pytest.fixture
def customer(shop: Shop, started_at) -> Subscription:
    return shop.buy(make_account(name="Fjord Weather AS"), "basic", at=started_at)


def end_unheard(at) -> None:
    """The provider ends it, and its webhooks are lost."""
    orders.cancel(SandboxOrder.objects.get().pk, False, at)
    SandboxDelivery.objects.all().delete()


def look(subscription: Subscription, at) -> Drift | None:
    drift.look(subscription.pk, at)
    subscription.refresh_from_db()
    return Drift.objects.first()


def test_each_is_asked_about_once_a_day(customer, started_at):
    assert not drift.due(started_at + DAY - MINUTE)
    assert list(drift.due(started_at + DAY)) == [customer]

    assert look(customer, started_at + DAY) is None

    assert not drift.due(started_at + 2 * DAY - MINUTE)


def test_what_is_still_so_a_quarter_of_an_hour_later_is_repaired(customer, started_at):
    noon = started_at + DAY
    end_unheard(noon)

    seen = look(customer, noon)
    assert (customer.state, seen.repaired_at) == ("active", None)
    assert not drift.due(noon + 14 * MINUTE)
    assert list(drift.due(noon + 15 * MINUTE)) == [customer]

    repaired = look(customer, noon + 15 * MINUTE)
    assert customer.state == "ended"
    assert repaired.repaired_at == noon + 15 * MINUTE
    assert repaired.differences == [{"what": "state", "ours": "active", "theirs": "ended"}]
    assert list(customer.events.values_list("kind", flat=True).order_by("pk"))[-1] == "ended"


def test_a_webhook_that_was_on_its_way_is_no_drift(customer, started_at, shop):
    noon = started_at + DAY
    orders.cancel(SandboxOrder.objects.get().pk, True, noon)
    assert look(customer, noon).differences[0]["what"] == "planned end"

    SandboxDelivery.objects.update(next_attempt_at=timezone.now())
    shop.settle()

    assert look(customer, noon + 15 * MINUTE) is None
    assert customer.cancel_at_period_end


def test_what_cannot_follow_is_for_staff(customer, started_at):
    SandboxOrder.objects.update(state="trialing")
    Subscription.objects.update(trial_ends_at=started_at + DAY)

    found = look(customer, started_at + DAY)

    assert "active → trialing" in found.error
    assert customer.state == "active"
    assert not drift.due(started_at + 2 * DAY - MINUTE)
    assert list(drift.due(started_at + 2 * DAY)) == [customer]


def test_a_provider_that_is_away_is_asked_again(customer, started_at):
    SandboxFaults.objects.create(refused=100)

    with pytest.raises(ProviderUnavailable):
        look(customer, started_at + DAY)

    assert list(drift.due(started_at + DAY + MINUTE)) == [customer]


def test_staff_are_told_once_it_is_repaired(customer, started_at, settings, client):
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    noon = started_at + DAY
    end_unheard(noon)
    look(customer, noon)
    announcements.send_waiting(noon)
    assert not [sent for sent in mail.outbox if settings.STAFF_EMAIL in sent.to]

    look(customer, noon + 15 * MINUTE)
    announcements.send_waiting(noon)
    announcements.send_waiting(noon)

    (sent,) = [sent for sent in mail.outbox if settings.STAFF_EMAIL in sent.to]
    assert "Fjord Weather AS" in sent.subject
    assert "active → ended" in sent.body
    client.force_login(User.objects.create_superuser("staff@example.com", "a long enough one"))
    page = client.get(reverse("admin:billing_drift_changelist")).content.decode()
    assert "state: active → ended" in page
    found = Drift.objects.get()
    assert client.get(reverse("admin:billing_drift_change", args=[found.pk])).status_code == 200


def test_subscriptions_that_ended_or_are_free_are_nobody_elses_matter(customer, started_at):
    Subscription.objects.filter(pk=customer.pk).update(state="ended")

    assert not drift.due(started_at + 2 * DAY)
