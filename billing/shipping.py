"""Ships usage to the providers of subscriptions: nothing lost, nothing twice.

collect: reads the ledger from where it stopped to a sealed moment, and writes shipments and the
moment in one transaction. send: claims what is due, tells the provider, notes what it said. A
shipment's id is the same each time it is sent, so that a provider counts a repeated one once.
The states and moves stand above `models.Shipment`.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID, uuid5

import structlog
from django.db import transaction
from django.db.models import F, Max, Min, QuerySet, Value
from django.db.models.functions import Coalesce

from billing import doubts, pricing
from billing.models import Shipment, ShippingClock, Subscription
from billing.providers import metering
from billing.providers.metering import Limits, Outcome, Refusal
from gateway import recorded, recording
from gateway.alone import alone
from gateway.entries import EPOCH

log = structlog.get_logger(__name__)

State = Shipment.State
WAITING = (State.PENDING, State.UNKNOWN)
STOPPED = (State.REFUSED, State.HELD)

# What a shipment's id is made in, together with what it holds.
_NAMESPACE = UUID("6f0f1a0e-5f0c-5c1d-9a43-4b6579737469")
# A claim outlives the slowest batch; one whose process was killed is taken up again after it.
_LEASE = timedelta(minutes=5)
_BACKOFF_SECONDS, _LONGEST_BACKOFF_SECONDS = 5, 300
_BATCHES_A_RUN = 20


@dataclass(frozen=True)
class Lag:
    """How far shipping is. `oldest_at`: when the oldest units that wait were used."""

    read_until: datetime | None
    waiting: int
    oldest_at: datetime | None


# ------------------------------------------------------------------ collecting


def collect(now: datetime) -> int:
    """Writes shipments of what was recorded since the last time; how many.

    Sealing has a transaction of its own: nobody may record until it ends. Not for use in one.
    """
    with transaction.atomic():
        sealed = recording.seal(now)
    with transaction.atomic():
        clock, _ = ShippingClock.objects.select_for_update().get_or_create(
            pk=1, defaults={"at": EPOCH}
        )
        if sealed <= clock.at:  # somebody who sealed later came first
            return 0
        sums = recorded.billable_sums(clock.at, sealed)
        subscriptions = subscriptions_of(one.account_id for one in sums)
        shipments = []
        for one in sums:
            owner = owner_of(subscriptions[one.account_id], one.terms_id, one.latest_at)
            if owner is not None:
                shipments.append(_shipment(one, owner, clock.at, sealed, now))
        Shipment.objects.bulk_create(shipments, batch_size=1000)
        clock.at = sealed
        clock.save(update_fields=["at"])
    if shipments:
        log.info("shipping.collected", shipments=len(shipments), until=sealed.isoformat())
    return len(shipments)


def subscriptions_of(account_ids: Iterable[UUID]) -> dict[UUID, list[Subscription]]:
    """All that the accounts have or had, the oldest first."""
    found: defaultdict[UUID, list[Subscription]] = defaultdict(list)
    rows = Subscription.objects.filter(account_id__in=set(account_ids)).order_by("started_at")
    for row in rows.select_related("version"):
        found[row.account_id].append(row)
    return found


def owner_of(
    subscriptions: Sequence[Subscription], terms_id: str, at: datetime
) -> Subscription | None:
    """The subscription at a metering provider that some usage belongs to; None: at none.

    That of the terms that the usage was admitted under, for a moment may lie on either side of
    a start; then that which lived at the time. A contract's usage belongs to no provider.
    """
    version_id = pricing.version_id_of(terms_id)
    if version_id is None:
        return None
    of_terms = [one for one in subscriptions if one.version_id == version_id]
    alive = [one for one in subscriptions if one.ended_at is None or one.ended_at > at]
    both = [one for one in of_terms if one in alive]
    started = [one for one in alive if one.started_at <= at]
    chosen = both[:1] or of_terms[-1:] or started[-1:]
    return chosen[0] if chosen and chosen[0].provider in metering.PROVIDERS else None


def _shipment(
    one: recorded.Sum, owner: Subscription, after: datetime, until: datetime, now: datetime
) -> Shipment:
    holds = (
        owner.pk,
        one.meter,
        one.period_start.isoformat(),
        one.terms_id,
        one.api,
        one.operation,
        one.dimensions,
        one.latest_at.isoformat(),
        after.isoformat(),
        until.isoformat(),
    )
    return Shipment(
        id=uuid5(_NAMESPACE, "\n".join(map(str, holds))),
        subscription=owner,
        provider=owner.provider,
        customer_id=owner.provider_customer_id,
        meter=one.meter,
        period_start=one.period_start,
        terms_id=one.terms_id,
        api=one.api,
        operation=one.operation,
        dimensions=one.dimensions,
        units=one.units,
        at=one.latest_at,
        recorded_after=after,
        recorded_until=until,
        next_attempt_at=now,
    )


# ------------------------------------------------------------------ sending


@dataclass
class _Claim:
    """Shipments that this process has until the lease ends, by what is to be done with them."""

    dated: list[Shipment] = field(default_factory=list)
    undated: list[Shipment] = field(default_factory=list)
    doubtful: list[Shipment] = field(default_factory=list)


def due(now: datetime) -> QuerySet[Shipment]:
    return Shipment.objects.filter(state__in=WAITING, next_attempt_at__lte=now)


def providers_due(now: datetime) -> list[str]:
    """Who is to be told something, each once."""
    found = due(now).order_by("provider")
    return list(found.values_list("provider", flat=True).distinct())


def send(provider: str, now: datetime) -> int:
    """Sends what is due, batch by batch, as long as the provider takes any; how many it took.

    Not for use in a transaction. One process at a time sends to a provider; another that is
    asked to finds nothing to do, and waits for no network.
    """
    taken = 0
    with alone(f"billing.shipping:{provider}") as is_alone:
        for _ in range(_BATCHES_A_RUN if is_alone else 0):
            outcomes = _send_batch(provider, now)
            if outcomes is None:
                break
            taken += outcomes["taken"]
            if outcomes and not outcomes.keys() & {"taken", "refused"}:
                _rest(provider, now)
                break
    return taken


def _send_batch(provider: str, now: datetime) -> Counter[str] | None:
    """How many shipments had which kind of outcome; None if nothing is due."""
    asked = metering.get(provider)
    claim = _claim(provider, asked.LIMITS, now)
    if claim is None:
        return None
    answered = doubts.settle(provider, claim.doubtful, now)
    events = [
        *(doubts.event_of(row, row.at) for row in claim.dated),
        *(doubts.event_of(row, None) for row in claim.undated),
    ]
    outcomes = asked.ship(events) if events else {}
    _note(outcomes, claim, now)
    kinds = Counter[str](outcome.kind for outcome in outcomes.values())
    return kinds if answered else kinds + Counter(unheard=len(claim.doubtful))


def _rest(provider: str, now: datetime) -> None:
    """Leaves a provider alone that took nothing of a batch: longer the longer that goes on."""
    waiting = Shipment.objects.filter(provider=provider, state__in=WAITING)
    attempts = waiting.aggregate(most=Max("attempts", default=1))["most"]
    waiting.filter(next_attempt_at__lte=now).update(next_attempt_at=now + backoff(attempts))
    log.warning("shipping.provider_away", provider=provider, attempts=attempts)


def refuse(provider: str, refusals: Iterable[Refusal]) -> None:
    """Notes what a provider had taken and says now that it doesn't count."""
    for refusal in refusals:
        text, _, generation = refusal.event_id.partition(".")
        try:
            pk, times = UUID(text), int(generation or 0)
        except ValueError:
            continue  # somebody else's event
        refused = Shipment.objects.filter(pk=pk, provider=provider, generation=times)
        refused.filter(state__in=(State.SENT, State.UNKNOWN, State.HELD)).update(
            state=State.REFUSED, reason=refusal.reason[:300], unsure_since=None
        )
        log.warning("shipping.refused_later", shipment=str(pk), reason=refusal.reason)


