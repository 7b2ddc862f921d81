"""The people and things that tests start from, made through the product's own functions."""

from __future__ import annotations

from datetime import datetime
from itertools import count

from django.utils import timezone

from billing import catalogue, periods, pricing
from billing.models import AddOn, PlanVersion, Subscription
from gateway.models import Api, Meter, Operation
from gateway.usage import PricedUnits
from portal.demo import prices
from portal.models import Account, Membership, User

_serial = count(1)


def make_user(email: str | None = None, *, password: str = "a long enough one") -> User:
    return User.objects.create_user(email or f"user{next(_serial)}@example.com", password)


def make_account(user: User | None = None, *, name: str = "Northwind Labs") -> Account:
    """An account with an owner and no plan."""
    owner = user or make_user()
    account = Account.objects.create(name=name, billing_email=owner.email)
    Membership.objects.create(user=owner, account=account, role=Membership.Role.OWNER)
    return account


def make_member(account: Account, role: str) -> User:
    """A new user with this role in the account."""
    user = make_user()
    Membership.objects.create(user=user, account=account, role=role)
    return user


def make_plans() -> dict[str, PlanVersion]:
    """The demo's price list: the published version of each plan by slug."""
    prices.seed(timezone.now())
    versions = PlanVersion.objects.filter(published_at__isnull=False).select_related("plan")
    return {version.plan.slug: version for version in versions}


def make_api(slug: str = "holidays", *, upstream_url: str = "http://127.0.0.1:9") -> Api:
    """An API with two operations whose backend may live on loopback."""
    Meter.objects.get_or_create(name="calls", defaults={"label": "calls"})
    api = Api.objects.create(
        slug=slug, name=slug.title(), upstream_url=upstream_url, allow_private_upstream=True
    )
    Operation.objects.create(api=api, method="GET", path_template="/v1/next/{country}")
    Operation.objects.create(api=api, method="GET", path_template="/v1/countries")
    return api


def calls(
    units: int, *, terms: str = "", api: str = "holidays", operation: str = "", **dimensions: str
) -> PricedUnits:
    """Units of the meter `calls`, as billing is told of them."""
    return PricedUnits(terms, api, operation, "calls", dimensions, units)


def make_add_on(slug: str, **fields: object) -> AddOn:
    """A published add-on at $10 a month, of any paid plan."""
    given = {"name": slug.replace("-", " ").capitalize(), "price_minor": 10_00}
    return AddOn.objects.create(slug=slug, published_at=timezone.now(), **(given | fields))


def subscribed(account: Account, version: PlanVersion, now: datetime) -> Subscription:
    """A paid subscription as rows alone, begun at some moment: no provider knows of it."""
    start = now.replace(microsecond=0)
    months = pricing.months_of(version)
    return Subscription.objects.create(
        account=account,
        version=version,
        provider="sandbox",
        state=Subscription.State.ACTIVE,
        started_at=now,
        period_start=start,
        period_end=periods.add_months(start, months, start.day),
        anchor_day=start.day,
    )


def make_version(of: PlanVersion, *, base_price_minor: int, interval: str = "month") -> PlanVersion:
    """A further published version of the same plan, with the same meters."""
    version = PlanVersion.objects.create(
        plan=of.plan,
        number=of.plan.versions.count() + 1,
        currency=of.currency,
        interval=interval,
        base_price_minor=base_price_minor,
        rate_per_second=of.rate_per_second,
        burst=of.burst,
        key_limit=of.key_limit,
    )
    for meter in of.meters.all():
        meter.pk, meter.version = None, version
        meter.save()
    catalogue.publish(version, timezone.now())
    return version
