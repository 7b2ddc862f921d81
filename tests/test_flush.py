"""What one test wrote is gone before the next one, as `tests.management` empties the database."""

import threading
from collections.abc import Callable

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connections, transaction

from portal.models import User
from tests.factories import make_account, make_plans, make_user
from tests.ledger_world import DAY, HOUR, close, month, subscribe, tell, use

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_clean")]

MARCH, APRIL = month(3), month(4)


def flush() -> None:
    call_command("flush", verbosity=0, interactive=False)


def in_a_thread(work: Callable[[], None]) -> threading.Thread:
    """Does it on a connection of its own."""

    def run() -> None:
        work()
        connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def filled() -> set[str]:
    """Labels of the models that have rows."""
    models = apps.get_models(include_auto_created=True)
    return {model._meta.label for model in models if model._default_manager.exists()}


def test_nothing_is_left_but_what_follows_from_the_models():
    given = filled()
    account = make_account()
    subscription = subscribe(account, make_plans()["basic"], MARCH)
    use(account, MARCH + DAY)
    tell(subscription, APRIL)
    close(APRIL + 2 * HOUR)
    assert {"billing.PlanVersion", "billing.InvoiceLine", "gateway.UsageEvent"} < filled()

    flush()

    assert filled() == given == {"auth.Permission", "contenttypes.ContentType"}


def test_a_thread_that_is_still_writing_is_waited_for():
    wrote, may_commit = threading.Event(), threading.Event()

    def write() -> None:
        with transaction.atomic():
            make_user()
            wrote.set()
            assert may_commit.wait(5)

    writer = in_a_thread(write)
    assert wrote.wait(5)
    flusher = in_a_thread(flush)
    flusher.join(0.1)
    waited = flusher.is_alive()
    may_commit.set()
    writer.join()
    flusher.join()

    assert waited
    assert not User.objects.exists()
