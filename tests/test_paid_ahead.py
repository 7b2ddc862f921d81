"""What is paid ahead is on the invoice of the period that ends: the next plan's price, add-ons."""

from __future__ import annotations

import pytest
from django.db import transaction

from billing import accounts, catalogue, terms
from billing.models import SubscriptionAddOn
from gateway.models import Meter
from tests.factories import make_account, make_add_on, make_plans
from tests.ledger_world import close, closed, lines, subscribe, tell, use
from tests.shop import coming_bill
from tests.test_invoices import APRIL, DAY, HOUR, MARCH, MAY, everything_is_on_one_invoice

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_clean")]


@pytest.fixture
def plans():
    return make_plans()


@pytest.fixture
def account(plans):
    return make_account()


def add(subscription, add_on, at, **fields):
    row = SubscriptionAddOn.objects.create(
        subscription=subscription, add_on=add_on, started_at=at, **fields
    )
    with transaction.atomic():
        accounts.locked(subscription.account_id)
        terms.refresh(subscription.account_id, at)
    return row


def further_calls():
    meter = Meter.objects.get(name="calls")
    return make_add_on("more-calls", meter=meter, included_units=5_000, price_minor=20_00)


def test_add_ons_are_on_the_invoice_and_include_units_from_then_on(account, plans):
    subscription = subscribe(account, plans["basic"], MARCH)
    more = further_calls()
    use(account, MARCH + DAY, 12_000)
    add(subscription, more, MARCH + 2 * DAY)
    use(account, MARCH + 3 * DAY, 4_000)
    bill = coming_bill(account, APRIL - HOUR)
    tell(subscription, APRIL, items=_keys(subscription, more))
    close(APRIL + 2 * HOUR)

    (invoice,) = closed(account)
    assert lines(invoice) == [
        ("Basic, from 1 April 2026", 50_00),
        ("More calls, from 1 April 2026", 20_00),
        ("1,000 calls past 3,000", 6_00),
        ("2,000 calls past 10,000", 12_00),
    ]
    assert invoice.total_minor == bill.total_minor
    assert [line.terms_id for line in invoice.lines.all()[:2]] == list(_keys(subscription, more))
    everything_is_on_one_invoice(account)


@pytest.mark.parametrize("heard_in_time", [True, False])
def test_an_add_on_that_was_to_end_with_the_period_is_not_paid_again(account, plans, heard_in_time):
    subscription = subscribe(account, plans["basic"], MARCH)
    add(subscription, make_add_on("support"), MARCH + DAY, ends_at_period_end=True)
    if heard_in_time:
        tell(subscription, APRIL + HOUR, items=_keys(subscription))
    close(APRIL + 2 * HOUR)

    assert lines(closed(account)[0]) == [("Basic, from 1 April 2026", 50_00)]


def test_a_planned_plan_is_paid_for_also_before_its_provider_is_heard(account, plans):
    subscription = subscribe(account, plans["pro"], MARCH)
    subscription.next_version = plans["basic"]
    subscription.save()
    close(APRIL + 2 * HOUR)

    assert lines(closed(account)[0]) == [("Basic, from 1 April 2026", 50_00)]


def test_an_invoice_that_is_closed_late_has_the_add_ons_of_its_time(account, plans):
    subscription = subscribe(account, plans["basic"], MARCH)
    row = add(subscription, make_add_on("support"), MARCH + DAY)
    tell(subscription, APRIL)
    tell(subscription, MAY)
    SubscriptionAddOn.objects.filter(pk=row.pk).update(ends_at_period_end=True, ended_at=MAY + HOUR)
    close(MAY + 2 * HOUR)

    assert [lines(invoice) for invoice in closed(account)] == [
        [("Basic, from 1 April 2026", 50_00), ("Support, from 1 April 2026", 10_00)],
        [("Basic, from 1 May 2026", 50_00)],
    ]


def _keys(subscription, *add_ons):
    return tuple(item.key for item in catalogue.items(subscription.version, add_ons))
