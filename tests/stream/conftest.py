"""A broker for the session, started when the first test asks for it."""

from collections.abc import Iterator

import pytest
from tests.stream.brokers import WHY_NOT, broker


@pytest.fixture(scope="session")
def kafka_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    with broker(tmp_path_factory.mktemp("broker")) as servers:
        yield servers
