import pytest

from keys import records
from tests.shop import shop  # noqa: F401


@pytest.fixture
def redis_clean():
    """The real data-plane store, empty, as a synchronous client."""
    connection = records.connection()
    connection.flushdb()
    return connection
