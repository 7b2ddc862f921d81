"""The Celery application: one broker (Redis), tasks discovered in every app's `tasks.py`.

A message is never the only copy of anything: it says "go and look", and beat says so again.
"""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")

app = Celery("keystile")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