def _claim(provider: str, limits: Limits, now: datetime) -> _Claim | None:
    """Marks what is to be sent as unknown before it is; None if nothing is due.

    The rows returned are as they were before, but for the number of their attempts.
    """
    claim = _Claim()
    with transaction.atomic():
        rows = list(
            due(now)
            .filter(provider=provider)
            .select_for_update(of=("self",), skip_locked=True)
            .select_related("subscription")
            .order_by("next_attempt_at")[: limits.batch]
        )
        if not rows:
            return None
        too_late = []
        for row in rows:
            row.attempts += 1
            too_old = row.at + limits.age < now
            forgotten = row.unsure_since and row.unsure_since + limits.remembers <= now
            late_is_fine = row.released or (limits.undated and _in_current_period(row, now))
            if forgotten or (too_old and not late_is_fine and row.unsure_since):
                claim.doubtful.append(row)
            elif not too_old:
                claim.dated.append(row)
            elif late_is_fine:
                claim.undated.append(row)
            else:
                too_late.append(row)
        _rows(too_late).update(
            state=State.HELD, reason=f"Older than {provider} takes, and its period is over."
        )
        _rows(claim.doubtful).update(attempts=F("attempts") + 1, next_attempt_at=now + _LEASE)
        for sent, undated in ((claim.dated, False), (claim.undated, True)):
            _rows(sent).update(
                state=State.UNKNOWN,
                attempts=F("attempts") + 1,
                next_attempt_at=now + _LEASE,
                unsure_since=Coalesce("unsure_since", Value(now)),
                undated=undated,
            )
    return claim


