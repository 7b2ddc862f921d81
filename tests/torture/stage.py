"""What is on sale in the torture, who buys it, and which calls they make.

Owns the accounts and the mix of calls, and what each call is expected to cost. Whether that is
what was billed is for `tests.torture.books` to say.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from django.utils import timezone

from billing.models import PlanVersion, Subscription
from gateway import refill
from gateway.models import Meter
from keys import records, service_tokens
from keys.entitlements import Grant, MeterTerms, Terms
from tests import traffic
from tests.factories import make_account
from tests.torture import reporter
from tests.torture.provider import customer_of

MOST_TOKENS = 1000
OPERATIONS: dict[str, dict[str, Any]] = {
    "GET /echo": {},
    "POST /echo": {},
    "GET /pause": {},
    "GET /heavy": {"weights": {"calls": 5}},
    "GET /units": {"max_units": {"tokens": MOST_TOKENS}},
    "GET /status/{code}": {},
    "GET /down": {},
    "GET /truncated": {},
}
ONE = {"calls": 1}


@dataclass(frozen=True)
class Call:
    """A kind of call.

    share:  how often it is made, relative to the others
    status: what the backend answers
    units:  what it costs, if it is charged
    leaves_after: seconds after which the client hangs up; None: it waits for the answer
    """

    share: int
    method: str
    target: str
    status: int = 200
    units: dict[str, int] = field(default_factory=lambda: ONE)
    body: bytes = b""
    leaves_after: float | None = None


CALLS = (
    Call(30, "GET", "/gateway/demo/echo"),
    Call(8, "POST", "/gateway/demo/echo", body=b"x" * 3000),
    Call(5, "HEAD", "/gateway/demo/echo"),
    Call(15, "GET", "/gateway/demo/pause?seconds=0.03"),
    Call(5, "GET", "/gateway/demo/heavy", units={"calls": 5}),
    Call(8, "GET", "/gateway/demo/units?units=tokens=40", units=ONE | {"tokens": 40}),
    # Reported over the operation's maximum: the maximum is billed.
    Call(2, "GET", "/gateway/demo/units?units=tokens=2500", units=ONE | {"tokens": MOST_TOKENS}),
    Call(8, "GET", "/gateway/demo/down?n=40000&chunked=1"),
    Call(5, "GET", "/gateway/live/events?n=4&pause=0.02"),
    Call(3, "GET", "/gateway/demo/status/404", 404),
    Call(4, "GET", "/gateway/demo/status/500", 500),
    Call(1, "GET", "/gateway/demo/status/429", 429),
    Call(2, "GET", "/gateway/demo/truncated?chunked=1"),
    Call(2, "GET", "/gateway/demo/pause?seconds=1", leaves_after=0.03),
)
PLAIN = CALLS[0]


@dataclass(frozen=True)
class Caller:
    """A key in somebody's program.

    share:   how many of the calls are made with it, relative to the others
    refusal: the code of what it is told when it has had its fill; "" is never
    limit:   of calls in the period; None: none
    is_own:  whether that limit is the key's own, and not its account's
    """

    name: str
    share: int
    account: str
    key: str
    secret: str
    refusal: str = ""
    limit: int | None = None
    is_own: bool = False


def seed(backend_url: str, calls: int) -> list[Caller]:
    """Puts two APIs on sale and makes customers, some of whom have had their fill before the end.

    calls: how many there will be at least; a hundredth is what the small ones may make
    """
    Meter.objects.get_or_create(
        name="tokens", defaults={"label": "tokens", "dimensions": ["model"]}
    )
    Meter.objects.get_or_create(name=reporter.METER, defaults={"label": reporter.METER})
    traffic.put_on_sale(backend_url, OPERATIONS)
    # Without a total timeout: its calls are kept open by renewal (gateway.renewal).
    endless = {"GET /events": {}}
    traffic.put_on_sale(backend_url, endless, slug="live", total_timeout_seconds=0)
    few = max(calls // 100, 10)
    big = _make_customer(traffic.terms(test_quota=10**9))
    more = _make_customer(traffic.terms())
    small = _make_customer(traffic.terms(limit=few))
    paid = traffic.terms()
    paid.meters["calls"] = MeterTerms(few, "credits", None, credits_per_unit=3)
    grants = (Grant(9001, few * 2, None), Grant(9002, few * 2 + 1, None))
    prepaid = _make_customer(replace(paid, grants=grants))
    second, second_secret = traffic.make_key(big.account)
    own, own_secret = traffic.make_key(big.account, monthly_quota=few)
    test, test_secret = traffic.make_key(big.account, "test")
    records.connection().delete(records.ready_name(0))
    refill.refill(0, timezone.now())
    of_big, spent = str(big.account.pk), "quota_exceeded"
    return [
        Caller("big", 50, of_big, str(big.key.pk), big.secret),
        Caller("big, another key", 15, of_big, str(second.pk), second_secret),
        Caller("big, a key with a quota", 5, of_big, str(own.pk), own_secret, spent, few, True),
        Caller("big, a test key", 6, of_big, str(test.pk), test_secret),
        Caller("more", 14, str(more.account.pk), str(more.key.pk), more.secret),
        Caller("small", 6, str(small.account.pk), str(small.key.pk), small.secret, spent, few),
        Caller(
            "prepaid", 4, str(prepaid.account.pk), str(prepaid.key.pk), prepaid.secret,
            "credits_exhausted",
        ),
    ]  # fmt: skip


def _make_customer(granted: Terms) -> traffic.Customer:
    """One that pays at Stripe (`tests.torture.provider`)."""
    account = make_account()
    version = PlanVersion.objects.filter(published_at__isnull=False)[0]
    start, end = traffic.NOW - timedelta(days=1), traffic.NOW + timedelta(days=29)
    Subscription.objects.create(
        account=account,
        version=version,
        provider="stripe",
        provider_subscription_id=f"sub_{account.pk}",
        provider_customer_id=customer_of(str(account.pk)),
        state=Subscription.State.ACTIVE,
        started_at=start,
        period_start=start,
        period_end=end,
        anchor_day=start.day,
    )
    traffic.entitle(account, granted, terms_id=f"version:{version.pk}", periods=[start, end])
    return traffic.Customer(account, *traffic.make_key(account))


def reporting_token() -> str:
    """The seller's service token, with which its backend reports usage."""
    _, text = service_tokens.create(
        None,
        name="jobs",
        scopes=("events:write",),
        expires_at=None,
        actor=None,
        address=None,
        now=timezone.now(),
    )
    return text


def draw(callers: list[Caller], dice: random.Random) -> tuple[Caller, Call]:
    """Who calls next, and what."""
    (caller,) = dice.choices(callers, [each.share for each in callers])
    (call,) = dice.choices(CALLS, [each.share for each in CALLS])
    return caller, call
