"""Keys and service tokens found in public: recognised in a text, taken out of use, and told.

Whoever reports one holds it: it is treated as leaked whoever that is, once. A key is revoked or
slowed down, as its account chose; a service token, which can make keys, is always revoked. No
text of either leaves this module, is logged or stored. Reads no post; where reports arrive is
portal's.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from django.db import transaction

from keys import restrictions, service_tokens, tokens, trail
from keys.models import ApiKey, KeyEvent, LeakPolicy

SLOW_RATE, SLOW_BURST = Decimal("0.1"), 1
MOST_IN_A_TEXT = 50
_CANDIDATE = re.compile(r"(?:ks_(?:live|test)_[0-9]{2}|kst_)[0-9A-Za-z]{46}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Find:
    """Where keys were found, in a stranger's words: a source's name, an address of the web."""

    source: str
    url: str = ""

    @property
    def printable_source(self) -> str:
        return "".join(filter(str.isprintable, self.source))[:40]

    @property
    def web_url(self) -> str:
        """The address if it can be one, else nothing."""
        return self.url if re.fullmatch(r"https?://[\x21-\x7e]{1,490}", self.url) else ""

    @property
    def sentences(self) -> list[str]:
        """For a trail."""
        where = f" Address: {self.web_url}" if self.web_url else ""
        return [f"Found: {self.printable_source}.{where}"]


def secrets_in(text: str) -> list[str]:
    """What in the text can be a key or a service token, each once, the first so many of them."""
    found: dict[str, None] = {}
    for candidate in _candidates(text):
        found[candidate] = None
        if len(found) == MOST_IN_A_TEXT:
            break
    return list(found)


def treat(text: str, find: Find, now: datetime) -> bool:
    """Treats the key or service token that `text` spells as leaked; False if there is none.

    A key that is slowed down gets a successor, unclaimed, unless a rotation gave it one.
    Reported again, or revoked already, it stays as it is. Published before this returns, or by
    beat where Redis is away.
    """
    if tokens.parse(text) is None:
        return service_tokens.revoke_leaked(text, find.sentences, now)
    with transaction.atomic():
        key = (
            ApiKey.objects.select_for_update(of=("self",))
            .exclude(origin=ApiKey.Origin.CONSOLE)
            .filter(digest__in=tokens.digests(text))
            .first()
        )
        if key is None:
            return False
        if key.leaked_at is None and key.state == ApiKey.State.ACTIVE:
            _treat(key, find, now)
    return True


def policy_of(account_id: UUID) -> LeakPolicy.Act:
    """What the account wants done with a leaked key."""
    policy = LeakPolicy.objects.filter(pk=account_id).first()
    return LeakPolicy.Act.REVOKE if policy is None else LeakPolicy.Act(policy.on_leak)


def choose(account_id: UUID, act: LeakPolicy.Act) -> None:
    """Sets what is done with the account's keys that leak from now on."""
    LeakPolicy.objects.update_or_create(pk=account_id, defaults={"on_leak": act})


def successor_of(key: ApiKey) -> ApiKey | None:
    """The key that was prepared for a leaked one, if there is any."""
    return key.successors.filter(origin=ApiKey.Origin.LEAKED).first()


def _candidates(text: str) -> Iterator[str]:
    for found in _CANDIDATE.finditer(text):
        if tokens.parse(found[0]) or service_tokens.is_well_formed(found[0]):
            yield found[0]


def _treat(key: ApiKey, find: Find, now: datetime) -> None:
    key.leaked_at = now
    key.leak_source, key.leak_url = find.printable_source, find.web_url
    changed = ["leaked_at", "leak_source", "leak_url"]
    is_over = key.expires_at is not None and key.expires_at <= now
    if is_over or policy_of(key.account_id) == LeakPolicy.Act.REVOKE:
        key.state, key.revoked_at = ApiKey.State.REVOKED, now
        changed += ["state", "revoked_at"]
        done = "It was revoked."
    else:
        if not key.successors.exists():
            _prepare_successor(key, now)
        key.rate_per_second, key.burst = SLOW_RATE, SLOW_BURST
        changed += ["rate_per_second", "burst"]
        done = "It was slowed down to 1 call in 10 seconds."
    trail.store(key, now, *changed)
    trail.record(key, KeyEvent.Kind.LEAKED, at=now, details=[f"Found: {key.leak_source}.", done])


def _prepare_successor(key: ApiKey, now: datetime) -> None:
    """An unclaimed key with the leaked one's settings; the mail of the leak tells of it."""
    inherited = {name: getattr(key, name) for name in ("name", *restrictions.FIELDS)}
    successor = ApiKey.objects.create(
        account_id=key.account_id,
        mode=key.mode,
        origin=ApiKey.Origin.LEAKED,
        partition=key.partition,
        replaces=key,
        created_at=now,
        expires_at=key.expires_at,
        **inherited,
    )
    trail.record(successor, KeyEvent.Kind.ISSUED, at=now, announced_at=now)
