"""The role routes what comes in until told to stop, and stops within a second. How it survives a
kill: `test_recovery`.
"""

import threading
import time

from tailorbird.errors import NotReadyError
from tailorbird.events import SystemClock
from tailorbird.router import run_router
from tailorbird.stream import open_reader, routed_path


def wait_for(condition, seconds=10.0):
    """Poll until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def routed(stream):
    try:
        with open_reader(routed_path(stream.folder)) as reader:
            return reader.end() - 1
    except NotReadyError:  # the role is just making it
        return 0


def test_the_role_routes_what_comes_in_and_stops_when_told(stream):
    stop = threading.Event()
    role = threading.Thread(
        target=run_router, args=(stream.folder, stream.plan, SystemClock(), stop)
    )
    role.start()
    try:
        for number in range(3):
            stream.post(
                {"event_id": f"e{number}", "type": "view", "user_id": "u1"},
                producer=f"collector-{number % 2}",
            )
            wait_for(lambda expected=number + 1: routed(stream) == expected)
    finally:
        stop.set()
        role.join(timeout=1)
    assert not role.is_alive()
    assert stream.events("event_id") == ["e0", "e1", "e2"]
