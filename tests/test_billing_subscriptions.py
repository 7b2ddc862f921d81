"""What becomes of a subscription shows in the entitlement, and so on the next call."""

from datetime import UTC, datetime, timedelta

import pytest
from allauth.account.models import EmailAddress
from django.utils import timezone

from billing import checkout, deadlines, free_plan, subscriptions, tasks, terms
from billing.free_plan import AddressNotVerified, FreeTaken
from billing.models import BillingEvent, Contract, PastIncluded, Subscription
from billing.sandbox import orders
from billing.sandbox.models import SandboxDelivery, SandboxOrder
from billing.subscriptions import (
    AlreadySubscribed,
    IllegalMove,
    NoSubscription,
)
from gateway.models import UsageRollup
from keys import entitlements
from keys.models import ApiKey, Entitlement
from tests.factories import make_account, make_plans
from tests.shop import coming_bill, published, until, working

State = Subscription.State
JANUARY_31 = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


def make_verified_account(user=None):
    account = make_account(user)
    owner = account.members.get()
    EmailAddress.objects.get_or_create(user=owner, email=owner.email, verified=True, primary=True)
    return account, owner


def start_free(now=JANUARY_31):
    account, owner = make_verified_account()
    return account, free_plan.start(account, owner, now)


def kinds(account):
    return [event.kind for event in account.billing_events.order_by("id")]


def entitlement(account):
    return Entitlement.objects.get(account=account)


# ------------------------------------------------------------------ free


@pytest.fixture
def plans(transactional_db, redis_clean):
    return make_plans()


def test_free_starts_with_its_terms_and_an_unclaimed_key(plans):
    account, subscription = start_free()

    assert subscription.period_end == datetime(2026, 2, 28, 9, 30, tzinfo=UTC)
    assert account.keys.get().state == ApiKey.State.UNCLAIMED
    record = published(account)
    assert (record["state"], record["plan"], record["rate"]) == ("active", "Free", "5")
    assert record["limit:calls"] == "500"
    assert record["ends_ms"] == ""
    boundaries = [int(boundary) for boundary in record["periods"].split(",")]
    assert boundaries[0] == JANUARY_31.timestamp()
    assert len(boundaries) == 25
    assert kinds(account) == ["started"]


def test_free_wants_a_proved_address(plans):
    account = make_account()

    with pytest.raises(AddressNotVerified):
        free_plan.start(account, account.members.get(), JANUARY_31)

    assert account.keys.count() == 0
    assert not Entitlement.objects.filter(account=account).exists()


def test_free_starts_once_per_account_and_once_per_person(plans):
    account, _ = start_free()
    owner = account.members.get()
    other, _ = make_verified_account(owner)

    with pytest.raises(AlreadySubscribed):
        free_plan.start(account, owner, JANUARY_31)
    with pytest.raises(FreeTaken):
        free_plan.start(other, owner, JANUARY_31)


def test_free_ended_and_taken_again_goes_on_in_its_period(plans):
    account, first = start_free()
    owner = account.members.get()
    subscriptions.cancel(account, at_period_end=False, now=JANUARY_31 + timedelta(days=5))
    other, _ = make_verified_account(owner)

    with pytest.raises(FreeTaken):
        free_plan.start(other, owner, JANUARY_31 + timedelta(days=6))
    again = free_plan.start(account, owner, JANUARY_31 + timedelta(days=6))

    assert (again.period_start, again.period_end) == (first.period_start, first.period_end)
    assert account.keys.count() == 1
    assert published(account)["state"] == "active"


def test_free_rolls_on_every_month_on_its_day(plans):
    account, subscription = start_free()

    deadlines.advance(account.pk, datetime(2026, 2, 28, 9, 29, tzinfo=UTC))
    subscription.refresh_from_db()
    unmoved = subscription.period_start
    deadlines.advance(account.pk, datetime(2026, 4, 2, tzinfo=UTC))

    subscription.refresh_from_db()
    assert unmoved == JANUARY_31
    assert subscription.period_start == datetime(2026, 3, 31, 9, 30, tzinfo=UTC)
    assert subscription.period_end == datetime(2026, 4, 30, 9, 30, tzinfo=UTC)
    first = int(published(account)["periods"].split(",")[0])
    assert first == subscription.period_start.timestamp()