def _in_current_period(row: Shipment, now: datetime) -> bool:
    """Whether what counts now is billed with what counted when it was used."""
    subscription = row.subscription
    return (
        subscription.ended_at is None
        and subscription.period_start <= row.at
        and now < subscription.period_end
    )


def _note(outcomes: dict[str, Outcome], claim: _Claim, now: datetime) -> None:
    """Writes what came of it, unless another attempt has begun or staff has decided."""
    taken = [row for row in claim.dated + claim.undated if outcomes[row.event_id].kind == "taken"]
    _rows(taken).filter(state__in=(*WAITING, State.HELD)).update(
        state=State.SENT, sent_at=now, reason="", unsure_since=None
    )
    for row in claim.dated + claim.undated:
        outcome = outcomes[row.event_id]
        if outcome.kind == "taken":
            continue
        reason = outcome.reason
        after = {"unsure_since": row.unsure_since}
        if outcome.kind == "refused":
            state = State.REFUSED
            if row.unsure_since:  # then an earlier attempt may have arrived all the same
                state = State.HELD
                reason = f"Refused now, an earlier attempt may have arrived. {reason}"
        elif outcome.kind == "not_taken":
            state = State.UNKNOWN if row.unsure_since else State.PENDING
        else:
            state, after = State.UNKNOWN, {}
        _rows([row]).filter(state=State.UNKNOWN, attempts=row.attempts).update(
            state=state,
            reason=reason[:300],
            next_attempt_at=now + backoff(row.attempts),
            **after,
        )


def backoff(attempts: int) -> timedelta:
    """5 seconds, doubled each time up to 5 minutes, less up to half of it by chance."""
    longest = min(_BACKOFF_SECONDS * 2 ** min(attempts - 1, 10), _LONGEST_BACKOFF_SECONDS)
    return timedelta(seconds=longest * random.uniform(0.5, 1))  # noqa: S311 - no secret


def _rows(shipments: Iterable[Shipment]) -> QuerySet[Shipment]:
    return Shipment.objects.filter(pk__in=[row.pk for row in shipments])


# ------------------------------------------------------------------ staff


def replay(shipment_id: UUID, now: datetime) -> None:
    """Has a refused or held one sent again: as it is, or to count now if it is too old.

    A refused one goes under a new id, since providers keep ids that they refused afterwards. For
    a held one this is staff's word that it hasn't arrived.
    """
    row = Shipment.objects.filter(pk=shipment_id, state__in=STOPPED).first()
    if row is None:
        return
    too_old = row.at + metering.get(row.provider).LIMITS.age < now
    refused = row.state == State.REFUSED
    Shipment.objects.filter(pk=row.pk, state=row.state).update(
        state=State.PENDING,
        reason="",
        next_attempt_at=now,
        unsure_since=None,
        released=too_old,
        generation=F("generation") + (1 if refused else 0),
    )


def hold(shipment_id: UUID, reason: str) -> None:
    """Keeps one that waits from being sent until staff replay it."""
    waiting = Shipment.objects.filter(pk=shipment_id, state__in=WAITING)
    waiting.update(state=State.HELD, reason=reason[:300])


def mark_arrived(shipment_id: UUID, now: datetime) -> None:
    """Staff have seen at the provider that a refused or held one counts."""
    _stopped(shipment_id).update(state=State.SENT, sent_at=now, reason="", unsure_since=None)


def write_off(shipment_id: UUID, reason: str) -> None:
    """A refused or held one will not be sent any more."""
    _stopped(shipment_id).update(state=State.WRITTEN_OFF, reason=reason[:300])


def lag() -> Lag:
    clock = ShippingClock.objects.first()
    waiting = Shipment.objects.filter(state__in=WAITING)
    return Lag(
        read_until=clock.at if clock else None,
        waiting=waiting.count(),
        oldest_at=waiting.aggregate(at=Min("at"))["at"],
    )


def _stopped(shipment_id: UUID) -> QuerySet[Shipment]:
    return Shipment.objects.filter(pk=shipment_id, state__in=STOPPED)
