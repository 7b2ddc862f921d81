"""Tickets order the fetches of a provider's state: a slow older one never overwrites a newer.

Take a ticket, then fetch, then apply what was fetched only if its ticket is higher than the
one applied last (`applied_ticket` of the row, compared under its lock).
"""

from django.db import connection


def take() -> int:
    """The next ticket; never given out before, also not by another process."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval('billing_ticket')")
        (ticket,) = cursor.fetchone()
    return int(ticket)
