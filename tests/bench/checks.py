"""Whether a contestant does the job at all: who does less is faster, and proves nothing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from keys import tokens
from tests import traffic
from tests.bench import seller
from tests.bench.contestants import LARGE_BYTES, SMALL_BYTES, Contestant, Running

QUOTA = 40
AT_ONCE = 20
TOLD = (
    "ratelimit-policy",
    "ratelimit",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "keystile-quota-remaining",
    "keystile-event",
    "keystile-mode",
)


class DoesLess(Exception):
    """A contestant does not do the whole job. The text says what it leaves out."""


def check(contestant: Contestant, running: Running, key: str) -> None:
    """Raises `DoesLess`."""
    bearer = {"Authorization": f"Bearer {key}"}
    for path, size in ((seller.SMALL, SMALL_BYTES), (seller.LARGE, LARGE_BYTES)):
        answer = traffic.ask(running.port, "GET", path, bearer)
        if answer.status != 200 or len(answer.body) != size:
            raise DoesLess(f"{contestant.name}: {path} is {answer.status}, not 200")
    if contestant.entries is None:
        return
    missing = [name for name in TOLD if not answer[name]]
    if missing:
        raise DoesLess(f"{contestant.name}: no {', '.join(missing)}")
    unlisted = traffic.ask(running.port, "GET", "/demo/v2/nothing", bearer)
    if unlisted.status != 404:
        raise DoesLess(f"{contestant.name}: what is not on sale is {unlisted.status}, not 404")
    _refuses_bad_keys(contestant, running, key)
    _keeps_to_the_quota(contestant, running, contestant.entries)


def _refuses_bad_keys(contestant: Contestant, running: Running, key: str) -> None:
    mistyped = key[:-1] + ("a" if key[-1] != "a" else "b")
    unknown = tokens.draw("live", 0).text
    for text, code in ((mistyped, "malformed_key"), (unknown, "unknown_key")):
        answer = traffic.ask(running.port, "GET", seller.SMALL, {"X-API-Key": text})
        if answer.status != 401 or answer.code != code:
            raise DoesLess(f"{contestant.name}: {code} is answered with {answer.status}")


def _keeps_to_the_quota(
    contestant: Contestant, running: Running, entries: Callable[[], int]
) -> None:
    key = seller.key_with_quota(QUOTA)
    before = entries()

    def call(_: int) -> int:
        return traffic.ask(running.port, "GET", seller.SMALL, {"X-API-Key": key}).status

    with ThreadPoolExecutor(AT_ONCE) as callers:
        statuses = sorted(callers.map(call, range(2 * QUOTA)))
    if statuses != [200] * QUOTA + [429] * QUOTA:
        raise DoesLess(
            f"{contestant.name}: of {2 * QUOTA} calls {statuses.count(200)} were admitted"
        )
    recorded = entries() - before
    if recorded != QUOTA:
        raise DoesLess(f"{contestant.name}: {recorded} entries for {QUOTA} admitted calls")
