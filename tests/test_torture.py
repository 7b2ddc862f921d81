"""`make torture`, shortened: kills at random under load, and the books agree to the unit."""

from __future__ import annotations

import subprocess
import sys

from tests.product import ROOT


def test_whatever_is_killed_every_call_is_in_the_ledger_once():
    command = [sys.executable, "-m", "tests.torture", "--calls=3000", "--kills=6"]

    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    # The seed is in the first line: `make torture CALLS=3000 KILLS=6 SEED=…` repeats the order.
    assert ran.returncode == 0, ran.stdout + ran.stderr
