"""The product's settings, and the test process's own `flush` (`tests.management`)."""

from portal.settings import *  # noqa: F403
from portal.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests"]
# Else each test's client lists all static files, which takes longer than most requests.
WHITENOISE_AUTOREFRESH = True
