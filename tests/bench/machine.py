"""What this machine is and what it has: cores and who gets which, versions, missing tools."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Cores:
    """Which core the measured process has, which a second one, and which everything else."""

    first: int
    second: int
    rest: set[int]

    @classmethod
    def of_this_machine(cls) -> Cores:
        """From four cores on nobody shares; below, the second process does, of one everybody."""
        first, *others = sorted(os.sched_getaffinity(0))
        if len(others) < 3:
            return cls(first, (others or [first])[0], set(others or [first]))
        return cls(first, others[0], set(others[1:]))


def missing_for_all() -> list[str]:
    """What nothing can be measured without, and how to get it."""
    tools = (("wrk", "apt install wrk"), ("nginx", "apt install nginx"))
    return [f"{tool} ({how})" for tool, how in tools if shutil.which(tool) is None]


@cache
def nginx_modules() -> Path:
    built = subprocess.run(["nginx", "-V"], capture_output=True, text=True, check=True).stderr
    found = re.search(r"--modules-path=(\S+)", built)
    return Path(found[1] if found else "/usr/lib/nginx/modules")


def facts() -> dict[str, str]:
    """What readers of figures must know, by name."""
    return {
        "Processor": _cpu_model(),
        "Kernel": platform.release(),
        "Python": platform.python_version(),
        "nginx": _version("nginx", "-v"),
        "wrk": _version("wrk", "-v"),
        "node": _version("node", "-v"),
    }


def _cpu_model() -> str:
    found = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _version(tool: str, flag: str) -> str:
    if shutil.which(tool) is None:
        return "–"
    said = subprocess.run([tool, flag], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+(?:\.\d+)?", said.stdout + said.stderr)
    return found[0] if found else "unknown"
