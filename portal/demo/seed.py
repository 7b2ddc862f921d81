"""The demo's first state, made through the product's own functions, and kept at every start.

Owns the file `demo.json` in the data folder: what `make run` prints, with the one secret that is
ever written down, the demo account's own key. No usage is invented: the account starts empty.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog
from allauth.account.models import EmailAddress
from django.conf import settings
from django.db import transaction
from django.utils.text import slugify

from billing import catalogue as price_list
from billing import checkout, subscriptions
from billing.sandbox import cards, orders
from gateway import catalogue, openapi, routes
from gateway.models import Api
from keys import issuance, tokens
from keys.models import ApiKey
from portal import samples
from portal.demo import prices
from portal.models import Account, Membership, User

log = structlog.get_logger(__name__)

HOLIDAYS_SLUG = "holidays"
HOLIDAYS_DOCUMENT = Path(__file__).with_name("openapi.json")
STAFF_EMAIL = "staff@example.com"
BUYER_EMAIL = "demo@example.com"
ACCOUNT_NAME = "Northwind Labs"
PLAN = "pro"
KEY_NAME = "Demo"


def everything(data_dir: Path, api: Api, *, staff_password: str, now: datetime) -> dict[str, str]:
    """Seeds whatever is missing and returns what stands in `demo.json` afterwards.

    A second call keeps what the first made, the key included. Where the file has gone, nobody
    knows the key any more: it is revoked and another one made.
    """
    path = data_dir / "demo.json"
    known = read(path)
    prices.seed(now)
    prices.seed_choices(now)
    prices.seed_packs()
    staff(known, staff_password)
    account, buyer, buyer_password = customer(known)
    subscribe(account, buyer, now)
    key = key_of(account, buyer, known, now)
    facts = {
        "site_name": api.name,
        "api": api.slug,
        "demo_key": key,
        "demo_call": samples.curl(key, api).replace(" \\\n  ", " ") if key else "",
        "staff_email": STAFF_EMAIL,
        "staff_password": staff_password,
        "demo_email": BUYER_EMAIL,
        "demo_password": buyer_password,
    }
    if facts != known:
        write(path, facts)
    return facts


def holidays(upstream: str, secret: str) -> Api:
    """The built-in API, which answers only who sends `secret`."""
    document = openapi.read(HOLIDAYS_DOCUMENT.read_bytes())
    return offer(
        document,
        HOLIDAYS_SLUG,
        {
            "upstream_url": catalogue.upstream_url(upstream),
            "upstream_headers_sealed": catalogue.seal_headers({"X-Upstream-Secret": secret}),
        },
    )


def sellers(upstream: str, document: openapi.Document | None, slug: str) -> Api:
    """The seller's own API; without a document every call is forwarded and metered as one.

    Raises `gateway.catalogue.InvalidTerms`.
    """
    address = catalogue.upstream_url(upstream)
    title = document.title if document else urlsplit(address).hostname or "API"
    slug = slugify(slug or (document.title if document else ""))[:40] or "api"
    unlisted = Api.Unlisted.REFUSE if document else Api.Unlisted.FORWARD
    return offer(
        document, slug, {"upstream_url": address, "name": title[:80], "unlisted": unlisted}
    )


@transaction.atomic
def offer(document: openapi.Document | None, slug: str, fields: Mapping[str, Any]) -> Api:
    """Puts an API on sale, or brings it up to date, and takes the demo's other one off.

    Its backend may be on a private address: the operator named it on the command line.
    """
    title = document.title[:80] if document else slug
    description = document.description if document else ""
    api, is_new = Api.objects.get_or_create(
        slug=slug,
        defaults={
            "name": title,
            "description": description,
            "allow_private_upstream": True,
            **fields,
        },
    )
    if not is_new:
        for name, value in fields.items():
            setattr(api, name, value)
        api.enabled = True
        api.save(update_fields=[*fields, "enabled"])
    if slug != HOLIDAYS_SLUG:
        Api.objects.filter(slug=HOLIDAYS_SLUG).update(enabled=False)
    if document is not None and api.document != document.raw:
        catalogue.apply_document(api, document)
    catalogue.make_meters([openapi.CALLS])
    routes.bump()
    return api


def staff(known: Mapping[str, str], password: str) -> None:
    """A superuser; a password that they changed since is left alone."""
    user = User.objects.filter(email=STAFF_EMAIL).first()
    if user is None:
        user = User.objects.create_superuser(STAFF_EMAIL, password)
    elif known.get("staff_password") != password:
        user.set_password(password)
        user.save(update_fields=["password"])
    verify(user)


def customer(known: Mapping[str, str]) -> tuple[Account, User, str]:
    """The demo account, its owner and the owner's password."""
    password = known.get("demo_password") or secrets.token_urlsafe(12)
    with transaction.atomic():
        buyer = User.objects.filter(email=BUYER_EMAIL).first()
        if buyer is None:
            buyer = User.objects.create_user(BUYER_EMAIL, password)
        elif not known.get("demo_password"):
            buyer.set_password(password)
            buyer.save(update_fields=["password"])
        account = buyer.accounts.order_by("created_at").first()
        if account is None:
            account = Account.objects.create(name=ACCOUNT_NAME, billing_email=BUYER_EMAIL)
            Membership.objects.create(user=buyer, account=account, role=Membership.Role.OWNER)
    verify(buyer)
    return account, buyer, password


