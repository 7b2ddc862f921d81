import pytest

from keys import records


@pytest.fixture
def redis_clean():
    """The real data-plane store, empty, as a synchronous client."""
    connection = records.connection()
    connection.flushdb()
    return connection
