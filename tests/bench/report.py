"""What a session found: a table on the terminal and the page docs/benchmarks.md."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from string import Template
from typing import TypeVar

from keys import records
from tests.bench import machine
from tests.bench.load import Measure, Scenario
from tests.bench.session import FILLING, SCALED, SCENARIOS, Plan, Results

PAGE = Path(__file__).parent / "page.md"
AT_64, AT_256 = SCENARIOS[1], SCENARIOS[2]
YARDSTICK = "lua"

T = TypeVar("T")
Figure = Callable[[Measure], float]


def rate(measure: Measure) -> float:
    return measure.requests_per_second


def cpu(measure: Measure) -> float:
    return measure.cpu_ms_per_1000


@dataclass(frozen=True)
class Goal:
    """Keystile against one contestant: its figure divided by theirs, and what that should be."""

    against: str
    scenario: Scenario
    figure: Figure
    unit: str
    bound: float
    at_least: bool = True

    def is_met(self, ratio: float) -> bool:
        return ratio >= self.bound if self.at_least else ratio <= self.bound


GOALS = [
    Goal("lua", AT_64, rate, "req/s", 1.0),
    Goal("lua", AT_256, rate, "req/s", 1.3),
    Goal("lua", AT_64, cpu, "CPU", 0.8, at_least=False),
    Goal("fastify", AT_64, rate, "req/s", 2.0),
    Goal("drf", AT_64, rate, "req/s", 40.0),
]
DRAIN_GOAL = 2.0
"""Calls per second of one drain, divided by those of one gateway process."""


def publish(results: Results, plan: Plan, cores: machine.Cores, page: Path) -> int:
    """Prints the tables; rewrites the page unless only a part was asked for. An exit status."""
    tables = _tables(results)
    sys.stdout.write(f"\n{tables}\n")
    faults = list(_faults(results))
    sys.stdout.writelines(f"FAULT: {fault}\n" for fault in faults)
    if plan.only:
        sys.stdout.write(f"{page.name} stays as it is: only a part was measured.\n")
    elif not faults:
        page.write_text(_page(results, plan, cores, tables))
        sys.stdout.write(f"Written to {page}\n")
    return 1 if faults else 0


def _faults(results: Results) -> Iterable[str]:
    """What makes figures worthless: errors, calls without an entry, entries without a call."""
    names = {contestant.slug: contestant.name for contestant in results.measured}
    for (scenario, slug), measures in results.measures.items():
        for measure in measures:
            if measure.errors:
                yield f"{names[slug]}, {scenario.title}: {measure.errors} errors"
            if not 0 <= (measure.unanswered or 0) <= scenario.connections:
                yield (
                    f"{names[slug]}, {scenario.title}: {measure.completed} answers, "
                    f"{measure.unanswered:+} entries"
                )
    for measures in results.scaling.values():
        if any(measure.errors for measure in measures):
            yield "errors while scaling"
    if any(measure.errors for measure, _ in results.draining):
        yield "errors before a drain"


# ------------------------------------------------------------------ tables


def _tables(results: Results) -> str:
    parts = []
    if results.draining or results.measured[0].slug == "keystile":
        parts.append(_goals(results))
    if results.measured:
        parts += [f"### {one.title}\n\n{_scenario(results, one)}" for one in SCENARIOS]
    if results.scaling:
        parts.append(f"### One gateway process and two, {SCALED.title}\n\n{_scaling(results)}")
    if results.draining:
        parts.append(f"### The drain, {FILLING.title}\n\n{_draining(results)}")
    if results.left_out:
        rows = [[name, why] for name, why in results.left_out.items()]
        parts.append("### Left out\n\n" + table(["who", "why"], rows))
    return "\n\n".join(parts)


def _goals(results: Results) -> str:
    rows = []
    for goal in GOALS:
        name = next((each.name for each in results.measured if each.slug == goal.against), None)
        ratio = _ratio(results, goal.scenario, goal.figure, "keystile", goal.against)
        if name is None or ratio is None:
            continue
        sign = "≥" if goal.at_least else "≤"
        rows.append(
            [
                f"{goal.unit} against {name}",
                goal.scenario.title,
                f"{sign} {goal.bound:g}×",
                f"{ratio:.2f}×",
                "met" if goal.is_met(ratio) else "not met",
            ]
        )
    if results.draining:
        ratio = median(drained.calls_per_second / rate(m) for m, drained in results.draining)
        rows.append(
            [
                "drain, calls/s against its gateway's",
                FILLING.title,
                f"≥ {DRAIN_GOAL:g}×",
                f"{ratio:.2f}×",
                "met" if ratio >= DRAIN_GOAL else "not met",
            ]
        )
    return "### Keystile against its goals\n\n" + table(
        ["Keystile's", "with", "goal", "measured", ""], rows
    )


def _ratio(
    results: Results, scenario: Scenario, figure: Figure, slug: str, other: str
) -> float | None:
    """The median of the rounds' ratios: both were measured within a minute of each other."""
    ours, theirs = (results.measures.get((scenario, each), []) for each in (slug, other))
    if not ours or not theirs:
        return None
    return median(figure(mine) / figure(its) for mine, its in zip(ours, theirs, strict=True))


