"""Credits are given by staff, spend caps set by customers; both hold from the next call on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.core.exceptions import ValidationError
from django.urls import reverse
from django.utils import timezone

from billing import allowances, catalogue, contracts, subscriptions, terms
from billing.models import Contract, CreditGrant, PastIncluded, PlanMeter, SpendCap
from gateway import ledger
from gateway.models import CreditUse
from keys.entitlements import Grant, Terms
from keys.models import Entitlement
from keys.spend import Earlier
from portal.models import Membership
from tests.factories import make_account, make_api, make_member, make_plans
from tests.shop import published
from tests.test_admin import customer, desk, staff, version_form  # noqa: F401
from tests.test_ledger import add, entry

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_clean")]

NOW = datetime(2026, 5, 10, 12, tzinfo=UTC)


def make_contract(account, **fields) -> Contract:
    given = {
        "base_price_minor": 0,
        "rate_per_second": 10,
        "burst": 10,
        "included_calls": 5,
        "past_included": PastIncluded.CREDITS,
        "credits_per_unit": 2,
        "starts_at": NOW - timedelta(days=1),
    }
    contract = Contract.objects.create(account=account, **(given | fields))
    contract.full_clean()
    contracts.apply(account, NOW)
    return contract


def granted(account) -> Terms:
    return Terms.from_json(Entitlement.objects.get(account=account).terms)


# ------------------------------------------------------------------ credits


def test_grants_are_published_in_the_order_of_use():
    account = make_account()
    make_contract(account)

    def give(amount, **fields) -> int:
        return allowances.grant(account, amount, reason="test", by=None, now=NOW, **fields).pk

    late = give(10, expires_at=NOW + timedelta(days=9))
    endless = give(20)
    soon = give(30, expires_at=NOW + timedelta(days=2))
    first = give(40, priority=1)
    give(50, expires_at=NOW)

    expires = [int((NOW + timedelta(days=days)).timestamp()) for days in (2, 9)]
    assert granted(account).grants == (
        Grant(first, 40, None),
        Grant(soon, 30, expires[0]),
        Grant(late, 10, expires[1]),
        Grant(endless, 20, None),
    )
    record = published(account)
    assert record["grants"].startswith(f"{first}:40:;{soon}:30:{expires[0]};")
    assert (record["more"], record["credits"]) == ("1", '{"calls": 2}')


def test_a_grant_that_is_used_up_is_not_published_any_more():
    account = make_account()
    make_contract(account)
    given = allowances.grant(account, 10, reason="test", by=None, now=NOW)
    CreditUse.objects.create(grant_id=given.pk, account_id=account.pk, credits=10)

    terms.refresh(account.pk, NOW)

    assert granted(account).grants == ()


def test_the_billing_page_says_how_many_credits_are_left(client):
    account = make_account()
    client.force_login(account.members.first())
    assert "Prepaid credits" not in client.get(reverse("billing")).content.decode()
    given = allowances.grant(account, 1500, reason="test", by=None, now=NOW)
    allowances.grant(account, 7, reason="over", by=None, now=NOW, expires_at=NOW)
    CreditUse.objects.create(grant_id=given.pk, account_id=account.pk, credits=300)

    page = client.get(reverse("billing")).content.decode()

    assert "Prepaid credits" in page
    assert "1,200" in page
    assert allowances.balance(make_account().pk, NOW) is None


@pytest.mark.parametrize("amount", [0, 10**12 + 1])
def test_an_amount_out_of_bounds_is_not_given(amount):
    account = make_account()

    with pytest.raises(ValidationError):
        allowances.grant(account, amount, reason="test", by=None, now=NOW)

    assert not CreditGrant.objects.exists()


def test_staff_give_credits_and_do_not_take_them_back(desk, customer):  # noqa: F811
    account, _ = customer
    make_contract(account, starts_at=timezone.now() - timedelta(days=1))
    form = {"account": account.pk, "amount": 500, "priority": 100, "reason": "An apology"}

    desk.post(reverse("admin:billing_creditgrant_add"), form)

    given = CreditGrant.objects.get()
    assert (given.amount, given.created_by.email) == (500, "staff@example.com")
    assert granted(account).grants == (Grant(given.pk, 500, None),)
    page = reverse("admin:billing_creditgrant_change", args=[given.pk])
    assert desk.get(page).status_code == 200
    assert desk.post(page, form | {"amount": 900}).status_code == 403
    assert b"500 credits" in desk.get(reverse("admin:billing_creditgrant_changelist")).content
    assert (
        b"An apology" in desk.get(reverse("admin:portal_account_change", args=[account.pk])).content
    )


def test_a_version_may_limit_concurrency_and_apis_and_sell_credits(desk, staff):  # noqa: F811
    make_api("holidays")
    plan = make_plans()["basic"].plan
    calls = plan.versions.first().meters.first().meter
    form = version_form(
        plan=plan.pk,
        concurrency=7,
        apis=["holidays"],
        **{
            "meters-0-meter": calls.pk,
            "meters-0-past_included": "credits",
            "meters-0-credits_per_unit": 3,
            "meters-0-tiers": "[]",
        },
    )

    desk.post(reverse("admin:billing_planversion_add"), form)

    version = plan.versions.get(number=2)
    assert (version.concurrency, version.apis) == (7, ["holidays"])
    assert "Then 3 prepaid credits each" in catalogue.promises(version)
    assert "7 calls at the same time" in catalogue.promises(version)


def test_terms_of_a_contract_say_what_it_limits():
    account = make_account()
    make_contract(account, concurrency=4, apis=["b", "a"])

    assert granted(account).concurrency == 4
    assert granted(account).apis == ("a", "b")
    record = published(account)
    assert (record["concurrency"], record["apis"]) == ("4", ",a,b,")


@pytest.mark.parametrize(("past", "credits_per_unit"), [("credits", 0), ("refuse", 1), ("bill", 1)])
def test_credits_per_unit_stand_where_credits_pay_and_only_there(past, credits_per_unit):
    meter = PlanMeter(
        version=make_plans()["basic"].plan.versions.model(plan_id=1, number=9),
        included_units=1,
        past_included=past,
        credits_per_unit=credits_per_unit,
        tiers=[{"up_to": None, "price": "1", "per": 1}] if past == "bill" else [],
    )

    with pytest.raises(ValidationError, match="credits pay"):
        meter.clean()


# ------------------------------------------------------------------ spend caps


def test_a_member_sets_and_removes_the_cap(client, customer):  # noqa: F811
    account, _ = customer
    client.force_login(account.members.first())
    page = client.get(reverse("billing")).content.decode()
    assert reverse("billing_spend_cap") in page

    client.post(reverse("billing_spend_cap"), {"amount": "12.50"})
    cap = granted(account).spend_cap
    assert (cap.cap_minor, cap.currency) == (1250, "USD")
    # Basic: $6 for each thousand past 10,000.
    assert cap.spent_minor({"calls": 11_000}) == 600
    assert published(account)["cap"] == "1250"
    assert SpendCap.objects.get().set_by == account.members.first()
    assert 'value="12.50"' in client.get(reverse("billing")).content.decode()

    client.post(reverse("billing_spend_cap"), {"amount": ""})
    assert granted(account).spend_cap is None
    assert published(account)["more"] == ""


@pytest.mark.parametrize("amount", ["-1", "1.005", "x", "NaN", "1e30", "1000000000.01"])
def test_an_amount_that_is_none_is_refused_with_a_sentence(client, customer, amount):  # noqa: F811
    account, _ = customer
    client.force_login(account.members.first())

    answer = client.post(reverse("billing_spend_cap"), {"amount": amount})

    assert answer.status_code == 422
    assert b"errorlist" in answer.content
    assert not SpendCap.objects.exists()


def test_a_developer_does_not_set_the_cap(client, customer):  # noqa: F811
    account, _ = customer
    client.force_login(make_member(account, Membership.Role.DEVELOPER))

    answer = client.post(reverse("billing_spend_cap"), {"amount": "1"})

    assert answer.status_code == 403
    assert reverse("billing_spend_cap") not in client.get(reverse("billing")).content.decode()
    assert not SpendCap.objects.exists()


def test_what_a_period_cost_under_earlier_terms_counts_towards_the_cap(customer):  # noqa: F811
    account, _ = customer
    now = timezone.now()
    subscription = account.subscriptions.get()
    add(
        entry(account=account.pk, units={"calls": 11_000}, at=now)
        | {"open": opened_under(account, subscription)}
    )
    ledger.drain(0, lambda: now)
    allowances.set_cap(account, 1000, by=None, now=now)
    assert granted(account).spend_cap.earlier is None

    contract = make_contract(
        account,
        starts_at=now - timedelta(minutes=1),
        past_included=PastIncluded.BILL,
        credits_per_unit=0,
        tiers=[{"up_to": None, "price": "0.10", "per": 1}],
    )
    terms.refresh(account.pk, now)

    cap = granted(account).spend_cap
    start = int(subscription.period_start.timestamp())
    # $6 on Basic for 1,000 past its 10,000; then 5 are included and each more costs ten cents.
    assert cap.earlier == Earlier(start, 600, {"calls": 11_000})
    assert cap.spent_minor({"calls": 11_005 + 7}, start) == 600 + 70
    assert cap.spent_minor({"calls": 12}, start + 1) == 70
    assert contract.included_calls == 5


def opened_under(account, subscription) -> str:
    start = int(subscription.period_start.timestamp())
    parts = (account.pk, account.keys.first().pk, "live", start)
    moment = int(timezone.now().timestamp() * 1_000_000)
    parts += (f"version:{subscription.version_id}", moment, "holidays", "GET /x", "{}")
    return "\t".join(map(str, parts))


def test_a_cap_follows_the_terms_and_their_price(customer):  # noqa: F811
    account, _ = customer
    allowances.set_cap(account, 1000, by=None, now=timezone.now())
    subscriptions.set_overage(account, "stop", timezone.now())

    held = granted(account)

    assert held.meters["calls"].limit == 10_000
    assert held.spend_cap.spent_minor({"calls": 10_000}) == 0