def test_an_account_that_cannot_be_advanced_keeps_no_other_waiting(plans):
    begun = timezone.now() - timedelta(days=40)
    _, broken = start_free(begun)
    _, sound = start_free(begun)
    Subscription.objects.filter(pk=broken.pk).update(anchor_day=0)  # no month has this day

    with working():
        tasks.advance_subscriptions.delay()
        until(lambda: Subscription.objects.get(pk=sound.pk).period_start == sound.period_end)

    broken.refresh_from_db()
    assert broken.period_start == begun.replace(microsecond=0)
    assert deadlines.due(timezone.now()) == {broken.account_id}


def test_free_cancelled_for_the_period_end_ends_then_and_can_be_kept(plans):
    account, subscription = start_free()
    subscriptions.cancel(account, at_period_end=True, now=JANUARY_31)
    planned = published(account)["ends_ms"]
    subscriptions.resume(account, JANUARY_31)
    withdrawn = published(account)["ends_ms"]
    subscriptions.cancel(account, at_period_end=True, now=JANUARY_31)

    deadlines.advance(account.pk, subscription.period_end)

    assert planned == str(int(subscription.period_end.timestamp() * 1000))
    assert withdrawn == ""
    assert published(account)["state"] == "ended"
    assert subscriptions.alive(account) is None
    assert kinds(account) == [
        "started",
        "cancel_planned",
        "cancel_withdrawn",
        "cancel_planned",
        "ended",
    ]


def test_nothing_can_be_cancelled_resumed_or_chosen_without_a_subscription(plans):
    account = make_account()

    for attempt in (
        lambda: subscriptions.cancel(account, at_period_end=True, now=JANUARY_31),
        lambda: subscriptions.resume(account, JANUARY_31),
        lambda: subscriptions.set_overage(account, "stop", JANUARY_31),
    ):
        with pytest.raises(NoSubscription):
            attempt()


# ------------------------------------------------------------------ paid


def test_paid_takes_the_place_of_free_in_a_period_of_its_own(shop):
    account, free = start_free(timezone.now() - timedelta(days=3))
    now = timezone.now()

    paid = shop.buy(account, at=now)

    free.refresh_from_db()
    assert (free.state, free.ended_at) == (State.ENDED, now)
    assert paid.period_start == now.replace(microsecond=0)
    assert account.keys.count() == 1
    assert kinds(account) == ["started", "started"]
    assert account.billing_events.first().data == {"plan": "Basic", "previous_plan": "Free"}
    record = published(account)
    assert record["plan"] == "Basic"
    assert int(record["periods"].split(",")[0]) == int(now.timestamp())


def test_cancelled_at_once_ends_access_and_bought_again_the_same_key_works(shop):
    account = make_account()
    shop.buy(account, at=timezone.now())
    key = account.keys.get()

    subscriptions.cancel(account, at_period_end=False, now=timezone.now())
    ended = published(account)
    shop.buy(account, "pro", at=timezone.now())

    assert ended["state"] == "ended"
    record = published(account)
    assert (record["state"], record["plan"], record["rate"]) == ("active", "Pro", "100")
    assert account.keys.get() == key
    assert kinds(account) == ["started", "ended", "started"]


def test_cancelled_for_the_period_end_access_ends_then(shop):
    account = make_account()
    a_month_ago = timezone.now() - timedelta(days=32)
    subscription = shop.buy(account, at=a_month_ago)
    subscriptions.cancel(account, at_period_end=True, now=a_month_ago)
    subscription.refresh_from_db()
    planned = published(account)

    orders.advance(timezone.now())
    shop.settle()

    assert planned["state"] == "active"
    assert planned["ends_ms"] == str(int(subscription.period_end.timestamp() * 1000))
    assert published(account)["state"] == "ended"
    assert kinds(account) == ["started", "cancel_planned", "ended"]
    subscription.refresh_from_db()
    assert subscription.ended_at == subscription.period_end