def _scenario(results: Results, scenario: Scenario) -> str:
    rows = []
    for contestant in results.measured:
        measures = results.measures[scenario, contestant.slug]
        ratios = [
            _ratio(results, scenario, figure, contestant.slug, YARDSTICK) for figure in (rate, cpu)
        ]
        extra = [m.unanswered for m in measures if m.unanswered is not None]
        rows.append(
            [
                contestant.name,
                _spread(measures, rate, 0),
                _spread(measures, lambda m: m.p50_ms, 1),
                _spread(measures, lambda m: m.p99_ms, 1),
                _spread(measures, cpu, 1),
                f"{median(m.busy for m in measures):.0%}",
                f"{median(m.memory_mb for m in measures):.0f}",
                f"{sum(m.completed for m in measures):,}",
                f"+{sum(extra)}" if extra else "–",
                *(f"{ratio:.2f}×" if ratio is not None else "–" for ratio in ratios),
            ]
        )
    head = ["", "req/s", "p50 ms", "p99 ms", "CPU ms/1k", "busy", "MB", "answers", "entries more"]
    return table([*head, "req/s ÷ Lua", "CPU ÷ Lua"], rows)


def _scaling(results: Results) -> str:
    rows = [
        [str(count), _spread(measures, rate, 0), _spread(measures, cpu, 1)]
        for count, measures in results.scaling.items()
    ]
    one, two = (results.scaling[count] for count in sorted(results.scaling))
    ratio = median(rate(b) / rate(a) for a, b in zip(one, two, strict=True))
    rows.append(["two ÷ one", f"{ratio:.2f}×", ""])
    return table(["processes", "req/s", "CPU ms/1k"], rows)


def _draining(results: Results) -> str:
    filled = [measure for measure, _ in results.draining]
    drained = [took for _, took in results.draining]
    return table(
        ["", "calls/s", "CPU ms/1k", "calls"],
        [
            [
                "one gateway process",
                _spread(filled, rate, 0),
                _spread(filled, cpu, 1),
                f"{sum(measure.completed for measure in filled):,}",
            ],
            [
                "one drain",
                _spread(drained, lambda took: took.calls_per_second, 0),
                _spread(drained, lambda took: took.cpu_ms_per_1000, 1),
                f"{sum(took.calls for took in drained):,}",
            ],
        ],
    )


def _spread(measures: Iterable[T], figure: Callable[[T], float], digits: int) -> str:
    """Median (least–most)."""
    values = sorted(map(figure, measures))
    texts = [f"{value:,.{digits}f}" for value in (median(values), values[0], values[-1])]
    return texts[0] if len(values) == 1 else f"{texts[0]} ({texts[1]}–{texts[2]})"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose columns also line up on a terminal."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(row: list[str]) -> str:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return f"| {' | '.join(cells)} |"

    return "\n".join([line(head), line(rule), *map(line, rows)])


# ------------------------------------------------------------------ the page


def _page(results: Results, plan: Plan, cores: machine.Cores, tables: str) -> str:
    info = records.connection().info("server")
    facts = machine.facts() | {
        "Cores": str(len({cores.first, cores.second} | cores.rest)),
        "Load average at the start": f"{results.load_average:.2f}",
        "Redis": f"{info.get('server_name', 'redis')} "
        f"{info.get('valkey_version') or info['redis_version']}, "
        "appendonly yes, appendfsync always",
        **{name: importlib.metadata.version(name) for name in ("uvicorn", "uvloop", "Django")},
        "Measured on": f"{datetime.now(UTC):%Y-%m-%d}",
        "Command": f"`make bench BENCH_SECONDS={plan.seconds} BENCH_ROUNDS={plan.rounds}`",
        "The contestant on": _numbers({cores.first}),
        "Two gateway processes on": _numbers({cores.first, cores.second}),
        "Everything else on": _numbers(cores.rest),
    }
    return Template(PAGE.read_text()).substitute(
        facts=_facts(facts), tables=tables, seconds=plan.seconds, rounds=plan.rounds
    )


def _facts(facts: dict[str, str]) -> str:
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {fact} |" for name, fact in facts.items())


def _numbers(cores: set[int]) -> str:
    return "core " + ", ".join(map(str, sorted(cores)))
