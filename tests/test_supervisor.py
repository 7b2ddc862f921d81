"""`make run` under rough treatment: the real supervisor with all of its processes."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from portal.run.data_folder import DataFolder
from portal.run.embedded import Services
from portal.run.processes import grouped
from tests.product import OWN_VARIABLES, ROOT, free_port

ROUNDS = int(os.environ.get("KILL_ROUNDS", "2"))
SUPERVISOR = [sys.executable, "-m", "portal.run.supervisor"]
START_SECONDS, STOP_SECONDS = 90, 12


@dataclass
class Run:
    """One start of the supervisor and what it wrote."""

    process: subprocess.Popen[bytes]
    data_dir: Path
    log: Path

    @property
    def facts(self) -> dict[str, Any]:
        return json.loads((self.data_dir / "run.json").read_text())

    def wait_until_ready(self) -> "Run":
        wait_for(self._is_ready, START_SECONDS)
        return self

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return (self.data_dir / "run.json").exists()

    def family(self) -> list[int]:
        """The supervisor and every process under it."""
        parents = {}
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(status.parent.name)] = int(
                    status.read_text().rsplit(")", 1)[1].split()[1]
                )
            except (FileNotFoundError, ProcessLookupError):
                continue
        found = [self.process.pid]
        for member in found:
            found += [pid for pid, parent in parents.items() if parent == member]
        return found


def start(
    data_dir: Path, *, port: int = 0, command: list[str] = SUPERVISOR, **variables: str
) -> Run:
    environ = {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES}
    environ |= {"PORT": str(port or free_port()), "DATA_DIR": str(data_dir), **variables}
    log = data_dir.with_suffix(".log")
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdout=output, stderr=subprocess.STDOUT
        )
    return Run(process, data_dir, log)


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def call(run: Run) -> int:
    """The status of one paid call, as the printed `curl` line makes it."""
    facts = run.facts
    request = urllib.request.Request(
        f"{facts['gateway']}/gateway/{facts['api']}/v1/next/DE",
        headers={"Authorization": f"Bearer {facts['demo_key']}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def is_healthy(run: Run) -> bool:
    with urllib.request.urlopen(f"{run.facts['site']}/healthz", timeout=20) as response:
        return bool(response.status == 200)


def refusal(data_dir: Path, **variables: str) -> str:
    """What a start that must fail says: one line on standard error, no traceback."""
    run = start(data_dir, **variables)
    assert run.process.wait(START_SECONDS) == 1
    (sentence,) = run.log.read_text().splitlines()
    return sentence


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A data folder that outlives single starts, as an operator's does."""
    return tmp_path_factory.mktemp("supervisor") / "data"


@pytest.fixture(scope="module")
def running(data_dir):
    run = start(data_dir).wait_until_ready()
    yield run
    run.process.send_signal(signal.SIGTERM)
    run.process.wait(STOP_SECONDS)


def test_run_json_says_where_everything_is_to_its_owner_alone(running):
    facts = running.facts

    assert stat.S_IMODE((running.data_dir / "run.json").stat().st_mode) == 0o600
    assert is_healthy(running)
    assert call(running) == 200
    assert facts["api"] == "holidays"
    assert {"demo_key", "staff_email", "staff_password", "database_url", "redis_url"} <= set(facts)
    assert facts["pids"].pop("gateway")
    assert set(facts["pids"]) == {
        "supervisor", "postgres", "valkey", "upstream", "portal", "worker", "beat",
    }  # fmt: skip


def test_a_second_supervisor_on_the_folder_is_told_off(running, data_dir):
    second = data_dir.parent / "link"
    second.symlink_to(data_dir)

    sentence = refusal(second)

    assert f"in use by another Keystile (process {running.process.pid})" in sentence
    assert is_healthy(running)


@pytest.mark.parametrize("offset", [0, -1])
def test_a_port_in_use_is_one_sentence(running, tmp_path, offset):
    taken = int(running.facts["site"].rsplit(":", 1)[1])

    sentence = refusal(tmp_path / "data", PORT=str(taken + offset))

    assert sentence.startswith(f"keystile: Port {taken} can't be used")


