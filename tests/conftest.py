import os

import pytest

from keys import clock, records
from tests.dodo_trade import trade  # noqa: F401
from tests.doors import backend, call, customer, fast_door, on_sale  # noqa: F401
from tests.metered import at_dodo, at_stripe  # noqa: F401
from tests.shop import quiet_shop, shop  # noqa: F401
from tests.stripe_shop import stripe_shop  # noqa: F401

# The test process has read `tests.settings`; what it starts is the product and has its own.
os.environ["DJANGO_SETTINGS_MODULE"] = "portal.settings"


@pytest.fixture(autouse=True)
def quick_passwords(settings):
    """Real hashing takes a fifth of a second for each person that a test makes."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def redis_clean():
    """The real data-plane store, empty, as a synchronous client."""
    connection = records.connection()
    connection.flushdb()
    return connection


@pytest.fixture
def movable(settings):
    """The clock may be moved, and tasks are done where they are sent."""
    settings.CLOCK_CAN_MOVE = True
    settings.CELERY_TASK_ALWAYS_EAGER = True
    clock.forget()
    yield
    clock.forget()
