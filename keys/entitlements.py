"""What an account may do at the gateway: billing decides, this module stores and publishes.

Terms arrive compiled to integers; tiers and prices are billing's and get here only as the
segments of a spend cap (keys.spend). Suspension is the staff's own switch and survives every
change of terms.
"""

from bisect import bisect_right
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import structlog
from django.db import transaction

from keys import publish
from keys.models import Entitlement
from keys.spend import SpendCap

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class MeterTerms:
    """One meter in a billing period.

    included:         units covered by the plan's price
    past:             what happens after them
    limit:            units at which calls are refused; None: never
    credits_per_unit: past the included ones, where credits pay for them
    """

    included: int
    past: Literal["refuse", "bill", "credits"]
    limit: int | None
    credits_per_unit: int = 0


@dataclass(frozen=True, slots=True)
class Grant:
    """Credits given to an account, as many as were given. `expires_at` in epoch seconds."""

    id: int
    amount: int
    expires_at: int | None


@dataclass(frozen=True, slots=True)
class Terms:
    """What a plan version with its add-ons, or a contract in their place, lets an account do.

    apis:        slugs of the APIs that may be called; None: all
    scopes:      those of operations that are not open to everybody
    concurrency: calls at once at most; None: no limit
    grants:      credits in the order of use
    spend_cap:   the customer's own; None: none
    """

    rate_per_second: int
    burst: int
    meters: dict[str, MeterTerms]
    test_quota_per_day: int
    key_limit: int
    apis: tuple[str, ...] | None = None
    scopes: tuple[str, ...] = ()
    concurrency: int | None = None
    grants: tuple[Grant, ...] = ()
    spend_cap: SpendCap | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "rate_per_second": self.rate_per_second,
            "burst": self.burst,
            "meters": {name: asdict(meter) for name, meter in sorted(self.meters.items())},
            "test_quota_per_day": self.test_quota_per_day,
            "key_limit": self.key_limit,
            "apis": None if self.apis is None else list(self.apis),
            "scopes": list(self.scopes),
            "concurrency": self.concurrency,
            "grants": [asdict(grant) for grant in self.grants],
            "spend_cap": self.spend_cap.to_json() if self.spend_cap else None,
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Terms":
        """The terms of a row; one of an earlier release lacks what came later."""
        apis, spend_cap = stored.get("apis"), stored.get("spend_cap")
        return cls(
            rate_per_second=stored["rate_per_second"],
            burst=stored["burst"],
            meters={name: MeterTerms(**meter) for name, meter in stored["meters"].items()},
            test_quota_per_day=stored["test_quota_per_day"],
            key_limit=stored["key_limit"],
            apis=None if apis is None else tuple(apis),
            scopes=tuple(stored.get("scopes", ())),
            concurrency=stored.get("concurrency"),
            grants=tuple(Grant(**grant) for grant in stored.get("grants", ())),
            spend_cap=None if spend_cap is None else SpendCap.from_json(spend_cap),
        )


def apply(
    account_id: UUID,
    *,
    state: str,
    plan_name: str,
    terms_id: str,
    terms: Terms,
    periods: list[datetime],
    ends_at: datetime | None,
    now: datetime,
) -> Entitlement:
    """Makes these the account's terms; changes and publishes nothing if they already are.

    Runs inside the caller's transaction and publishes when it commits. Redis being away
    delays the publication (`publish.lagging`), it never fails the caller.

    periods: boundaries of billing periods, ascending, the current period's start first.
    """
    wanted = {
        "state": state,
        "plan_name": plan_name,
        "terms_id": terms_id,
        "terms": terms.to_json(),
        "periods": [int(boundary.timestamp()) for boundary in periods],
        "ends_at": ends_at,
    }
    with transaction.atomic():
        entitlement = _locked(account_id)
        if any(getattr(entitlement, name) != value for name, value in wanted.items()):
            _write(entitlement, wanted, now)
            log.info("entitlement.applied", account=str(account_id), terms=terms_id, state=state)
    return entitlement


def suspend(account_id: UUID, now: datetime) -> bool:
    """Stops every call of the account. True once the data plane has confirmed it."""
    return _set_suspended(account_id, True, now)


def lift(account_id: UUID, now: datetime) -> bool:
    """Ends a suspension. True once the data plane has confirmed it."""
    return _set_suspended(account_id, False, now)


def current_period(entitlement: Entitlement, now: datetime) -> tuple[int, int | None] | None:
    """Start and end of the period that holds `now`, epoch seconds; None outside all of them.

    The end is None in a period that no known boundary closes.
    """
    following = bisect_right(entitlement.periods, now.timestamp())
    if following == 0:
        return None
    boundaries = entitlement.periods[following - 1 : following + 1]
    return boundaries[0], boundaries[1] if len(boundaries) == 2 else None


def _set_suspended(account_id: UUID, suspended: bool, now: datetime) -> bool:
    with transaction.atomic():
        entitlement = _locked(account_id)
        publication = _write(entitlement, {"suspended": suspended}, now)
    log.info("account.suspended" if suspended else "account.lifted", account=str(account_id))
    return publication.confirmed


def _locked(account_id: UUID) -> Entitlement:
    Entitlement.objects.get_or_create(account_id=account_id)
    return Entitlement.objects.select_for_update(of=("self",)).get(account_id=account_id)


def _write(entitlement: Entitlement, wanted: dict[str, Any], now: datetime) -> publish.Publication:
    for name, value in wanted.items():
        setattr(entitlement, name, value)
    entitlement.revision += 1
    entitlement.save(update_fields=[*wanted, "revision", "updated_at"])
    return publish.on_commit(lambda: publish.entitlement(entitlement.account_id, now))
