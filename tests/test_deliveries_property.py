"""However its deliveries come, a subscription's life ends in the rows of the clean run.

Repeated, shuffled, late, eight at once, with the worker killed in the midst of them: the provider
is asked anyway, and what has been applied is applied once.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
from django.db import transaction
from django.utils import timezone

from billing import catalogue
from billing.models import ProviderEvent
from billing.providers import Change
from billing.sandbox import cards, changes, deliveries, orders, payments
from billing.sandbox.models import SandboxDelivery, SandboxOrder
from keys import records
from keys.models import Entitlement
from portal.models import Account
from tests import ledger_world
from tests.factories import make_account
from tests.inbox_workers import Workers, workers
from tests.shop import Shop, waiting_events

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
MONTH = 32 * DAY
THREADS = 8

Message = tuple[str, bytes]


@dataclass(frozen=True)
class Step:
    """What happens in the provider's world, and how long after the step before."""

    name: str
    after: timedelta
    do: Callable[[SandboxOrder, datetime, Shop], object]


def refund(order: SandboxOrder, now: datetime, _: Shop) -> None:
    with transaction.atomic():
        payment = order.payments.order_by("at").first()
        assert payment is not None
        payments.refund(payment, 1000, "goodwill", now)


def to_plan(slug: str) -> Callable[[SandboxOrder, datetime, Shop], object]:
    def change(order: SandboxOrder, now: datetime, shop: Shop) -> None:
        version = shop.plans[slug]
        wanted = Change(f"to {slug}", catalogue.items(version), "USD", "month", "now")
        assert changes.make(order.pk, wanted, now).kind == "done"

    return change


def pay_with(name: str) -> Callable[[SandboxOrder, datetime, Shop], object]:
    card = cards.of_name(name)
    assert card is not None
    return lambda order, now, _: changes.choose_card(order.pk, card, now)


def cancel(order: SandboxOrder, now: datetime, _: Shop) -> None:
    orders.cancel(order.pk, True, now)


def resume(order: SandboxOrder, now: datetime, _: Shop) -> None:
    orders.resume(order.pk, now)


def turn(_: SandboxOrder, now: datetime, __: Shop) -> None:
    orders.advance(now)


LIFE = (
    Step("upgraded", 2 * DAY, to_plan("pro")),
    Step("renewed", MONTH, turn),
    Step("end planned", DAY, cancel),
    Step("end withdrawn", HOUR, resume),
    Step("card declined", DAY, pay_with("decline")),
    Step("renewal failed", MONTH - 3 * DAY, turn),
    Step("recovered", DAY, pay_with("success")),
    Step("partly paid back", DAY, refund),
    Step("paused", DAY, lambda order, now, _: changes.pause(order.pk, now)),
    Step("unpaused", DAY, lambda order, now, _: changes.unpause(order.pk, now)),
    Step("end planned again", DAY, cancel),
    Step("ended", MONTH, turn),
)


class Lived:
    """A purchase and all that followed, told and read in some way."""

    def __init__(self, shop: Shop):
        self.shop = shop
        self.account = make_account()
        self.now = self.began_at = timezone.now().replace(microsecond=0)
        row = shop.start(self.account, "basic", now=self.now)
        self.order_id = row.provider_session_id

    def steps(self) -> Iterator[list[Message]]:
        """Goes through the life; after each step, all messages there were so far."""
        messages: list[Message] = []
        orders.pay(self.order_id, cards.CARDS[0], self.now)
        yield self._told(messages)
        for step in LIFE:
            self.now += step.after
            step.do(SandboxOrder.objects.get(pk=self.order_id), self.now, self.shop)
            yield self._told(messages)

    def _told(self, messages: list[Message]) -> list[Message]:
        rows = SandboxDelivery.objects.select_related("order").order_by("created_at", "pk")
        messages += [
            (delivery.pk, deliveries.body_of(delivery, self.now))
            for delivery in rows.filter(next_attempt_at__isnull=False)
        ]
        SandboxDelivery.objects.update(next_attempt_at=None)
        return messages

    def rows(self) -> dict[str, object]:
        """What the life has left in the database, and at the data plane."""
        ledger_world.close(self.now + 2 * MONTH)
        account = self.account
        subscription = account.subscriptions.get()
        entitlement = Entitlement.objects.get(account=account)
        held = records.connection().hgetall(records.account_name(0, account.pk))
        began = self.began_at
        return {
            "state": subscription.state,
            "plan": subscription.version.plan.slug,
            "planned": (subscription.cancel_at_period_end, subscription.next_version),
            "period": (subscription.period_start - began, subscription.period_end - began),
            "keys": list(account.keys.values_list("origin", "state")),
            "entitlement": (entitlement.state, entitlement.plan_name, held[b"state"]),
            "checkouts": list(account.checkouts.values_list("state", flat=True)),
            "payments": sorted(
                account.payments.values_list(
                    "kind", "state", "amount_minor", "refunded_minor", "dispute"
                )
            ),
            "invoiced": sum(row.total_minor for row in ledger_world.closed(account)),
        }


