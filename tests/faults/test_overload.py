"""The door at several times what it can take: it refuses what it has no room for and says when to
come again, loses nothing that it took, and goes on as before when it is over. Small; with figures,
`make chaos` ("overload").
"""

import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.chaos.overloaded import (
    BOUND_MB,
    Ledger,
    ask_ms,
    closed,
    load,
    memory_mb,
    recovery_s,
    slow_senders,
)
from tests.faults.overload import ROWS, name_in
from tests.serving.test_server import Server

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
    made = Server(tmp_path / "data", bodies_bytes_max=BODIES_BYTES)
    yield made
    made.kill()


def port_of(server: Server) -> int:
    return int(server.url.rpartition(":")[2])


def in_log(server: Server) -> list[str]:
    """The bodies in the raw log that are as a sender sent them, by their names."""
    found: list[str] = []
    with open_reader(raw_path(server.data / "stream", "serve-1")) as reader:
        at = reader.start()
        while blocks := reader.read(at):
            at = blocks[-1].end
            found += [
                name
                for stored in blocks
                if (name := name_in(stored.block.payload)) and stored.block.rows == ROWS
            ]
    return found


def test_at_ten_times_its_capacity_it_refuses_early_loses_nothing_and_recovers(
    server: Server, tmp_path: Path
) -> None:
    port, ledger = port_of(server), Ledger()
    before = load(port, tmp_path, ledger, "all it can", 1, 1.0)
    assert set(before.statuses) == {"200"}, "without overload nothing is refused"
    usual_mb = memory_mb(server.process.pid)
    usual_ms = statistics.median(ask_ms(port) for _ in range(20))
    refused = False
    for run in range(
        2, 8
    ):  # on a busy machine the sender may not come to send more than there is room for
        over = load(
            port, tmp_path, ledger, "overload", run, 0.6, rate=10 * before.acked_per_s / ROWS
        )
        assert set(over.statuses) <= {"200", "429", "503"}
        assert over.without_retry_after == 0
        assert over.unanswered == 0
        assert over.acked_per_s > 0.2 * before.acked_per_s, (
            "the sender takes its part of the machine, but the door goes on"
        )
        if refused := bool(over.statuses.keys() & {"429", "503"}):
            break
    assert refused, "more came than there was room for"
    assert memory_mb(server.process.pid) < usual_mb + BOUND_MB
    recovery_s(port, within_ms=max(50.0, 10 * usual_ms))
    found = in_log(server)
    assert len(found) == len(set(found))
    assert set(found) == ledger.bodies, (
        "what was refused for want of room is not there, and all that was acknowledged is"
    )


def test_a_thousand_slow_senders_leave_others_working_and_are_closed(
    server: Server, tmp_path: Path
) -> None:
    port = port_of(server)
    usual = sorted(ask_ms(port) for _ in range(100))
    peers = slow_senders(port, 1_000)
    meanwhile = sorted(ask_ms(port) for _ in range(100))
    assert meanwhile[95] < max(100.0, 10 * usual[95])
    told = load(port, tmp_path, Ledger(), "beside them", 1, 0.5)
    assert set(told.statuses) == {"200"}
    assert closed(peers, 30) == 1_000, "who does not bring the body in time is closed"
