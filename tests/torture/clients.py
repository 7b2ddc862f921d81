"""The customers' side: clients that call without a pause, each with a log of what it saw.

The logs are files of JSON lines, one per call, so that somebody else can do the reconciliation:

at, client, caller   when (epoch seconds), which of the clients, with whose key
method, target       what was called
expected, units      what the backend answers, and what that costs
status, code         the answer; null: none came. code: of problem details
event                `Keystile-Event` of the answer; null: there was none, as on every refusal
complete             whether the answer came to its end
left                 whether it was the client that hung up
seconds              how long it took
"""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests import traffic
from tests.installation import wait_for
from tests.torture.stage import PLAIN, Call, Caller, draw

MOST_SECONDS_BETWEEN = 0.05


class Client(threading.Thread):
    """One connection that calls until it is told to stop. The same dice make the same calls."""

    def __init__(
        self, number: int, port: int, callers: list[Caller], dice: random.Random, folder: Path
    ):
        super().__init__(name=f"client-{number}")
        self.answered = 0
        """With a status from 200 to 299, to the end."""
        self._number = number
        self._port = port
        self._callers = callers
        self._dice = dice
        self._log = (folder / f"client-{number:02}.jsonl").open("w", buffering=1)
        self._over = threading.Event()
        self._connection: socket.socket | None = None

    def run(self) -> None:
        with self._log:
            while not self._over.wait(self._dice.uniform(0, MOST_SECONDS_BETWEEN)):
                self.make(*draw(self._callers, self._dice))
            self.hang_up()

    def stop(self) -> None:
        self._over.set()

    def make(self, caller: Caller, call: Call) -> int | None:
        """Makes one call and writes down what came of it; the status."""
        started = time.monotonic()
        seen = {
            "at": time.time(),
            "client": self._number,
            "caller": caller.name,
            "method": call.method,
            "target": call.target,
            "expected": call.status,
            "units": call.units,
            "status": None,
            "code": "",
            "event": None,
            "complete": False,
            "left": False,
        }
        try:
            seen |= self._ask(caller, call)
        except (OSError, ValueError, IndexError) as error:
            seen["broken"] = f"{type(error).__name__}: {error}"
        if not seen["complete"]:
            self.hang_up()
        seen["seconds"] = round(time.monotonic() - started, 3)
        self._log.write(json.dumps(seen) + "\n")
        status = seen["status"]
        if seen["complete"] and isinstance(status, int) and 200 <= status < 300:
            self.answered += 1
        return status if isinstance(status, int) else None

    def _ask(self, caller: Caller, call: Call) -> dict[str, Any]:
        if self._connection is None:
            self._connection = traffic.connect(self._port)
        fields = {"Authorization": f"Bearer {caller.secret}"}
        self._connection.sendall(traffic.request_bytes(call.method, call.target, fields, call.body))
        if call.leaves_after is not None:
            time.sleep(call.leaves_after)
            return {"left": True}
        answer = traffic.read_answer(self._connection, call.method)
        seen = {
            "status": answer.status,
            "event": answer["keystile-event"] or None,
            "complete": answer.complete,
        }
        if answer["content-type"] == "application/problem+json" and answer.body:
            seen["code"] = answer.code
        return seen

    def hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextmanager
def calling(
    count: int, port: int, callers: list[Caller], dice: random.Random, folder: Path
) -> Iterator[list[Client]]:
    """So many clients that call while the block runs; it begins when they are served."""
    crowd = [
        Client(number, port, callers, random.Random(dice.random()), folder)  # noqa: S311
        for number in range(1, count + 1)
    ]
    with ExitStack() as stack:
        for client in crowd:
            client.start()
            stack.callback(client.join)
        for client in crowd:
            stack.callback(client.stop)
        wait_for_answers(crowd, 100)
        yield crowd


def answered(crowd: list[Client]) -> int:
    """Calls that got an answer from 200 to 299, whole."""
    return sum(client.answered for client in crowd)


def wait_for_answers(crowd: list[Client], more: int) -> None:
    """Returns when so many more calls were answered."""
    until = answered(crowd) + more
    wait_for(lambda: answered(crowd) >= until, 60 + more / 20, f"{more} more answers")


def spend(number: int, port: int, callers: list[Caller], folder: Path) -> None:
    """Makes the calls that are left to those who have so many and no more.

    What killed gateways left open has come back to them by now.
    """
    client = Client(number, port, callers, random.Random(), folder)  # noqa: S311
    for caller in callers:
        while caller.refusal and client.make(caller, PLAIN) == PLAIN.status:
            pass
    client.hang_up()
