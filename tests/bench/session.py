"""One session: start everybody, check that they do the job, measure them in turns."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from portal.run.data_folder import StartError
from tests.bench import checks, contestants, drain, load, processes, seller
from tests.bench.contestants import CONTESTANTS, Contestant, Missing, Place, Running
from tests.bench.drain import Drained
from tests.bench.load import Measure, Scenario
from tests.bench.machine import Cores

SCENARIOS = [
    Scenario("200 bytes, 1 connection", seller.SMALL, 1),
    Scenario("200 bytes, 64 connections", seller.SMALL, 64),
    Scenario("200 bytes, 256 connections", seller.SMALL, 256),
    Scenario("20 KB, 64 connections", seller.LARGE, 64),
]
SCALED = SCENARIOS[2]
FILLING = SCENARIOS[1]
"""What fills the stream for the drain."""
DRAIN = "drain"
MOST_PROCESSES = 2
FIRST_WARM_UP_SECONDS = 4


@dataclass
class Results:
    """What was measured.

    left_out: who could not be measured, and why
    measures: by scenario and contestant's slug, one per round
    scaling:  by number of gateway processes, one per round
    draining: what the gateway did, and what draining it took, one pair per round
    load_average: of one minute, before anything was started; near 0 on a machine that is left alone
    """

    measured: list[Contestant] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    measures: dict[tuple[Scenario, str], list[Measure]] = field(
        default_factory=lambda: defaultdict(list)
    )
    scaling: dict[int, list[Measure]] = field(default_factory=lambda: defaultdict(list))
    draining: list[tuple[Measure, Drained]] = field(default_factory=list)
    load_average: float = field(default_factory=lambda: os.getloadavg()[0])


@dataclass(frozen=True)
class Plan:
    """How long, how often and who: the session's options."""

    seconds: int
    rounds: int
    only: tuple[str, ...]

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Plan:
        """Raises `StartError` where a value makes no sense."""
        numbers = []
        for name, default in (("BENCH_SECONDS", "5"), ("BENCH_ROUNDS", "3")):
            text = environ.get(name) or default
            if not (text.isascii() and text.isdigit() and int(text) > 0):
                raise StartError(f"{name} must be a whole number above 0, not {text!r}.")
            numbers.append(int(text))
        slugs = [*(contestant.slug for contestant in CONTESTANTS), DRAIN]
        only = tuple(filter(None, environ.get("ONLY", "").split(",")))
        if not set(only) <= set(slugs):
            raise StartError(f"ONLY takes some of {', '.join(slugs)}, with commas between.")
        return cls(*numbers, only)

    def includes(self, slug: str) -> bool:
        return not self.only or slug in self.only


def run(plan: Plan, folder: Path, cache: Path, cores: Cores) -> Results:
    """Measures everybody. Raises `StartError`; `checks.DoesLess` if somebody does half a job."""
    results = Results()
    with contestants.upstream(folder) as upstream_port, ExitStack() as stack:
        place = Place(folder, cache, upstream_port)
        keys = seller.open_shop(place.upstream_url)
        running: dict[str, Running] = {}
        for contestant in CONTESTANTS:
            if not plan.includes(contestant.slug):
                continue
            try:
                with processes.pinned({cores.first}):
                    running[contestant.slug] = stack.enter_context(contestant.start(place))
            except Missing as missing:
                results.left_out[contestant.name] = f"needs {missing}"
                continue
            checks.check(contestant, running[contestant.slug], keys[0])
            results.measured.append(contestant)
            _say(f"{contestant.name} does the job")
        if not running and not plan.includes(DRAIN):
            raise StartError(f"Nobody can be measured: {'; '.join(results.left_out.values())}.")
        for contestant in results.measured:
            # Before the first run, for the compilers in LuaJIT and node; each run has its own.
            load.ask(running[contestant.slug].port, SCENARIOS[1], keys, FIRST_WARM_UP_SECONDS)
        if running:
            _measure_in_turns(plan, running, keys, results)
        if "keystile" in running:
            _measure_scaling(plan, place, running["keystile"], keys, cores, results)
        if plan.includes(DRAIN):
            _measure_drain(plan, place, keys, cores, results)
    return results


def _measure_in_turns(
    plan: Plan, running: dict[str, Running], keys: list[str], results: Results
) -> None:
    """Round by round, each contestant once per scenario, so that a noisy minute meets all."""
    for number in range(plan.rounds):
        for scenario in SCENARIOS:
            _say(f"round {number + 1} of {plan.rounds}: {scenario.title}")
            # Whoever comes first in one round comes last in another.
            turn = number % len(results.measured)
            for contestant in results.measured[turn:] + results.measured[:turn]:
                measure = load.run(
                    contestant, running[contestant.slug], scenario, keys, plan.seconds
                )
                results.measures[scenario, contestant.slug].append(measure)
                _say(
                    f"  {contestant.name:<24}{measure.requests_per_second:>9,.0f} req/s"
                    f"{measure.cpu_ms_per_1000:>9,.1f} ms/1k"
                )


def _measure_scaling(
    plan: Plan,
    place: Place,
    one: Running,
    keys: list[str],
    cores: Cores,
    results: Results,
) -> None:
    """One gateway process against two, the second on a core of its own if there is one."""
    _say(f"one gateway process and two: {SCALED.title}")
    contestant = CONTESTANTS[0]
    with ExitStack() as stack:
        with processes.pinned({cores.first, cores.second}):
            two = stack.enter_context(contestants.keystile(place, MOST_PROCESSES))
        for _ in range(plan.rounds):
            for count, running in ((1, one), (MOST_PROCESSES, two)):
                measure = load.run(contestant, running, SCALED, keys, plan.seconds)
                results.scaling[count].append(measure)


def _measure_drain(
    plan: Plan, place: Place, keys: list[str], cores: Cores, results: Results
) -> None:
    """One gateway process, then one drain of what it did, each alone on the same core."""
    _say(f"the drain: {FILLING.title}")
    contestant = CONTESTANTS[0]
    with ExitStack() as stack:
        with processes.pinned({cores.first}):
            running = stack.enter_context(contestants.keystile(place))
        for _ in range(plan.rounds):
            measure = load.run(contestant, running, FILLING, keys, plan.seconds)
            drained = drain.run(cores)
            results.draining.append((measure, drained))
            _say(
                f"  {contestant.name:<24}{measure.requests_per_second:>9,.0f} req/s"
                f"   drained {drained.calls_per_second:>9,.0f} calls/s"
            )


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
