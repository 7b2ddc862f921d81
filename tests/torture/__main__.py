"""`make torture`: random kills under load on a whole installation, then the books.

Owns what is done to it and for how long. What must hold afterwards is `tests.torture.books`'.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import django

from portal.run.data_folder import SECRETS
from tests import product

GATEWAYS = 2


def main() -> int:
    parser = argparse.ArgumentParser(prog="make torture", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    options = parser.parse_args()
    # Ended from outside, nothing that was started stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    secrets = {name: draw() for name, draw in SECRETS.items()}
    folder = Path(tempfile.mkdtemp(prefix="keystile-torture-"))
    variables = {**secrets, "GATEWAY_PROCESSES": str(GATEWAYS)}
    try:
        with product.running(folder / "data", **variables) as victim:
            os.environ |= {
                **secrets,
                "DATABASE_URL": victim.facts["database_url"],
                "REDIS_URL": victim.facts["redis_url"],
                "SITE_URL": victim.site,
                "DATA_DIR": str(folder),
                "KEYSTILE_DEMO": "1",
                "PAYMENT_PROVIDER": "sandbox",
                "LOG_LEVEL": "ERROR",
                "DJANGO_SETTINGS_MODULE": "portal.settings",
            }
            django.setup()
            return _torture(victim, options.seconds, options.seed)
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _torture(victim: product.Product, seconds: float, seed: int) -> int:
    # These name models, which can't be imported before the settings are read.
    from tests import installation, upstream
    from tests.torture import books, kills

    sys.stdout.write(f"{seconds:g} seconds of kills under load, --seed={seed}\n")
    dice = random.Random(seed)  # noqa: S311 - chance, not secrecy
    with upstream.serving() as backend:
        customer = installation.seed(backend.url)
        port = int(victim.facts["gateway"].rpartition(":")[2])
        target = "/gateway/demo/pause?seconds=0.01"
        with installation.Load(port, customer["secret"], target) as calling:
            calling.wait_for(200)
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(dice.uniform(0.3, 3))
                kills.strike(victim, dice)
            calling.wait_for(200, seconds=60)
        return books.close(victim, calling, customer["account"], kills.counted)


if __name__ == "__main__":
    sys.exit(main())
