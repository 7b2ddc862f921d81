"""The states of a subscription and the moves between them; every other move is refused.

        trialing ───► active ◄───► past_due        trialing ───► past_due
            ▲            ▲            ▲
            └─────┬──────┴────────────┘
                  ▼
               paused                              all of them ───► ended

    trialing   calls pass, nothing is paid yet
    active     calls pass
    past_due   a payment failed: calls pass while grace lasts, then `payment_required`
    paused     calls are refused with `payment_required`
    ended      calls are refused with `subscription_ended`; who pays again gets a new row

A subscription begins trialing, active or past due. A planned end and a planned change of plan
are no states: they stand beside the state until the period is over. Knows no row and no provider.
"""

from uuid import UUID

from billing.models import Subscription

State = Subscription.State

MOVES: dict[State, frozenset[State]] = {
    State.TRIALING: frozenset({State.ACTIVE, State.PAST_DUE, State.PAUSED, State.ENDED}),
    State.ACTIVE: frozenset({State.PAST_DUE, State.PAUSED, State.ENDED}),
    State.PAST_DUE: frozenset({State.ACTIVE, State.PAUSED, State.ENDED}),
    State.PAUSED: frozenset({State.TRIALING, State.ACTIVE, State.PAST_DUE, State.ENDED}),
    State.ENDED: frozenset(),
}


class IllegalMove(Exception):
    """The provider's state can't follow from ours; staff must look."""


def check(held: str, said: str, subscription_id: UUID) -> None:
    """Raises `IllegalMove` where the second state can't follow the first; staying is no move."""
    if said != held and State(said) not in MOVES[State(held)]:
        raise IllegalMove(f"{held} → {said} of subscription {subscription_id}")
