"""How far a demo's time has been moved ahead."""

from django.db import models


class ClockShift(models.Model):
    """One row, where the clock was ever moved; see `keys.clock`."""

    ONLY = 1

    id = models.SmallIntegerField(primary_key=True, default=ONLY)
    seconds = models.PositiveBigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.seconds:,} seconds ahead"
