"""A broker for the session, started with the first test, and one that deletes records."""

import pytest
from tests.support.network.brokers import yield_broker, yield_deleting_broker

kafka_servers = pytest.fixture(scope="session")(yield_broker)
deleting_servers = pytest.fixture(scope="session")(yield_deleting_broker)
