"""`manage.py check_counters`: compares counters with the books at once, as beat does every hour."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from gateway import counters
from keys import clock, records


class Command(BaseCommand):
    help = (
        "Compares the counters of quotas and credits with ledger, stream and open calls. "
        "A difference that the last comparison has seen, too, is corrected."
    )

    def handle(self, *_args: Any, **_options: Any) -> None:
        for partition in records.PARTITIONS:
            try:
                checked = counters.check(partition, clock.now())
            except counters.NotComparable as error:
                raise CommandError(f"Nothing was compared: {error}.") from error
            for word, found in (("differs", checked.sighted), ("corrected", checked.corrected)):
                for each in found:
                    self.stdout.write(
                        f"{word}: {each.counter} held {each.counted}, the books say {each.booked}"
                    )
            self.stdout.write(
                f"{checked.compared} counters compared, {len(checked.sighted)} differ, "
                f"{len(checked.corrected)} corrected."
            )
