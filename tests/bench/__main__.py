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
    missing = machine.missing_for_all()
    if missing and os.environ.get("ONLY") != SCALE:
        sys.stderr.write(f"Nothing can be measured without {' and '.join(missing)}.\n")
        return 1
    # Ended from outside, nothing that was started stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cores = machine.Cores.of_this_machine()
    # A ledger that is only loaded to be asked need not outlive a power cut.
    durable = os.environ.get("ONLY") != SCALE
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="session-", dir=CACHE))
    try:
        # Everything but the contestants: the client, the backend and the stores.
        with processes.pinned(cores.rest), Services(folder / "stores", durable=durable) as services:
            return _measure(folder, services, cores)
    except KeyboardInterrupt:
        return 130
    except StartError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(folder: Path, services: Services, cores: machine.Cores) -> int:
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
    # These name models, which can't be imported before the settings are read.
    from django.core.management import call_command

    from tests.bench import checks, report, scale, session

    if os.environ.get("ONLY") == SCALE:
        call_command("migrate", verbosity=0)
        return scale.run(os.environ.get("SCALE_ROWS") or scale.DEFAULT_ROWS)
    plan = session.Plan.from_environ(os.environ)
    call_command("migrate", verbosity=0)
    try:
        results = session.run(plan, folder, CACHE, cores)
    except checks.DoesLess as less:
        sys.stderr.write(f"{less}\n")
        return 1
    return report.publish(results, plan, cores, ROOT / "docs" / "benchmarks.md")


if __name__ == "__main__":
    sys.exit(main())
