"""A new price for those who have an old one: previewed, announced in time, applied, recorded."""

from datetime import timedelta

import pytest
from allauth.account.models import EmailAddress
from django.utils import timezone

from billing import (
    catalogue,
    deadlines,
    free_plan,
    plan_changes,
    price_changes,
    subscriptions,
    wishes,
)
from billing.models import BillingEvent, PlanMeter, PlanVersion, PriceChange, PriceMove
from billing.sandbox import orders
from billing.sandbox.models import SandboxOrder
from portal import announcements
from tests.factories import make_account, make_user
from tests.ledger_world import use

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_clean")]

NOW = timezone.now().replace(microsecond=0)
DAY = timedelta(days=1)


def dearer(version: PlanVersion, *, base: int, price: str = "8.00") -> PlanVersion:
    """The plan's next version, published."""
    meters = list(version.meters.all())
    new = PlanVersion.objects.get(pk=version.pk)
    new.pk, new.number, new.published_at, new.base_price_minor = (
        None,
        version.number + 1,
        None,
        base,
    )
    new._state.adding = True
    new.save(force_insert=True)
    for meter in meters:
        tiers = [{"up_to": None, "price": price, "per": 1000}] if meter.tiers else []
        PlanMeter.objects.create(
            version=new,
            meter=meter.meter,
            included_units=meter.included_units,
            past_included=meter.past_included,
            tier_mode=meter.tier_mode,
            tiers=tiers,
        )
    catalogue.publish(new, NOW)
    return new


def change_to(version: PlanVersion, *, in_days: int = 40) -> PriceChange:
    return PriceChange.objects.create(
        to_version=version, effective_at=NOW + in_days * DAY, reason="Servers cost more."
    )


def pass_time(subscription, until) -> None:
    """Days go by: price moves are advanced, the sandbox renews, its state is fetched."""
    day = NOW
    while day < until:
        day += DAY
        for move_id in price_changes.due_to_advance(day):
            price_changes.advance(move_id, day)
        for pk in plan_changes.to_tell().values_list("pk", flat=True):
            plan_changes.tell(pk, day)
        orders.advance(day)
        subscriptions.sync(subscription.pk, day)
    for move_id in price_changes.due_to_advance(until):
        price_changes.advance(move_id, until)
    subscription.refresh_from_db()


def basic_order(subscription) -> SandboxOrder:
    return SandboxOrder.objects.get(subscription_id=subscription.provider_subscription_id)


@pytest.fixture
def basic(shop):
    return shop.buy(make_account(make_user("ada@example.com")), "basic", at=NOW)


def test_the_preview_shows_old_and_new_bill_on_the_usage_so_far(shop, basic):
    use(basic.account, NOW + timedelta(minutes=1), 12_000)
    new = dearer(basic.version, base=6000)

    (effect,) = price_changes.preview(new, NOW + DAY)

    assert effect.subscription == basic
    assert (effect.old_minor, effect.new_minor) == (5000 + 1200, 6000 + 1600)
    assert effect.difference_minor == 1400


def test_other_plans_currencies_and_the_newest_version_are_not_affected(shop, basic):
    pro = shop.buy(make_account(), "pro", at=NOW)
    new = dearer(basic.version, base=6000)

    assert list(price_changes.affected(new)) == [basic]
    assert list(price_changes.affected(pro.version)) == []


def test_less_than_thirty_days_are_too_soon(shop, basic):
    change = change_to(dearer(basic.version, base=6000), in_days=29)

    with pytest.raises(price_changes.TooSoon):
        price_changes.announce(change, NOW)

    assert not PriceMove.objects.exists()


def test_a_change_that_concerns_nobody_is_not_announced(shop, basic):
    pro = dearer(shop.plans["pro"], base=30_000)

    with pytest.raises(price_changes.NothingToMove):
        price_changes.announce(change_to(pro), NOW)


def test_announced_twice_it_is_one_announcement_and_one_mail_each(shop, basic, mailoutbox):
    change = change_to(dearer(basic.version, base=6000))

    assert price_changes.announce(change, NOW) == 1
    assert price_changes.announce(change, NOW) == 1
    BillingEvent.objects.update(announced_at=NOW)
    announcements.send_waiting(NOW)
    announcements.send_waiting(NOW)

    (mail,) = [mail for mail in mailoutbox if "price" in mail.subject]
    assert mail.to == ["ada@example.com"]
    assert "$60 a month instead of $50" in mail.body
    assert "Servers cost more." in mail.body