def test_a_planned_end_can_be_withdrawn(shop):
    account = make_account()
    subscription = shop.buy(account, at=timezone.now())
    subscriptions.cancel(account, at_period_end=True, now=timezone.now())

    subscriptions.resume(account, timezone.now())
    shop.settle()

    subscription.refresh_from_db()
    assert not subscription.cancel_at_period_end
    assert kinds(account) == ["started", "cancel_planned", "cancel_withdrawn"]


def test_a_renewal_begins_the_next_period(shop):
    account = make_account()
    bought_at = timezone.now() - timedelta(days=32)
    subscription = shop.buy(account, at=bought_at)
    first_end = subscription.period_end

    orders.advance(timezone.now())
    shop.settle()

    subscription.refresh_from_db()
    assert subscription.period_start == first_end
    assert kinds(account) == ["started", "renewed"]
    assert int(published(account)["periods"].split(",")[0]) == first_end.timestamp()


def test_a_renewal_whose_webhook_is_lost_is_asked_for(shop):
    account = make_account()
    subscription = shop.buy(account, at=timezone.now() - timedelta(days=32))
    orders.advance(timezone.now())
    SandboxDelivery.objects.all().delete()
    now = timezone.now()

    due = list(subscriptions.due_for_sync(now))
    subscriptions.sync(subscription.pk, now)

    assert due == [subscription]
    assert kinds(account) == ["started", "renewed"]
    assert not subscriptions.due_for_sync(now).exists()


def test_traffic_goes_on_72_hours_while_a_renewal_is_unconfirmed(shop):
    account = make_account()
    subscription = shop.buy(account, at=timezone.now())

    ends_at = entitlement(account).ends_at

    assert ends_at == subscription.period_end + timedelta(hours=72)
    assert published(account)["ends_ms"] == str(int(ends_at.timestamp() * 1000))


def test_a_failed_payment_stops_the_traffic_after_seven_days_and_paying_resumes_it(shop):
    account = make_account()
    subscription = shop.buy(account, at=timezone.now())
    SandboxOrder.objects.update(state=SandboxOrder.State.PAST_DUE)
    failed_at = timezone.now()
    subscriptions.sync(subscription.pk, failed_at)
    in_grace = published(account)

    deadlines.advance(account.pk, failed_at + timedelta(days=7) - timedelta(seconds=1))
    last_moment = published(account)["state"]
    deadlines.advance(account.pk, failed_at + timedelta(days=7))
    after_grace = published(account)["state"]
    SandboxOrder.objects.update(state=SandboxOrder.State.ACTIVE)
    subscriptions.sync(subscription.pk, failed_at + timedelta(days=8))

    assert (in_grace["state"], in_grace["ends_ms"]) == ("active", "")
    assert (last_moment, after_grace) == ("active", "payment_required")
    assert published(account)["state"] == "active"
    assert kinds(account) == [
        "started",
        "payment_failed",
        "grace_reminder",
        "payment_required",
        "payment_recovered",
    ]
    subscription.refresh_from_db()
    assert subscription.past_due_since is None


def test_what_has_ended_stays_ended(shop):
    account = make_account()
    subscription = shop.buy(account, at=timezone.now())
    subscriptions.cancel(account, at_period_end=False, now=timezone.now())
    SandboxOrder.objects.update(state=SandboxOrder.State.ACTIVE)

    with pytest.raises(IllegalMove, match="ended → active"):
        subscriptions.sync(subscription.pk, timezone.now())

    subscription.refresh_from_db()
    assert subscription.state == State.ENDED


def test_past_the_included_units_the_customer_may_choose_to_stop(shop):
    account = make_account()
    shop.buy(account, at=timezone.now())
    billed = published(account)

    subscriptions.set_overage(account, "stop", timezone.now())
    stopped = published(account)
    subscriptions.set_overage(account, "bill", timezone.now())

    assert billed["limit:calls"] == ""
    assert stopped["limit:calls"] == "10000"
    assert published(account)["limit:calls"] == ""
    with pytest.raises(ValueError, match="sometimes"):
        subscriptions.set_overage(account, "sometimes", timezone.now())


