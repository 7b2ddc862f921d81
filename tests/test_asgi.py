import asyncio

import pytest
from asgiref.testing import ApplicationCommunicator
from django.core.asgi import get_asgi_application
from django.db import connection

from portal.asgi import application as site

SCOPE = {
    "type": "http",
    "method": "GET",
    "path": "/readyz",
    "raw_path": b"/readyz",
    "query_string": b"",
    "headers": [(b"host", b"localhost")],
}


def sessions() -> int:
    """How many connections the test's database has."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        (count,) = cursor.fetchone()
    return count


async def ask(application) -> dict:
    """The answer's head."""
    call = ApplicationCommunicator(application, SCOPE)
    await call.send_input({"type": "http.request", "body": b"", "more_body": False})
    head = await call.receive_output()
    await call.receive_output()
    await call.wait()
    return head


@pytest.mark.django_db(transaction=True)
def test_a_request_leaves_no_database_connection_behind():
    application = get_asgi_application()
    before = sessions()

    statuses = [asyncio.run(ask(application))["status"] for _ in range(3)]

    assert statuses == [200, 200, 200]
    assert sessions() == before


@pytest.mark.django_db(transaction=True)
def test_a_page_says_when_it_was_made():
    head = asyncio.run(ask(site))

    assert [name for name, _ in head["headers"]].count(b"date") == 1