@pytest.mark.parametrize("role", ["gateway", "portal", "upstream", "worker", "valkey", "postgres"])
def test_a_killed_process_is_started_again_while_the_others_go_on(running, role):
    before = running.facts["pids"]
    killed = before[role][0] if role == "gateway" else before[role]

    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: running.facts["pids"].get(role) not in (None, before[role]), 20)

    after = running.facts["pids"]
    assert {name: pid for name, pid in after.items() if name != role} == {
        name: pid for name, pid in before.items() if name != role
    }
    # A queued connection waits for the new process: it is never refused.
    assert is_healthy(running)
    wait_for(lambda: call(running) == 200, 10)


def test_sigterm_stops_everything_without_a_trace(running):
    family, said = running.family(), running.log.read_text()
    time_asked = time.monotonic()

    running.process.send_signal(signal.SIGTERM)
    code = running.process.wait(STOP_SECONDS)

    assert code == 0
    assert time.monotonic() - time_asked < STOP_SECONDS
    assert [pid for pid in family if is_alive(pid)] == []
    assert not (running.data_dir / "run.json").exists()
    assert "Traceback" not in running.log.read_text().removeprefix(said)


def test_a_killed_supervisor_leaves_no_orphan_and_the_next_one_recovers(data_dir):
    secrets = set()

    for _ in range(ROUNDS):
        run = start(data_dir).wait_until_ready()
        family = run.family()
        secrets.add((data_dir / "secrets.json").read_text())
        assert call(run) == 200

        run.process.kill()
        run.process.wait()
        (data_dir / "run.json").unlink()

        wait_for(lambda family=family: not any(map(is_alive, family)), 10)

    DataFolder(data_dir).release()
    assert len(secrets) == 1


def test_killing_the_caller_stops_everything(data_dir):
    caller = ["sh", "-c", '"$@" --die-with-parent; exit', "sh", *SUPERVISOR]
    run = start(data_dir, command=caller).wait_until_ready()
    family = run.family()

    run.process.kill()
    run.process.wait()

    wait_for(lambda: not any(map(is_alive, family)), STOP_SECONDS)


def test_stores_that_are_given_are_used_and_none_is_started(tmp_path):
    with Services(tmp_path / "services", durable=False) as services:
        given = {"DATABASE_URL": services.database_url, "REDIS_URL": services.redis_url}
        run = start(tmp_path / "data", **given).wait_until_ready()
        facts, entries = run.facts, {entry.name for entry in run.data_dir.iterdir()}
        run.process.send_signal(signal.SIGINT)
        code = run.process.wait(STOP_SECONDS)

    assert code == 0
    assert (facts["database_url"], facts["redis_url"]) == tuple(given.values())
    assert not {"postgres", "valkey"} & {*facts["pids"], *entries}


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"PORT": "web"}, "PORT must be a number from 1 to 65534, not 'web'."),
        ({"GATEWAY_PROCESSES": "0"}, "GATEWAY_PROCESSES must be a number from 1 to 64, not '0'."),
        ({"OPENAPI": "api.json"}, "OPENAPI describes the API at UPSTREAM; set UPSTREAM as well."),
        ({"DATA_DIR": "/proc/keystile"}, "/proc/keystile can't be used: "),
        ({"DATA_DIR": str(ROOT / "docs")}, f"{ROOT / 'docs'} holds files that are not Keystile's"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(tmp_path, variables, sentence):
    assert refusal(tmp_path / "data", **variables).startswith(f"keystile: {sentence}")


def test_a_database_that_does_not_answer_is_said_last(tmp_path):
    run = start(tmp_path / "data", DATABASE_URL="postgres://keystile@127.0.0.1:1/keystile")

    assert run.process.wait(START_SECONDS) == 1
    assert "port 1 failed: Connection refused" in run.log.read_text().splitlines()[-1]


def test_a_traceback_stays_under_its_event():
    lines = [
        "request failed",
        "Traceback (most recent call last):",
        '  File "views.py", line 1, in view',
        "ValueError: no",
        "the next event",
    ]

    assert grouped(lines) == [lines[:4], lines[4:]]