def test_a_suspension_survives_every_change_of_terms(shop):
    account = make_account()
    shop.buy(account, at=timezone.now())
    entitlements.suspend(account.pk, timezone.now())

    subscriptions.set_overage(account, "stop", timezone.now())

    assert published(account)["suspended"] == "1"


# ------------------------------------------------------------------ the coming bill


def use(account, subscription, billable, *, terms_id=None):
    UsageRollup.objects.create(
        quarter=subscription.period_start,
        account_id=account.pk,
        key_id=account.keys.get().pk,
        api="holidays",
        operation="GET /v1/countries",
        meter="calls",
        status_class=2,
        mode="live",
        period_start=subscription.period_start,
        terms_id=terms_id or f"version:{subscription.version_id}",
        calls=billable,
        units=billable,
        billable_units=billable,
    )


def test_the_coming_bill_is_the_next_base_price_and_what_was_used_past_the_included(shop):
    account = make_account()
    subscription = shop.buy(account, at=timezone.now())
    use(account, subscription, 12_300)

    bill = coming_bill(account, timezone.now())

    assert [(line.text, line.amount) for line in bill.lines] == [
        ("Basic, next period", "$50.00"),
        ("2,300 calls past 10,000", "$13.80"),
    ]
    assert (bill.total_minor, bill.total) == (63_80, "$63.80")
    assert (bill.period_start, bill.period_end) == (
        subscription.period_start,
        subscription.period_end,
    )


def test_after_a_planned_end_only_usage_is_due(shop):
    account = make_account()
    subscription = shop.buy(account, at=timezone.now())
    use(account, subscription, 11_000)
    subscriptions.cancel(account, at_period_end=True, now=timezone.now())

    bill = coming_bill(account, timezone.now())

    assert bill.total == "$6.00"


def test_what_was_used_before_stopping_is_billed(shop):
    account = make_account()
    subscription = shop.buy(account, at=timezone.now())
    use(account, subscription, 11_000)
    subscriptions.set_overage(account, "stop", timezone.now())

    assert coming_bill(account, timezone.now()).total == "$56.00"


def test_usage_is_billed_by_the_terms_it_was_made_under(shop):
    account = make_account()
    now = timezone.now()
    subscription = shop.buy(account, at=now)
    contract, deleted = (
        Contract.objects.create(
            account=account,
            base_price_minor=5_000_00,
            rate_per_second=500,
            burst=500,
            included_calls=1_000,
            past_included=PastIncluded.BILL,
            tiers=[{"up_to": None, "price": "1.00", "per": 1000}],
            starts_at=now,
        )
        for _ in range(2)
    )
    use(account, subscription, 11_000)
    use(account, subscription, 3_000, terms_id=f"contract:{contract.pk}")
    use(account, subscription, 2_000, terms_id=f"contract:{deleted.pk}")
    deleted.delete()

    bill = coming_bill(account, now)

    assert [(line.text, line.amount) for line in bill.lines] == [
        ("Enterprise, next period", "$5,000.00"),
        ("4,000 calls past 1,000", "$4.00"),
        ("1,000 calls past 10,000", "$6.00"),
    ]


def test_no_bill_comes_without_a_subscription(shop):
    assert coming_bill(make_account(), timezone.now()) is None


def test_every_usage_event_can_be_traced_to_its_terms(shop):
    account = make_account()
    subscription = shop.buy(account, at=timezone.now())

    assert published(account)["terms"] == f"version:{subscription.version_id}"
    assert terms.standing(account.pk, timezone.now()).plan_name == "Basic"


def test_the_history_knows_the_revenue_after_each_event(shop):
    account = make_account()
    shop.buy(account, at=timezone.now())
    subscriptions.cancel(account, at_period_end=False, now=timezone.now())
    row = shop.start(account, "pro")
    shop.pay(row)
    checkout.sync(row.pk, timezone.now())

    assert list(BillingEvent.objects.order_by("id").values_list("kind", "mrr_minor")) == [
        ("started", 50_00),
        ("ended", 0),
        ("started", 200_00),
    ]
