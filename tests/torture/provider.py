"""The payment provider of the torture: a double of Stripe in a bad mood, which counts all the same.

It fails at random: refuses for now, breaks, hangs up before or after it has counted, answers what
nobody can read. What it counted, each id once, is another witness of what was used.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable

from tests.doubles.stripe import Stripe

METERS = ("calls", "tokens", "rows")
SHIPPING_SECONDS = 2
FAULTS: dict[int | str, int] = {
    "": 80,  # none
    429: 4,
    500: 3,
    "drop": 3,
    "lost answer": 5,
    "500 after": 3,
    "garbage": 2,
}
"""What becomes of a request, and how often relative to the others (`tests.doubles.server`)."""
MOST_REQUESTS = 100_000


def moody(dice: random.Random) -> Stripe:
    faults = dice.choices([*FAULTS], [*FAULTS.values()], k=MOST_REQUESTS)
    return Stripe(faults=deque(faults), meters=[f"keystile_{meter}" for meter in METERS])


def customer_of(account: str) -> str:
    """The provider's name of an account."""
    return f"cus_{account}"


def counted(double: Stripe, accounts: Iterable[str]) -> dict[tuple[str, str], int]:
    """Units that it counts, by account and meter."""
    return {
        (account, meter): double.total(customer_of(account), f"keystile_{meter}")
        for account in accounts
        for meter in METERS
    }
