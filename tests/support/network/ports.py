"""Ports for the servers that tests start, which nobody else takes before the server does."""

import os
import socket
from collections.abc import Iterator
from functools import cache

# The kernel gives clients ports from 32,768 on: one of those may be taken between the question and
# the start of a server. A node of a Valkey cluster also takes the port 10,000 above its own.
FIRST_PORT, PORT_COUNT = 10_000, 10_000


def free_port() -> int:
    """Return a port that is free, not returned before, and whose fellow 10,000 above is free
    too.
    """
    for port in _ports():
        if _is_free(port) and _is_free(port + PORT_COUNT):
            return port
    raise AssertionError(f"no free port from {FIRST_PORT} to {FIRST_PORT + PORT_COUNT}")


@cache
def _ports() -> Iterator[int]:
    """Yield each port once; parallel test processes start far apart from each other."""
    worker_number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    begin = worker_number * PORT_COUNT // 4 + os.getpid() * 13
    return (FIRST_PORT + (begin + n) % PORT_COUNT for n in range(PORT_COUNT))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
