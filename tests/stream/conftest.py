"""A broker for the session, started with the first test, and one that deletes records."""

import pytest
from tests.support.network.brokers import started, started_deleting

kafka_servers = pytest.fixture(scope="session")(started)
deleting_servers = pytest.fixture(scope="session")(started_deleting)
