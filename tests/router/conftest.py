"""A folder of logs to post to, and to route: what the router's tests share."""

import pytest
from tests.support.network.brokers import yield_broker, yield_deleting_broker
from tests.support.router.stream import PLAN, Stream

servers = pytest.fixture(scope="module")(yield_broker)
deleting_servers = pytest.fixture(scope="module")(yield_deleting_broker)


@pytest.fixture
def stream(tmp_path):
    return Stream(tmp_path)


@pytest.fixture
def new_stream(tmp_path_factory):
    """Makes streams in folders of their own, for tests that need several."""
    return lambda plan=PLAN: Stream(tmp_path_factory.mktemp("stream"), plan)