def test_the_new_price_comes_with_the_first_period_after_the_date(shop, basic):
    new = dearer(basic.version, base=6000)
    change = change_to(new, in_days=40)
    price_changes.announce(change, NOW)
    old = basic.version

    pass_time(basic, basic.period_end + DAY)
    assert basic.version == old, "the second period begins before the date"

    pass_time(basic, basic.period_end + DAY)
    assert basic.version == new
    move = change.moves.get()
    change.refresh_from_db()
    assert (move.state, change.state) == ("moved", "done")
    paid = basic.payments.order_by("at").last()
    assert (paid.amount_minor, paid.state) == (6000, "paid")


def test_who_keeps_the_old_price_keeps_it(shop, basic, mailoutbox):
    new = dearer(basic.version, base=6000)
    change = change_to(new, in_days=30)
    price_changes.announce(change, NOW)
    old = basic.version
    announcements.send_waiting(NOW)
    mailoutbox.clear()

    price_changes.keep_old_price(change.moves.get(), NOW)
    announcements.send_waiting(NOW)
    pass_time(basic, basic.period_end + 35 * DAY)

    assert basic.version == old
    assert change.moves.get().state == "kept"
    (mail,) = [mail for mail in mailoutbox if "price" in mail.subject]
    assert "stays as it is" in mail.subject


def test_withdrawn_after_the_provider_was_told_the_old_price_goes_on(shop, basic):
    new = dearer(basic.version, base=6000)
    change = change_to(new, in_days=30)
    price_changes.announce(change, NOW)
    old = basic.version
    second_end = basic.period_end
    pass_time(basic, second_end - DAY)
    assert basic.next_version in (None, new)

    price_changes.withdraw(change, second_end - DAY)
    pass_time(basic, second_end + 40 * DAY)

    assert basic.version == old
    assert basic.next_version is None
    change.refresh_from_db()
    assert change.state == "withdrawn"


def test_who_cancels_or_leaves_is_not_moved(shop, basic):
    change = change_to(dearer(basic.version, base=6000), in_days=30)
    price_changes.announce(change, NOW)

    subscriptions.cancel(basic.account, at_period_end=False, now=NOW + DAY)
    pass_time(basic, NOW + 2 * DAY)

    assert change.moves.get().state == "left"


def test_free_moves_with_its_next_period(shop):
    user = make_user()
    EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
    free = free_plan.start(make_account(user), user, NOW)
    new = dearer(free.version, base=0)
    change = change_to(new, in_days=30)
    price_changes.announce(change, NOW)
    end = free.period_end

    price_changes.advance(change.moves.get().pk, end - timedelta(hours=1))
    deadlines.advance(free.account_id, end)
    price_changes.advance(change.moves.get().pk, end)

    free.refresh_from_db()
    assert (free.version, free.next_version) == (new, None)
    assert change.moves.get().state == "moved"


def test_the_customer_cannot_withdraw_a_new_price(shop, basic):
    change = change_to(dearer(basic.version, base=6000), in_days=30)
    price_changes.announce(change, NOW)
    price_changes.advance(change.moves.get().pk, basic.period_end - timedelta(hours=1))

    with pytest.raises(wishes.NotOffered):
        plan_changes.withdraw(basic.account, basic.period_end - timedelta(hours=1))


def test_who_was_told_to_keep_the_old_price_is_spared_the_next_change_too(shop, basic):
    second = dearer(basic.version, base=6000)
    change = change_to(second)
    price_changes.announce(change, NOW)
    price_changes.keep_old_price(change.moves.get(), NOW)

    third = dearer(second, base=7000)

    assert list(price_changes.affected(third)) == []


def test_a_provider_that_refuses_is_asked_again_and_no_customer_hears_of_it(shop, basic):
    change = change_to(dearer(basic.version, base=6000), in_days=30)
    price_changes.announce(change, NOW)
    near = basic.period_end - timedelta(hours=2)
    price_changes.advance(change.moves.get().pk, near)
    orders.cancel(basic_order(basic).pk, False, near)

    assert plan_changes.tell(basic.pk, near).kind == "unpaid"

    basic.refresh_from_db()
    assert basic.next_version is None
    assert not basic.events.filter(kind="change_withdrawn").exists()
    assert price_changes.due_to_advance(near + timedelta(minutes=5)) == []
    assert price_changes.due_to_advance(near + timedelta(hours=1)) == [change.moves.get().pk]


def test_withdrawn_and_killed_in_between_it_is_called_off_by_beat(shop, basic, mailoutbox):
    change = change_to(dearer(basic.version, base=6000))
    price_changes.announce(change, NOW)
    PriceChange.objects.update(state=PriceChange.State.WITHDRAWN)

    announcements.send_waiting(NOW)
    for move_id in price_changes.due_to_advance(NOW):
        price_changes.advance(move_id, NOW)
    announcements.send_waiting(NOW)

    assert change.moves.get().state == "withdrawn"
    assert not [mail for mail in mailoutbox if "price" in mail.subject]
