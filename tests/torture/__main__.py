"""`make torture`: random kills under load on a whole installation, then the books.

Owns what is done to it and in which order. The blows are `tests.torture.blows`', the calls
`tests.torture.stage`'s, and what must hold afterwards `tests.torture.books`'.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import django

from tests import product, upstream
from tests.doubles import server as doubles
from tests.doubles.stripe import Stripe
from tests.torture import provider

GATEWAYS, CLIENTS = 2, 32
CALLS, KILLS = 20_000, 30


def main() -> int:
    parser = argparse.ArgumentParser(prog="make torture", description=__doc__)
    parser.add_argument("--calls", type=int, default=CALLS, help="answered 2xx at least")
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    parser.add_argument("--keep", type=Path, help="a new folder for logs and data, which stays")
    options = parser.parse_args()
    # Ended from outside, nothing that was started stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    dice = random.Random(options.seed)  # noqa: S311 - chance, not secrecy
    folder = options.keep or Path(tempfile.mkdtemp(prefix="keystile-torture-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # Both outlive their callers, who keep connections to them.
        with upstream.serving() as backend, doubles.serving(provider.moody(dice)) as stripe:
            variables = {
                "GATEWAY_PROCESSES": str(GATEWAYS),
                "STRIPE_SECRET_KEY": stripe.key,
                "STRIPE_API_BASE": stripe.url,
                "SHIPPING_SECONDS": str(provider.SHIPPING_SECONDS),
            }
            with product.running(folder / "data", **variables) as victim:
                os.environ |= {
                    **variables,
                    **json.loads((victim.data_dir / "secrets.json").read_text()),
                    "DATABASE_URL": victim.facts["database_url"],
                    "REDIS_URL": victim.facts["redis_url"],
                    "SITE_URL": victim.site,
                    "DATA_DIR": str(folder),
                    "KEYSTILE_DEMO": "1",
                    "PAYMENT_PROVIDER": "sandbox",
                    "LOG_LEVEL": "CRITICAL",
                    "DJANGO_SETTINGS_MODULE": "portal.settings",
                }
                django.setup()
                return _torture(Scene(victim, backend, stripe, folder, dice), options)
    except KeyboardInterrupt:
        return 130
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Scene:
    """Everything that runs, before anything is done to it, and the dice that decide what."""

    victim: product.Product
    backend: upstream.Upstream
    stripe: Stripe
    folder: Path
    dice: random.Random


def _torture(scene: Scene, options: argparse.Namespace) -> int:
    # These name models, which can't be imported before the settings are read.
    from tests.torture import blows, books, checks, clients, closing, stage
    from tests.torture.comparing import Comparing
    from tests.torture.reporter import Reporter

    say, dice, victim = sys.stdout.write, scene.dice, scene.victim
    say(f"{options.calls:,} calls, {CLIENTS} clients, {GATEWAYS} gateways, {options.kills} kills")
    say(f", --seed={options.seed}\n")
    plan = blows.plan(dice, options.kills)
    callers = stage.seed(scene.backend.url, options.calls)
    port = int(victim.facts["gateway"].rpartition(":")[2])
    logs = scene.folder / "clients"
    logs.mkdir()
    accounts = sorted({caller.account for caller in callers})
    scene.stripe.customers = {*map(provider.customer_of, accounts)}
    jobs = random.Random(dice.random())  # noqa: S311
    reporter = Reporter(victim.site, stage.reporting_token(), accounts, jobs)
    with (
        clients.calling(CLIENTS, port, callers, dice, logs) as crowd,
        Comparing() as comparing,
        reporter,
    ):
        struck: list[blows.Struck] = []
        for blow in plan:
            time.sleep(blow.after)
            struck.append(blows.strike(victim, blow))
            say(f"  {struck[-1].began - struck[0].began:6.1f} s  {blow}\n")
            sys.stdout.flush()
        clients.wait_for_answers(crowd, max(100, options.calls - clients.answered(crowd)))
    drained = closing.wait_for_ledger(victim)
    clients.spend(CLIENTS + 1, port, callers, logs)
    closing.wait_for_ledger(victim)
    reached = {event for each in scene.backend.requests for event in each.values("keystile-event")}
    comparisons = comparing.checks + closing.compare()
    unshipped = closing.ship_the_rest()
    closing.close_hours()
    run = books.Run(
        product=victim,
        callers=callers,
        logs=logs,
        reached=reached,
        struck=struck,
        reporter=reporter,
        comparisons=comparisons,
        drained=drained,
        unshipped=unshipped,
        provider=provider.counted(scene.stripe, accounts),
        violations=scene.stripe.violations,
    )
    report = checks.close(run)
    say(report.text())
    return 0 if report.holds else 1


if __name__ == "__main__":
    sys.exit(main())
