"""Child processes that end with their parent, and their output as one readable stream.

Owns starting, listening, stopping and the parent-death signal. Decides nothing about which
processes there are or when they are started again: that is `portal.run.supervisor`'s plan.
"""

import asyncio
import contextlib
import ctypes
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, TextIO

PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)

ROLE_WIDTH = 9
COLOURS = (36, 32, 33, 35, 34, 96, 92, 93, 95, 94)  # ANSI foregrounds, one per role in turn


def die_with_parent(death_signal: signal.Signals) -> None:
    """Asks the kernel to send this process `death_signal` when its parent's thread ends."""
    if _libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def bound_to_parent(death_signal: signal.Signals) -> Callable[[], None]:
    """A `preexec_fn` for children started from the main thread.

    The signal follows the thread that forked, so a child of a worker thread would die with it.
    """
    parent = os.getpid()

    def prepare() -> None:
        die_with_parent(death_signal)
        if os.getppid() != parent:  # the parent ended before the request was made
            os._exit(1)

    return prepare


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing."


class Output:
    """Standard output, one event a line: time, role, text; colour only on a terminal."""

    def __init__(self, stream: TextIO, on_closed: Callable[[], None]) -> None:
        """`on_closed` is called once when nobody reads the stream any more."""
        self._stream: TextIO | None = stream
        self._on_closed = on_closed
        self._colours: dict[str, int] = {}
        self._coloured = stream.isatty() and not os.environ.get("NO_COLOR")

    def event(self, role: str, text: str, *continued: str) -> None:
        """Writes one event; `continued` lines (a traceback) stay under it, in one piece."""
        time = datetime.now().astimezone().strftime("%H:%M:%S")
        head = f"{role:<{ROLE_WIDTH}}"
        if self._coloured:
            colour = self._colours.setdefault(role, COLOURS[len(self._colours) % len(COLOURS)])
            head = f"\x1b[{colour}m{head}\x1b[0m"
        indent = " " * (len(time) + ROLE_WIDTH + 2)
        self.plain(f"{time} {head} {text}", *((indent + line).rstrip() for line in continued))

    def plain(self, *lines: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write("".join(line + "\n" for line in lines))
            self._stream.flush()
        except OSError:
            self._stream = None
            # The interpreter flushes sys.stdout once more at exit and would complain there.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self._on_closed()


def grouped(lines: Iterable[str]) -> list[list[str]]:
    """Lines as events: indented lines and a traceback's last line belong to the one before."""
    events: list[list[str]] = []
    in_traceback = False
    for line in lines:
        starts_traceback = line.startswith("Traceback (most recent call last)")
        continues = line.startswith((" ", "\t")) or not line or starts_traceback or in_traceback
        if starts_traceback:
            in_traceback = True
        elif not line.startswith((" ", "\t")):
            in_traceback = False
        if continues and events:
            events[-1].append(line)
        elif line:
            events.append([line])
    return events


class Child:
    """One process of ours: where its output goes, how it is stopped, what killed it.

    `start` may be called again after the process has ended.
    """

    def __init__(
        self,
        role: str,
        command: Sequence[str],
        *,
        environ: Mapping[str, str],
        folder: Path,
        descriptors: Sequence[int] = (),
        stop_signal: signal.Signals = signal.SIGTERM,
        death_signal: signal.Signals = signal.SIGKILL,
        chatter: Path | None = None,
        loud: re.Pattern[str] | None = None,
    ) -> None:
        """`descriptors` are inherited. With `chatter` every line goes to that file, and only
        those that match `loud` are shown, while `is_ready`."""
        self.role = role
        self.is_ready = False
        self.last_line = ""
        self._command = list(command)
        self._environ = dict(environ)
        self._folder = folder
        self._descriptors = list(descriptors)
        self._stop_signal = stop_signal
        self._death_signal = death_signal
        self._chatter = chatter
        self._loud = loud
        self._process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The running process, `None` while there is none."""
        process = self._process
        return process.pid if process and process.returncode is None else None

    async def start(self, output: Output) -> None:
        """Starts the process in a session of its own: a terminal's Ctrl-C reaches only us."""
        self.is_ready = False
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            cwd=self._folder,
            env=self._environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=self._descriptors,
            start_new_session=True,
            preexec_fn=bound_to_parent(self._death_signal),
        )
        assert self._process.stdout is not None  # noqa: S101 - asked for above
        self._listening = asyncio.create_task(self._listen(self._process.stdout, output))

    async def _listen(self, stream: asyncio.StreamReader, output: Output) -> None:
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(self._chatter.open("ab")) if self._chatter else None
            rest = b""
            # One write of a child (an event with its traceback) arrives as one chunk.
            while chunk := await stream.read(1 << 16):
                *lines, rest = (rest + chunk).split(b"\n")
                self._show(lines, log, output)
            if rest:
                self._show([rest], log, output)

    def _show(self, raw: list[bytes], log: IO[bytes] | None, output: Output) -> None:
        lines = [line.decode(errors="replace").rstrip() for line in raw]
        # Indented lines explain the one above them.
        said = [line for line in lines if line and not line[0].isspace()]
        self.last_line = said[-1] if said else self.last_line
        if log:
            with contextlib.suppress(OSError):  # a full disk must not stop the process it logs
                log.write(b"".join(line + b"\n" for line in raw))
                log.flush()
            if not (self.is_ready and self._loud):
                return
            lines = [line for line in lines if self._loud.search(line)]
        for first, *continued in grouped(lines):
            output.event(self.role, first, *continued)

    async def ended(self) -> str:
        """Waits for the end; says how it came: `ended with code 1`, `was killed by SIGKILL`."""
        assert self._process is not None and self._listening is not None  # noqa: S101, PT018
        code = await self._process.wait()
        # A grandchild may hold the pipe open, so its last lines are not waited for long.
        await asyncio.wait([self._listening], timeout=1)
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with code {code}"

    @property
    def succeeded(self) -> bool:
        return self._process is not None and self._process.returncode == 0

    async def stop(self, seconds: float) -> None:
        """Asks the process to end; after `seconds` kills it and everything in its session."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        self.is_ready = False
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(self._stop_signal)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), seconds)
            return
        self.kill()
        await process.wait()

    def kill(self) -> None:
        """Ends the process and everything in its session at once."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
