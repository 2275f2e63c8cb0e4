"""Ports for the servers that tests start, which nobody else takes before the server does."""

import os
import socket
from collections.abc import Iterator
from functools import cache

# The kernel gives clients ports from 32,768 on: one of those may be taken between the question and
# the start of a server. A node of a Valkey cluster also takes the port 10,000 above its own.
FIRST, PORTS = 10_000, 10_000


def free_port() -> int:
    """A port that nobody listens on and that this process has not been given before, whose fellow
    10,000 above it is free too.
    """
    for port in _ports():
        if _free(port) and _free(port + PORTS):
            return port
    raise AssertionError(f"no free port from {FIRST} to {FIRST + PORTS}")


@cache
def _ports() -> Iterator[int]:
    """Each port once. Processes that test side by side begin far apart: at a quarter each, and by
    chance of their number within it.
    """
    beside = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    begin = beside * PORTS // 4 + os.getpid() * 13
    return (FIRST + (begin + n) % PORTS for n in range(PORTS))


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
