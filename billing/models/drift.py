"""Where our rows said other than the provider, and nobody had told us."""

from django.db import models

from billing.models.purchases import Subscription


class Drift(models.Model):
    """What one subscription differed in from what its provider has.

        seen → repaired;  seen → (gone: a webhook was on its way and has come)

    `billing.drift` makes the moves. With an `error` it can't be repaired, and staff must look.
    """

    subscription = models.ForeignKey(Subscription, models.CASCADE, related_name="drifts")
    seen_at = models.DateTimeField()
    looked_at = models.DateTimeField(help_text="The last time that it was still so.")
    repaired_at = models.DateTimeField(null=True, blank=True)
    differences = models.JSONField(default=list, help_text='[{"what", "ours", "theirs"}, …]')
    error = models.CharField(max_length=300, blank=True)
    announced_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-seen_at", "-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["subscription"],
                name="drift_one_open",
                condition=models.Q(repaired_at__isnull=True),
            )
        ]

    def __str__(self) -> str:
        return ", ".join(found["what"] for found in self.differences) or self.error
