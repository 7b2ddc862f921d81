"""A year of fourteen customers on different plans, played on the moved clock through the real
gateway and the real work of time; then all of it reckoned again from the ledger's raw rows.

The reckoning below shares nothing with the product but the rows: its months, its tiers and its
rounding are its own.
"""

from __future__ import annotations

import calendar
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal

import pytest
from allauth.account.models import EmailAddress
from django.utils import timezone

from billing import (
    allowances,
    auto_top_ups,
    catalogue,
    contracts,
    free_plan,
    plan_changes,
    rehearsal,
    subscriptions,
    wishes,
)
from billing.models import (
    Contract,
    CreditPack,
    Invoice,
    PastIncluded,
    Plan,
    PlanMeter,
    PlanVersion,
)
from billing.sandbox import controls
from billing.sandbox.models import SandboxOrder, SandboxPayment
from gateway import counters
from gateway.models import Meter, UsageEvent
from keys import clock
from keys.models import Entitlement
from portal.models import Account
from tests import traffic
from tests.factories import make_account
from tests.shop import Shop

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
MONTHS = 12
# What one call of each of the API's operations weighs.
WEIGHTS = {"one": 1, "hundred": 100, "thousand": 1000}
BULK = "GET /echo/hundred"


# ------------------------------------------------------------------ prices, and a reckoning of them


@dataclass(frozen=True)
class Price:
    """A plan as the seller would put it. Tiers: up to how many past the included, price, per."""

    base_minor: int = 0
    included: int = 0
    past: str = PastIncluded.BILL
    mode: str = "graduated"
    tiers: tuple[tuple[int | None, str, int], ...] = ()
    bulk: tuple[tuple[int | None, str, int], ...] = ()  # of the operation BULK
    credits_per_unit: int = 0
    interval: str = "month"
    trial_days: int = 0


def per_1000(price: str) -> tuple[tuple[int | None, str, int], ...]:
    return ((None, price, 1000),)


PRICES = {
    "stop": Price(5000, 2000, tiers=per_1000("6.00")),
    "overage": Price(5000, 2000, tiers=per_1000("6.00")),
    "volume": Price(20000, 1000, mode="volume", tiers=((1500, "5.00", 1000), (None, "3.33", 1000))),
    "yearly": Price(50000, 1000, tiers=per_1000("4.50"), interval="year"),
    "payg": Price(0, 0, mode="package", tiers=((None, "1.10", 500),)),
    "prepaid": Price(1000, 100, past=PastIncluded.CREDITS, credits_per_unit=2),
    "hybrid": Price(
        2000, 500, tiers=((1000, "0.0061", 1), (None, "2.00", 1000)), bulk=per_1000("1.05")
    ),
    "trial": Price(4000, 1000, tiers=per_1000("5.00"), trial_days=14),
    "small": Price(3000, 1000, tiers=per_1000("8.00")),
    "large": Price(9000, 3000, tiers=per_1000("5.00")),
}
FREE = Price(0, 500, past=PastIncluded.REFUSE)
AGREED = Price(30000, 1000, tiers=per_1000("0.70"))


def rounded(amount: Decimal) -> int:
    """Of a major unit's hundredths."""
    return int((amount * 100).quantize(Decimal(1), ROUND_HALF_UP))


def graduated(units: int, tiers: tuple[tuple[int | None, str, int], ...]) -> Decimal:
    total, floor = Decimal(0), 0
    for up_to, price, per in tiers:
        inside = max(min(units, units if up_to is None else up_to) - floor, 0)
        total += Decimal(price) * inside / per
        floor = up_to or units
    return total


