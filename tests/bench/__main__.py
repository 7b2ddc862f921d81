"""`make bench`: the gateway against its peers, on durable stores of its own."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import django

from portal.run.data_folder import SECRETS, StartError
from portal.run.embedded import Services
from tests.bench import machine, processes

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "var" / "bench"
SCALE = "scale"
"""As ONLY: no contest but the dashboard's questions (tests/bench/scale.py)."""


def main() -> int:
    is_contest = os.environ.get("ONLY") != SCALE
    missing = machine.missing_for_all()
    if missing and is_contest:
        sys.stderr.write(f"Nothing can be measured without {' and '.join(missing)}.\n")
        return 1
    # Ended from outside, nothing that was started stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cores = machine.Cores.of_this_machine()
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="session-", dir=CACHE))
    try:
        if not is_contest:
            # A ledger that is only loaded to be asked need not outlive a power cut.
            with Services(folder / "stores", durable=False) as services:
                return _ask(folder, services)
        # Everything but the contestants: the client, the backend and the stores.
        with processes.pinned(cores.rest), Services(folder / "stores", durable=True) as services:
            return _measure(folder, services, cores)
    except KeyboardInterrupt:
        return 130
    except StartError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# What is imported within names models, which can't be done before the settings are read.


def _measure(folder: Path, services: Services, cores: machine.Cores) -> int:
    _set_up(folder, services)
    from tests.bench import checks, report, session

    plan = session.Plan.from_environ(os.environ)
    try:
        results = session.run(plan, folder, CACHE, cores)
    except checks.DoesLess as less:
        sys.stderr.write(f"{less}\n")
        return 1
    return report.publish(results, plan, cores, ROOT / "docs" / "benchmarks.md")


def _ask(folder: Path, services: Services) -> int:
    _set_up(folder, services)
    from tests.bench import scale

    return scale.run(os.environ.get("SCALE_ROWS") or scale.DEFAULT_ROWS)


def _set_up(folder: Path, services: Services) -> None:
    os.environ |= {
        **{name: draw() for name, draw in SECRETS.items()},
        "DATABASE_URL": services.database_url,
        "REDIS_URL": services.redis_url,
        "SITE_URL": "http://localhost:8000",
        "DATA_DIR": str(folder),
        "KEYSTILE_DEMO": "1",
        "PAYMENT_PROVIDER": "sandbox",
        "LOG_LEVEL": "WARNING",
        "DJANGO_SETTINGS_MODULE": "portal.settings",
    }
    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)


if __name__ == "__main__":
    sys.exit(main())
