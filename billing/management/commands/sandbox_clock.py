"""`manage.py sandbox_clock --days 30`: plays the demo's time ahead, as the sandbox's page does."""

import time
from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing import rehearsal
from keys import clock


class Command(BaseCommand):
    help = "Moves the demo's clock ahead by days or hours, with all that falls due on the way."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--days", type=float, default=0)
        parser.add_argument("--hours", type=float, default=0)

    def handle(self, *_: Any, days: float, hours: float, **__: Any) -> None:
        try:
            until = rehearsal.set_out(timedelta(days=days, hours=hours))
        except clock.CannotMove:
            raise CommandError(
                "The clock moves only where the sandbox sells and CLOCK_CAN_MOVE=1."
            ) from None
        except ValueError as error:
            raise CommandError(str(error)) from None
        while not rehearsal.travel(budget_seconds=2):
            journey = rehearsal.under_way()
            if journey is not None:
                self.stdout.write(f"{journey.now:%Y-%m-%d %H:%M}, {journey.share:.0%} of the way")
            time.sleep(0.1)  # a worker may be on the way, too
        self.stdout.write(f"It is {max(until, clock.exactly()):%Y-%m-%d %H:%M:%S} UTC.")