def cost(price: Price, plain: int, bulk: int, included: int) -> int:
    """Minor units of one period, line by line: bulk calls first where they have a price."""
    if price.past != PastIncluded.BILL:
        return 0
    if not price.bulk:
        plain, bulk = plain + bulk, 0
    past_bulk = max(bulk - included, 0)
    past = max(plain - max(included - bulk, 0), 0)
    total = rounded(graduated(past_bulk, price.bulk)) if past_bulk else 0
    if price.mode == "volume":
        for up_to, each, per in price.tiers:
            if up_to is None or past <= up_to:
                return total + rounded(Decimal(each) * past / per)
    if price.mode == "package":
        _, each, per = price.tiers[0]
        return total + rounded(Decimal(each) * -(-past // per))
    return total + rounded(graduated(past, price.tiers))


def months_after(start: datetime, count: int) -> datetime:
    """Anchored on the day it began."""
    year, month = divmod(start.year * 12 + start.month - 1 + count, 12)
    last = calendar.monthrange(year, month + 1)[1]
    return start.replace(year=year, month=month + 1, day=min(start.day, last))


# ------------------------------------------------------------------ customers


@dataclass
class Customer:
    """One of them.

    usage:   what it calls in a month, counted from 0
    refused: how many of these calls it expects to be refused, and with which status
    """

    name: str
    usage: Callable[[int], list[str]]
    account: Account = field(init=False)
    secret: str = field(init=False)
    began_at: datetime = field(init=False)
    statuses: Counter[tuple[int, int]] = field(default_factory=Counter)

    def boundary(self, month: int) -> datetime:
        """A trial is a period of its own; months are counted from its end."""
        if self.name == "trial" and month:
            return months_after(self.began_at + TRIAL, month - 1)
        return months_after(self.began_at, month)


def steady(*calls: str) -> Callable[[int], list[str]]:
    return lambda _: list(calls)


CUSTOMERS = {
    "free": steady(*["hundred"] * 6),
    "stop": steady("thousand", "thousand", "one"),
    "overage": lambda month: ["thousand"] * (1 + month % 3) + ["hundred", "one"],
    "volume": lambda month: ["thousand"] * (month % 4) + ["hundred"] * 7,
    "yearly": lambda month: ["thousand"] * (month % 3) + ["hundred"],
    "payg": lambda month: ["hundred"] * (month % 7) + ["one"],
    "prepaid": steady("hundred", "hundred", "hundred"),
    "hybrid": lambda month: ["hundred"] * 7 + ["thousand"] * (month % 3),
    "topping up": lambda month: ["hundred"] * (2 + month % 4),
    "trial": lambda month: ["thousand"] + ["hundred"] * (month % 3),
    "contract": lambda month: ["thousand"] * (1 + month % 2) + ["hundred"],
    "mover": lambda month: ["thousand", "thousand"] + ["hundred"] * (month % 3),
    "declined": lambda month: ["thousand", "hundred"] * (1 + month % 2),
    "quitter": steady("thousand", "thousand", "hundred"),
}
PLAN_OF = {
    "mover": "small",
    "declined": "overage",
    "quitter": "overage",
    "topping up": "prepaid",
}
TRIAL = 14 * DAY
UPGRADES, DOWNGRADES, DECLINES, QUITS = 2, 6, 4, 5
CREDITS = 2600  # 400 a month, past 100 included: for six and a half
# Bought whenever fewer than 700 are left: as much as the calls of a month draw at most.
PACK, PACK_MINOR, BELOW = 1000, 1234, 700


def put_on_sale(shop: Shop, now: datetime) -> None:
    calls = Meter.objects.get(name="calls")
    for slug, price in PRICES.items():
        plan = Plan.objects.create(slug=f"year-{slug}", name=slug.title())
        version = PlanVersion.objects.create(
            plan=plan,
            number=1,
            base_price_minor=price.base_minor,
            interval=price.interval,
            trial_days=price.trial_days,
            rate_per_second=1000,
            burst=1000,
        )
        special = [{"operation": BULK, "tiers": as_json(price.bulk)}] if price.bulk else []
        PlanMeter.objects.create(
            version=version,
            meter=calls,
            included_units=price.included,
            past_included=price.past,
            credits_per_unit=price.credits_per_unit,
            tier_mode=price.mode,
            tiers=as_json(price.tiers),
            special_prices=special,
        )
        catalogue.publish(version, now)
        shop.plans[slug] = version


def as_json(tiers: tuple[tuple[int | None, str, int], ...]) -> list[dict[str, object]]:
    return [{"up_to": up_to, "price": price, "per": per} for up_to, price, per in tiers]


def begin(shop: Shop, customer: Customer) -> None:
    customer.account = make_account(name=customer.name)
    now = clock.now()
    owner = customer.account.members.get()
    if customer.name == "free":
        EmailAddress.objects.create(user=owner, email=owner.email, verified=True, primary=True)
        free_plan.start(customer.account, owner, now)
    elif customer.name == "contract":
        Contract.objects.create(
            account=customer.account,
            base_price_minor=AGREED.base_minor,
            rate_per_second=1000,
            burst=1000,
            included_calls=AGREED.included,
            past_included=AGREED.past,
            tiers=as_json(AGREED.tiers),
            starts_at=now,
        )
        contracts.apply(customer.account, now)
    else:
        shop.buy(customer.account, PLAN_OF.get(customer.name, customer.name), at=now)
    if customer.name == "stop":
        subscriptions.set_overage(customer.account, "stop", now)
    if customer.name == "prepaid":
        allowances.grant(customer.account, CREDITS, reason="the year", by=None, now=now)
    if customer.name == "topping up":
        allowances.grant(customer.account, PACK, reason="to begin with", by=None, now=now)
        pack = CreditPack.objects.create(name="Pack", credits=PACK, price_minor=PACK_MINOR)
        auto_top_ups.switch_on(
            customer.account,
            pack,
            PACK,
            seen_minor=PACK_MINOR,
            below=BELOW,
            most_per_month=5,
            by=owner,
            now=now,
        )
    customer.began_at = now.replace(microsecond=0)
    _, customer.secret = traffic.make_key(customer.account)


# ------------------------------------------------------------------ the year


class Year:
    def __init__(self, shop: Shop, port: int):
        self.shop = shop
        self.port = port
        self.customers = {name: Customer(name, usage) for name, usage in CUSTOMERS.items()}

    def play(self) -> None:
        for customer in self.customers.values():
            begin(self.shop, customer)
        start = max(customer.began_at for customer in self.customers.values())
        for month in range(MONTHS):
            for customer in self.customers.values():
                self.call(customer, month, customer.usage(month))
            self.travel_to(months_after(start, month) + 10 * DAY)
            self.happen(month)
            self.travel_to(months_after(start, month + 1) + 3 * HOUR)
            self.check_entitlements(month + 1)
        self.travel_to(months_after(start, MONTHS) + 3 * DAY)

    def call(self, customer: Customer, month: int, operations: list[str]) -> None:
        bearer = {"Authorization": f"Bearer {customer.secret}"}
        for operation in operations:
            answer = traffic.ask(self.port, "GET", f"/gateway/demo/echo/{operation}", bearer)
            customer.statuses[month, answer.status] += 1
        traffic.entries()

    def travel_to(self, moment: datetime) -> None:
        rehearsal.set_out(moment - clock.now())
        assert rehearsal.travel(budget_seconds=120)

    def happen(self, month: int) -> None:
        """What customers and their banks do in the middle of a month."""
        now = clock.now()
        mover, declined = self.customers["mover"], self.customers["declined"]
        if month == UPGRADES:
            subscription = subscriptions.alive(mover.account)
            wish = wishes.to_version(subscription, self.shop.plans["large"])
            quoted = plan_changes.quote(subscription, wish, now)
            assert plan_changes.change_now(mover.account, wish, quoted.as_of, now).kind == "done"
            self.call(mover, month, ["thousand"] * 2)
        if month == DOWNGRADES:
            plan_changes.plan(mover.account, self.shop.plans["small"], now)
        if month == DECLINES:
            assert controls.act(self.order_of(declined).pk, "decline", now)
        if month == DECLINES + 1:
            assert subscriptions.alive(declined.account).state == "past_due"
            assert controls.act(self.order_of(declined).pk, "accept", now)
            rehearsal.catch_up()
            assert subscriptions.alive(declined.account).state == "active"
        if month == QUITS:
            subscriptions.cancel(self.customers["quitter"].account, at_period_end=True, now=now)

    def order_of(self, customer: Customer) -> SandboxOrder:
        subscription = customer.account.subscriptions.get()
        return SandboxOrder.objects.get(subscription_id=subscription.provider_subscription_id)

    def check_entitlements(self, month: int) -> None:
        for name, customer in self.customers.items():
            entitlement = Entitlement.objects.get(account=customer.account)
            gone = name == "quitter" and month > QUITS
            assert entitlement.state == ("ended" if gone else "active"), (name, month)
            if not gone:
                now = clock.now().timestamp()
                current = max(one for one in entitlement.periods if one <= now)
                assert current == customer.boundary(month).timestamp(), (name, month)


@pytest.fixture
def year(shop: Shop, settings, redis_clean, backend, fast_door) -> Year:
    settings.CLOCK_CAN_MOVE = True
    settings.CELERY_TASK_ALWAYS_EAGER = True
    clock.forget()
    port = fast_door.__closure__[0].cell_contents.port
    traffic.put_on_sale(
        backend.url,
        {f"GET /echo/{name}": {"weights": {"calls": units}} for name, units in WEIGHTS.items()},
    )
    put_on_sale(shop, timezone.now())
    yield Year(shop, port)
    clock.forget()


def test_a_year_is_what_a_reckoning_from_the_raw_events_says(year):
    year.play()

    used = raw_usage()
    for customer in year.customers.values():
        check_invoices(customer, used[customer.account.pk])
        check_money(customer)
        check_credits(customer)
    check_refusals(year)
    assert not counters.check(0, clock.now()).sighted


# ------------------------------------------------------------------ the reckoning


Units = dict[datetime, dict[str, Counter[bool]]]


def raw_usage() -> dict[object, Units]:
    """Billable units by account, period and terms; bulk ones apart."""
    found: dict[object, Units] = defaultdict(lambda: defaultdict(lambda: defaultdict(Counter)))
    for event in UsageEvent.objects.filter(billable=True):
        units = event.units.get("calls", 0)
        found[event.account_id][event.period_start][event.terms_id][event.operation == BULK] += (
            units
        )
    return found


def check_invoices(customer: Customer, used: Units) -> None:
    closed = list(
        customer.account.invoices.filter(state=Invoice.State.CLOSED).order_by("period_start")
    )
    months = QUITS + 1 if customer.name == "quitter" else MONTHS
    assert [row.period_start for row in closed] == [customer.boundary(n) for n in range(months)]
    for month, invoice in enumerate(closed):
        lines = list(invoice.lines.all())
        usage = sum(line.amount_minor for line in lines if line.meter)
        base = sum(line.amount_minor for line in lines if not line.meter and not line.payment_id)
        expected = expected_usage(customer, month, used.get(invoice.period_start, {}))
        assert usage == expected, (customer.name, month, [line.text for line in lines])
        assert base == expected_base(customer, month), (customer.name, month)
        assert invoice.total_minor == sum(line.amount_minor for line in lines)


def expected_usage(customer: Customer, month: int, used: dict[str, Counter[bool]]) -> int:
    price = price_of(customer, month)
    if customer.name == "mover" and month == UPGRADES:
        # In the order in which they held; the second includes what the first has not used up.
        before, after = (used[terms] for terms in sorted(used))
        first, second = sum(before.values()), sum(after.values())
        left = max(PRICES["large"].included - first, 0)
        return cost(PRICES["small"], first, 0, PRICES["small"].included) + cost(
            PRICES["large"], second, 0, left
        )
    total = sum(used.values(), Counter())
    return cost(price, total[False], total[True], price.included)


def price_of(customer: Customer, month: int) -> Price:
    if customer.name == "free":
        return FREE
    if customer.name == "contract":
        return AGREED
    if customer.name == "mover" and UPGRADES < month <= DOWNGRADES:
        return PRICES["large"]
    return PRICES[PLAN_OF.get(customer.name, customer.name)]


def expected_base(customer: Customer, month: int) -> int:
    """What the period that begins when the month ends costs, paid ahead."""
    if customer.name == "quitter" and month == QUITS:
        return 0
    price = price_of(customer, month + 1)
    if price.interval == "year" and (month + 1) % 12:
        return 0
    return price.base_minor


def check_money(customer: Customer) -> None:
    """What the sandbox took is what the invoices say, and the first price at the checkout."""
    if customer.name in ("free", "contract"):
        return
    order = SandboxOrder.objects.get(customer_email=customer.account.billing_email)
    taken = order.payments.filter(state=SandboxPayment.State.PAID)
    invoiced = sum(row.total_minor for row in customer.account.invoices.filter(state="closed"))
    price = PRICES[PLAN_OF.get(customer.name, customer.name)]
    at_first = 0 if price.trial_days else price.base_minor
    bought = customer.account.credit_grants.filter(source="bought").count() * PACK_MINOR
    total = sum(taken.values_list("amount_minor", flat=True))
    assert total == at_first + invoiced + bought, customer.name
    ours = customer.account.payments.filter(state="paid")
    assert sorted(ours.values_list("provider_payment_id", "amount_minor")) == sorted(
        taken.values_list("pk", "amount_minor")
    ), customer.name


def check_credits(customer: Customer) -> None:
    """What was drawn, call by call in the ledger, is what the calls past the included ones cost."""
    price = PRICES.get(PLAN_OF.get(customer.name, customer.name))
    if price is None or not price.credits_per_unit:
        return
    drawn: Counter[datetime] = Counter()
    units: Counter[datetime] = Counter()
    for event in UsageEvent.objects.filter(account_id=customer.account.pk, billable=True):
        drawn[event.period_start] += sum((event.credits or {}).values())
        units[event.period_start] += event.units["calls"]
    for period, used in units.items():
        assert drawn[period] == max(used - price.included, 0) * price.credits_per_unit
    given = sum(customer.account.credit_grants.values_list("amount", flat=True))
    left = given - sum(drawn.values())
    assert allowances.balances([customer.account.pk], clock.now())[customer.account.pk] == left
    if customer.name == "topping up":
        assert left >= BELOW
        assert customer.account.credit_grants.filter(source="bought").count() > 3
        assert not any(status == 402 for _, status in customer.statuses)


def check_refusals(year: Year) -> None:
    """Who stops stops at the call that would go past, in each month anew."""
    statuses = {name: customer.statuses for name, customer in year.customers.items()}
    for month in range(MONTHS):
        assert (statuses["free"][month, 200], statuses["free"][month, 429]) == (5, 1)
        assert (statuses["stop"][month, 200], statuses["stop"][month, 429]) == (2, 1)
        assert statuses["overage"][month, 429] == 0
        assert statuses["quitter"][month, 200] == (3 if month <= QUITS else 0)
    # 400 credits a month, and 200 are left in the seventh: for one hundred past the included.
    prepaid = [statuses["prepaid"][month, 200] for month in range(MONTHS)]
    assert prepaid == [3] * 6 + [2] + [1] * 5
