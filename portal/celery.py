"""The Celery application: one broker (Redis), tasks discovered in every app's `tasks.py`.

A message is never the only copy of anything: it says "go and look", and beat says so again.
"""

import os
from typing import Any

from celery import Celery
from celery.app.amqp import AMQP
from kombu import connection

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")

RETRY_SECONDS = 1


class Connection(connection.Connection):
    """Tries again every second, however long Redis has been away.

    Celery's worker waits ever longer, up to 30 seconds, and has no setting for that. Until it is
    back an empty Redis is not filled, and no call is admitted.
    """

    def ensure_connection(self, *args: Any, **options: Any) -> Any:
        often = {"interval_start": RETRY_SECONDS, "interval_step": 0, "interval_max": RETRY_SECONDS}
        return super().ensure_connection(*args, **often, **options)  # type: ignore[no-untyped-call]


class Broker(AMQP):
    Connection = Connection


app = Celery("keystile", amqp=Broker)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
