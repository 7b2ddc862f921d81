"""`manage.py publish`: makes the data plane ready at a start, without waiting for beat."""

from typing import Any

from django.core.management.base import BaseCommand

from gateway import partitions, refill, routes
from keys import clock, publish, records


class Command(BaseCommand):
    help = "Brings keys, entitlements, routes and counters to Redis where they are missing."

    def handle(self, *_args: Any, **_options: Any) -> None:
        now = clock.now()
        partitions.make_ahead(now)
        for partition in records.PARTITIONS:
            refill.refill(partition, now)
        routes.republish()
        publish.lagging(now)
        self.stdout.write("The gateway is ready.")
