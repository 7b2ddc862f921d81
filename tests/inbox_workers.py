"""Workers of the inbox that may be killed at any moment: processes of their own, quickly made.

`python -m tests.inbox_workers` sets Django up once and forks a worker for each line it is given: a
time, at which that worker processes what waits. It answers with the worker's id, and with `done`
when the worker has found nothing more.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection


class Workers:
    """The parent's side."""

    def __init__(self, process: subprocess.Popen[str]):
        self._process = process

    def start(self, now: datetime) -> int:
        """A worker that goes by this time; its id."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{now.isoformat()}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def wait(self) -> bool:
        """Until the worker has ended; whether it came to its end by itself."""
        assert self._process.stdout
        return self._process.stdout.readline() == "done\n"

    def kill(self, pid: int) -> None:
        with suppress(ProcessLookupError):  # it was quicker
            os.kill(pid, signal.SIGKILL)


@contextmanager
def workers() -> Iterator[Workers]:
    """With the database that the test has now."""
    name = connection.settings_dict["NAME"]
    environment = os.environ | {"TEST_DATABASE_NAME": name, "SITE_URL": settings.SITE_URL}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.inbox_workers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        yield Workers(process)
    finally:
        assert process.stdin
        process.stdin.close()
        process.wait(timeout=20)


def _work(now: datetime) -> None:
    from billing import inbox

    while True:
        later = now + timedelta(seconds=6)
        waiting = list(inbox.waiting(later).order_by("?").values_list("pk", flat=True))
        if not waiting:
            break
        for event_id in waiting:
            with suppress(Exception):  # noted in its row: it is tried again later
                inbox.process(event_id, later)


def main() -> None:
    import django

    django.setup()
    settings.DATABASES["default"]["NAME"] = os.environ["TEST_DATABASE_NAME"]
    connection.settings_dict["NAME"] = os.environ["TEST_DATABASE_NAME"]
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _work(datetime.fromisoformat(line.strip()))
            os._exit(0)
        _say(str(pid))
        _, status = os.waitpid(pid, 0)
        _say("done" if status == 0 else "killed")


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    main()