def post(shop: Shop, message: Message) -> None:
    message_id, body = message
    headers = deliveries.signed_headers(message_id, body, timezone.now())
    assert shop.webhook(body, headers).status_code == 200


def process_all(account_now: datetime, at_work: Workers) -> None:
    """Lets workers come by until nothing waits, each so much later that all is due again."""
    now = account_now
    while waiting_events():
        at_work.start(now)
        assert at_work.wait()
        now += DAY


@pytest.fixture
def at_work(shop: Shop) -> Iterator[Workers]:
    with workers() as running:
        yield running


def clean_run(shop: Shop, at_work: Workers) -> tuple[dict[str, object], Counter[str]]:
    life = Lived(shop)
    sent = 0
    for messages in life.steps():
        for message in messages[sent:]:
            post(shop, message)
        sent = len(messages)
        process_all(life.now, at_work)
    return life.rows(), told(life.account)


def told(account: Account) -> Counter[str]:
    return Counter(account.billing_events.values_list("kind", flat=True))


def disorderly_run(
    shop: Shop, at_work: Workers, chance: random.Random
) -> tuple[dict[str, object], Counter[str], int]:
    """Some steps are told of at once, others much later; all are told again and again.

    The purchase itself is always told of: for that beat asks by itself, within seconds.
    """
    life = Lived(shop)
    killed = 0
    messages: list[Message] = []
    for messages in life.steps():
        if life.now == life.began_at or chance.random() < 0.5:
            some = chance.sample(messages, chance.randint(1, len(messages)))
            killed += storm(life, some, at_work, chance)
    killed += storm(life, list(messages), at_work, chance)
    process_all(life.now + DAY, at_work)
    return life.rows(), told(life.account), killed


def storm(life: Lived, messages: list[Message], at_work: Workers, chance: random.Random) -> int:
    """Sends each up to ten times, eight at once, while workers come and are killed."""
    repeated = [message for message in messages for _ in range(chance.randint(1, 10))]
    chance.shuffle(repeated)
    killed = 0
    with ThreadPoolExecutor(THREADS) as pool:
        sending = [pool.submit(post, life.shop, message) for message in repeated]
        pid = at_work.start(life.now)
        time.sleep(chance.uniform(0.005, 0.15))
        at_work.kill(pid)
        killed += not at_work.wait()
        for each in sending:
            each.result()
    at_work.start(life.now + timedelta(minutes=1))
    assert at_work.wait()
    return killed


@pytest.mark.parametrize("seed", range(3))
def test_however_the_deliveries_come_the_rows_are_those_of_the_clean_run(shop, at_work, seed):
    rows, kinds = clean_run(shop, at_work)
    ProviderEvent.objects.all().delete()

    disorderly, told_of, killed = disorderly_run(shop, at_work, random.Random(seed))  # noqa: S311 - repeatable

    assert disorderly == rows
    assert rows["keys"] == [("first", "unclaimed")]
    assert rows["checkouts"] == ["completed"]
    assert not ProviderEvent.objects.filter(dead_at__isnull=False).exists()
    # A renewal that failed and was paid before we asked is a renewal like any other.
    kinds["renewed"] += kinds["payment_failed"]
    assert not told_of - kinds, "something was told twice"
    assert killed, "no worker was killed at work"
