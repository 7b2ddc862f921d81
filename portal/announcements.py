"""What people must be told: rows that say what happened, turned into mails, each sent once.

The cause of a mail writes its row with `announced_at` empty, in its own transaction; here the
row becomes a mail and is stamped when the mail server has taken it. One process at a time
does this, under a lock of the database session, so no mail goes out twice side by side; a
process killed between sending and stamping sends that one mail again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog
from django.conf import settings
from django.core.cache import cache
from django.db.models import Model, Q
from django.urls import reverse

from billing import catalogue, money, price_changes, terms
from billing.models import (
    BillingEvent,
    Drift,
    EnterpriseRequest,
    Payment,
    PriceMove,
    Reconciliation,
)
from gateway.alone import alone
from keys import issuance, leaks
from keys.models import ApiKey, KeyEvent, ServiceTokenEvent
from portal import mails, verification
from portal.models import Account, AddressCode
from portal.roles import GRANTED, Capability

log = structlog.get_logger(__name__)

BATCH = 100
LINES_IN_A_MAIL = 50
RETRY_AFTER = timedelta(minutes=1)
GIVE_UP_AFTER = timedelta(days=3)
LOCK = "portal.announcements"


@dataclass(frozen=True)
class Announcement:
    """A row that waits, and how it becomes a mail; `compose` answers None where none is due."""

    row: Model
    stamp: str
    since: datetime
    compose: Callable[[], mails.Mail | None]

    @property
    def name(self) -> str:
        return f"{self.row._meta.label_lower}:{self.row.pk}"


def send_waiting(now: datetime) -> int:
    """Sends what waits, oldest first; how many rows were done with.

    A mail that can't be made or handed over is tried again after a minute, for three days,
    and holds up no other.
    """
    done = 0
    with alone(LOCK) as is_alone:
        if is_alone:
            for announcement in _waiting(now):
                done += _deliver(announcement, now)
    return done


def _deliver(announcement: Announcement, now: datetime) -> bool:
    resting = f"announcement rests:{announcement.name}"
    if cache.get(resting):
        return False
    try:
        mail = announcement.compose()
        if mail is not None and mail.to:
            mails.send(mail)
            log.info("mail.sent", announcement=announcement.name)
    except Exception:  # the edge of one mail: whatever is wrong with it, the others go out
        log.exception("mail.failed", announcement=announcement.name)
        if now < announcement.since + GIVE_UP_AFTER:
            cache.set(resting, True, timeout=RETRY_AFTER.total_seconds())
            return False
        log.error("mail.given_up", announcement=announcement.name)
    rows = type(announcement.row)._default_manager.filter(pk=announcement.row.pk)
    rows.update(**{announcement.stamp: now})
    return True


def _waiting(now: datetime) -> Iterator[Announcement]:
    codes = AddressCode.objects.filter(sent_at=None).order_by("requested_at")
    for code in codes[:BATCH]:
        yield Announcement(code, "sent_at", code.requested_at, partial(_address_code, code, now))
    key_events = KeyEvent.objects.filter(announced_at=None).order_by("at")
    for event in key_events.select_related("key__account", "actor", "service_token")[:BATCH]:
        yield Announcement(event, "announced_at", event.at, partial(_key_event, event, now))
    tokens_leaked = ServiceTokenEvent.objects.filter(
        kind=ServiceTokenEvent.Kind.LEAKED, announced_at=None
    ).order_by("at")
    for leak in tokens_leaked.select_related("token__account")[:BATCH]:
        yield Announcement(leak, "announced_at", leak.at, partial(_token_leak, leak))
    turns = BillingEvent.objects.filter(announced_at=None).order_by("at", "id")
    for turn in turns.select_related("account", "subscription__version")[:BATCH]:
        yield Announcement(turn, "announced_at", turn.at, partial(_billing_event, turn))
    wishes = EnterpriseRequest.objects.filter(announced_at=None).order_by("created_at")
    for wish in wishes.select_related("account")[:BATCH]:
        yield Announcement(
            wish, "announced_at", wish.created_at, partial(_enterprise_request, wish)
        )
    disputes = Payment.objects.filter(dispute_announced_at=None).exclude(dispute="")
    for payment in disputes.select_related("account").order_by("at")[:BATCH]:
        yield Announcement(
            payment,
            "dispute_announced_at",
            now,
            partial(_dispute, payment),  # never given up
        )
    for move in price_changes.unannounced()[:BATCH]:
        # Never given up: nobody's price changes untold.
        yield Announcement(move, "announced_at", now, partial(_price_move, move))
    for found in Reconciliation.objects.filter(announced_at=None).order_by("at")[:BATCH]:
        yield Announcement(found, "announced_at", found.at, partial(_reconciliation, found))
    settled = Q(repaired_at__isnull=False) | ~Q(error="")
    for drift in (
        Drift.objects.filter(settled, announced_at=None)
        .select_related("subscription__account")
        .order_by("seen_at")[:BATCH]
    ):
        yield Announcement(drift, "announced_at", drift.looked_at, partial(_drift, drift))


def _address_code(request: AddressCode, now: datetime) -> mails.Mail:
    code = verification.draw(request, now=now)
    minutes = int(verification.LIFETIME.total_seconds() // 60)
    return mails.compose("account/code", [request.email], {"code": code, "minutes": minutes})


def _key_event(event: KeyEvent, now: datetime) -> mails.Mail | None:
    if event.key.origin == ApiKey.Origin.CONSOLE:
        return None
    context: dict[str, Any] = {"event": event, "key": event.key, "account": event.key.account}
    if event.kind == KeyEvent.Kind.ISSUED:
        if event.key.state != ApiKey.State.UNCLAIMED:
            return None
        context["claim_url"] = _claim_url(event.key, now)
        return mails.compose("key/issued", [event.key.account.billing_email], context)
    if event.kind == KeyEvent.Kind.LEAKED:
        successor = leaks.successor_of(event.key)
        if successor is not None and successor.state == ApiKey.State.UNCLAIMED:
            context["claim_url"] = _claim_url(successor, now)
    return mails.compose(f"key/{event.kind}", _key_holders(event.key.account), context)


def _token_leak(event: ServiceTokenEvent) -> mails.Mail:
    """To the account's members, or to the staff for a token of the seller's."""
    account = event.token.account
    to = [settings.STAFF_EMAIL] if account is None else _key_holders(account)
    context = {"event": event, "token": event.token, "account": account}
    return mails.compose("key/token_leaked", [address for address in to if address], context)


def _claim_url(key: ApiKey, now: datetime) -> str:
    token = issuance.claim_link(key, now)
    return str(settings.SITE_URL) + reverse("claim_link", args=[token])


def _billing_event(event: BillingEvent) -> mails.Mail:
    context = {
        "event": event,
        "account": event.account,
        "subscription": event.subscription,
        "plan": event.data.get("plan") or "Your plan",
        "version": event.subscription.version if event.subscription else None,
        "stops_at": _moment(event.data.get("stops_at")),
        "grace_end": event.at + terms.PAYMENT_GRACE,
    }
    return mails.compose(f"billing/{event.kind}", [event.account.billing_email], context)


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _enterprise_request(wish: EnterpriseRequest) -> mails.Mail | None:
    if not settings.STAFF_EMAIL:
        return None
    return mails.compose("staff/enterprise_request", [settings.STAFF_EMAIL], {"wish": wish})


def _drift(found: Drift) -> mails.Mail | None:
    if not settings.STAFF_EMAIL:
        return None
    subscription = found.subscription
    context = {
        "found": found,
        "account": subscription.account.name,
        "provider": subscription.provider.title(),
    }
    return mails.compose("staff/drift", [settings.STAFF_EMAIL], context)


def _dispute(payment: Payment) -> mails.Mail | None:
    if not settings.STAFF_EMAIL:
        return None
    return mails.compose("staff/dispute", [settings.STAFF_EMAIL], {"payment": payment})


def _price_move(move: PriceMove) -> mails.Mail:
    name = "price_change" if move.state == PriceMove.State.PLANNED else "price_kept"
    old, new = move.from_version, move.change.to_version
    account = move.subscription.account
    context = {
        "account": account,
        "move": move,
        "plan": new.plan.name,
        "old_price": money.text(old.base_price_minor, old.currency, short=True),
        "new_price": money.text(new.base_price_minor, new.currency, short=True),
        "interval": new.interval,
        "promises": catalogue.promises(new),
    }
    return mails.compose(f"billing/{name}", [account.billing_email], context)


def _reconciliation(found: Reconciliation) -> mails.Mail | None:
    if not found.differing or not settings.STAFF_EMAIL:
        return None
    differing = found.lines.filter(differs=True).select_related("subscription__account")
    lines = [
        {
            "account": line.subscription.account.name,
            "meter": line.meter,
            "period_start": line.period_start,
            "ledger_units": f"{line.ledger_units:,}",
            "provider_units": f"{line.provider_units or 0:,}",
            "difference": line.difference,
            "difference_text": f"{line.difference or 0:+,}",
            "cost": money.text(line.difference_minor, line.currency),
            "note": line.note,
        }
        for line in differing[:LINES_IN_A_MAIL]
    ]
    context = {"found": found, "provider": found.provider.title(), "lines": lines}
    return mails.compose("staff/reconciliation", [settings.STAFF_EMAIL], context)


def _key_holders(account: Account) -> list[str]:
    """Who may do to keys what was done: the ones to notice what they did not do."""
    members = account.memberships.filter(role__in=GRANTED[Capability.KEYS], user__is_active=True)
    return list(members.order_by("id").values_list("user__email", flat=True))