def verify(user: User) -> None:
    """The demo's people have no mailbox: their addresses count as proved."""
    EmailAddress.objects.update_or_create(
        user=user, email=user.email, defaults={"verified": True, "primary": True}
    )


def subscribe(account: Account, buyer: User, now: datetime) -> None:
    """Buys the plan once, as a buyer does: checkout, the sandbox's page, a card, its state.

    Whoever ends the demo's subscription keeps it ended. At another provider nothing is bought:
    only the sandbox's cards are known to pay.
    """
    if account.subscriptions.exists() or settings.PAYMENT_PROVIDER != "sandbox":
        return
    version = price_list.current(PLAN)
    if version is None:
        log.warning("demo.no_plan", plan=PLAN)
        return
    visit = checkout.start(account, version, user=buyer, now=now)
    card = cards.of_name("success")
    if card is None:
        raise LookupError("The sandbox has no card that pays.")
    orders.pay(visit.provider_session_id, card, now)
    checkout.sync(visit.pk, now)


def key_of(account: Account, buyer: User, known: Mapping[str, str], now: datetime) -> str:
    """The secret of the demo's key: the one in the file while it works, else of a new one.

    Empty where the account may have no key, its subscription having been ended.
    """
    secret = known.get("demo_key", "")
    live = account.keys.filter(mode=ApiKey.Mode.LIVE)
    active = live.filter(state=ApiKey.State.ACTIVE)
    if secret and active.filter(digest__in=tokens.digests(secret)).exists():
        return secret
    if subscriptions.alive(account) is None:
        return ""
    first = live.filter(origin=ApiKey.Origin.FIRST, state=ApiKey.State.UNCLAIMED).first()
    if first is not None:
        return issuance.claim(first.pk, account, actor=buyer, address=None, now=now)
    lost = active.filter(name=KEY_NAME) | active.filter(origin=ApiKey.Origin.FIRST)
    for key in lost:
        issuance.revoke(key.pk, account, actor=buyer, address=None, now=now)
    _, secret = issuance.create(
        account, name=KEY_NAME, mode="live", actor=buyer, address=None, now=now
    )
    return secret


def read(path: Path) -> dict[str, str]:
    try:
        known = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def write(path: Path, facts: Mapping[str, str]) -> None:
    """Replaces the file in one step; only its owner can read it."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(facts, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
