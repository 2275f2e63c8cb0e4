"""The collector at several times its capacity, small; with figures, `make chaos` ("overload").

It refuses what it has no room for and says when to retry, loses nothing that it accepted, and
recovers.
"""

import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.chaos.overloaded import (
    BOUND_MB,
    Ledger,
    count_closed,
    load,
    measure_response_ms,
    memory_mb,
    recovery_s,
    slow_senders,
)
from tests.support.overload import ROWS_PER_BODY, find_name
from tests.support.serving.server import Server

from tailorbird.stream import open_reader, raw_path

BODIES_BYTES = (
    12 << 20
    # room for a hundred bodies, so that half a second of overload fills it; `make chaos` has all of
    # 64 MiB
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process in /proc"),
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server_ = Server(tmp_path / "data", bodies_bytes_max=BODIES_BYTES)
    yield server_
    server_.kill()


def port_of(server: Server) -> int:
    return int(server.url.rpartition(":")[2])


def read_bodies(server: Server) -> list[str]:
    """Return the names of bodies that are in the raw log exactly as sent."""
    bodies: list[str] = []
    with open_reader(raw_path(server.data / "stream", "serve-1")) as reader:
        offset = reader.start()
        while blocks := reader.read(offset):
            offset = blocks[-1].end
            bodies += [
                name
                for stored in blocks
                if (name := find_name(stored.block.payload)) and stored.block.rows == ROWS_PER_BODY
            ]
    return bodies


def test_at_ten_times_its_capacity_it_refuses_early_loses_nothing_and_recovers(
    server: Server, tmp_path: Path
) -> None:
    port, ledger = port_of(server), Ledger()
    before = load(port, tmp_path, ledger, "all it can", 1, 1.0)
    assert set(before.statuses) == {"200"}, "without overload nothing is refused"
    usual_mb = memory_mb(server.process.pid)
    usual_ms = statistics.median(measure_response_ms(port) for _ in range(20))
    refused = False
    for run in range(
        2, 8
    ):  # on a busy machine the sender may not come to send more than there is room for
        phase = load(
            port,
            tmp_path,
            ledger,
            "overload",
            run,
            0.6,
            rate=10 * before.acked_per_s / ROWS_PER_BODY,
        )
        assert set(phase.statuses) <= {"200", "429", "503"}
        assert phase.without_retry_after == 0
        assert phase.unanswered == 0
        assert phase.acked_per_s > 0.2 * before.acked_per_s, (
            "the sender takes its part of the machine, but the collector goes on"
        )
        if refused := bool(phase.statuses.keys() & {"429", "503"}):
            break
    assert refused, "more came than there was room for"
    assert memory_mb(server.process.pid) < usual_mb + BOUND_MB
    recovery_s(port, limit_ms=max(50.0, 10 * usual_ms))
    bodies = read_bodies(server)
    assert len(bodies) == len(set(bodies))
    assert set(bodies) == ledger.bodies, (
        "what was refused for want of room is not there, and all that was acknowledged is"
    )


def test_a_thousand_slow_senders_leave_others_working_and_are_closed(
    server: Server, tmp_path: Path
) -> None:
    port = port_of(server)
    usual = sorted(measure_response_ms(port) for _ in range(100))
    peers = slow_senders(port, 1_000)
    meanwhile = sorted(measure_response_ms(port) for _ in range(100))
    assert meanwhile[95] < max(100.0, 10 * usual[95])
    phase = load(port, tmp_path, Ledger(), "beside them", 1, 0.5)
    assert set(phase.statuses) == {"200"}
    assert count_closed(peers, 30) == 1_000, "who does not bring the body in time is closed"
