"""The benchmark's own arithmetic: what makes figures worthless, and how they are compared."""

from __future__ import annotations

import os
import time

import pytest

from tests.bench import processes, report
from tests.bench.contestants import CONTESTANTS
from tests.bench.drain import Drained
from tests.bench.load import Measure
from tests.bench.session import SCENARIOS, Plan, Results

FEWEST = min(scenario.connections for scenario in SCENARIOS)


def measure(
    rate: float = 1000, *, cpu: float = 50, errors: int = 0, unanswered: int = 0
) -> Measure:
    return Measure(
        requests_per_second=rate,
        p50_ms=1,
        p99_ms=2,
        cpu_ms_per_1000=cpu,
        busy=rate * cpu / 1e6,
        memory_mb=100,
        completed=5000,
        errors=errors,
        unanswered=unanswered,
    )


def results(**by_slug: list[Measure]) -> Results:
    found = Results(measured=[each for each in CONTESTANTS if each.slug in by_slug])
    for slug, measures in by_slug.items():
        for scenario in SCENARIOS:
            found.measures[scenario, slug] = measures
    return found


@pytest.mark.parametrize(
    "faulty",
    [
        measure(errors=1),
        measure(unanswered=-1),
        measure(unanswered=FEWEST + 1),
    ],
    ids=["an error", "an answer without an entry", "an entry without a call"],
)
def test_a_faulty_run_fails_and_is_not_published(faulty, tmp_path):
    page = tmp_path / "benchmarks.md"

    status = report.publish(
        results(keystile=[measure(), faulty]), Plan(5, 2, ()), cores=None, page=page
    )

    assert status == 1
    assert not page.exists()


def test_calls_under_way_when_the_client_left_are_no_fault(tmp_path):
    found = results(keystile=[measure(unanswered=FEWEST)])

    assert report.publish(found, Plan(5, 1, ("keystile",)), None, tmp_path / "page.md") == 0


def test_a_part_of_the_contestants_is_not_published(tmp_path):
    page = tmp_path / "benchmarks.md"

    report.publish(results(keystile=[measure()]), Plan(5, 1, ("keystile",)), None, page)

    assert not page.exists()


def test_ratios_compare_what_was_measured_in_the_same_round(tmp_path, capsys):
    found = results(
        keystile=[measure(1000, cpu=40), measure(100, cpu=40), measure(1000, cpu=40)],
        lua=[measure(500, cpu=80), measure(50, cpu=80), measure(500, cpu=80)],
    )

    report.publish(found, Plan(5, 3, ("keystile", "lua")), None, tmp_path / "page.md")

    goals = [line for line in capsys.readouterr().out.splitlines() if "against" in line]
    assert [line.split("|")[-3].strip() for line in goals[1:]] == ["2.00×", "2.00×", "0.50×"]


def test_the_drain_is_compared_with_the_gateway_that_filled_its_stream(tmp_path, capsys):
    found = Results(
        draining=[
            (measure(1000), Drained(calls=5000, seconds=2.5, cpu_seconds=1)),
            (measure(100), Drained(calls=500, seconds=2, cpu_seconds=1)),
            (measure(1000), Drained(calls=5000, seconds=1, cpu_seconds=1)),
        ]
    )

    assert report.publish(found, Plan(5, 3, ("drain",)), None, tmp_path / "page.md") == 0

    (goal,) = (
        line for line in capsys.readouterr().out.splitlines() if "against its gateway" in line
    )
    assert [cell.strip() for cell in goal.split("|")[-4:-1]] == ["≥ 2×", "2.50×", "met"]


def test_cpu_time_is_that_of_the_processes_and_their_children():
    own = processes.family([os.getpid()])
    before = processes.cpu_seconds(own)

    deadline = time.process_time() + 0.1
    while time.process_time() < deadline:
        pass

    assert 0.05 < processes.cpu_seconds(own) - before < 0.5
    assert own[0] == os.getpid()
