"""Reads that are asked a second time: when, of whom, how many, and which answer is believed."""

import os
import signal
import threading
import time
from contextlib import contextmanager

import pytest
from tests.support.network.stores import needs_valkey, start_server

from tailorbird.store import CopiedStore, open_copies, open_store
from tailorbird.store.hedge import READS_MIN, Hedge
from tailorbird.store.published import PublishedStore
from tailorbird.store.versions import CommitHead

pytestmark = needs_valkey


def publish(server, folder, count: int = 1):
    """A server with one record, written so many times."""
    published = PublishedStore(
        open_store(folder, create=True), open_copies(server.url, "test", timeout_s=5)
    )
    for number in range(count):
        published.write(
            lambda transaction, number=number: transaction.put_many([(b"a", str(number).encode())])
        )
        assert published.wait_until_copied(30), published.problem
    return published


def value(store) -> bytes | None:
    with store.snapshot() as snapshot:
        return snapshot.get(b"a")


def warmed(store, hedge: Hedge) -> None:
    for _ in range(READS_MIN):
        value(store)
    assert hedge.delay_s() is not None


@contextmanager
def standing_still(server, seconds: float):
    """The server answers nothing for so long."""
    os.kill(server.pid, signal.SIGSTOP)
    wake = threading.Timer(seconds, os.kill, (server.pid, signal.SIGCONT))
    wake.start()
    try:
        yield
    finally:
        wake.join()


@pytest.mark.slow
def test_a_replica_answers_where_the_server_stands_still(tmp_path):
    with (
        start_server(tmp_path / "one") as server,
        start_server(tmp_path / "two", "--replicaof", f"127.0.0.1 {server.port}") as replica,
    ):
        publish(server, tmp_path / "records").close()
        wait_for_copy(replica)
        hedge = Hedge(share=0.5)
        store = CopiedStore(
            open_copies(server.url, "test", timeout_s=5.0, hedge=hedge, replica=replica.url)
        )
        warmed(store, hedge)
        with store.snapshot() as snapshot, standing_still(server, 3.0):
            assert snapshot.get(b"a") == b"0"
        assert hedge.won_count == 1, "nobody waited for the server"
        assert value(store) == b"0", (
            "the connection whose answer was not waited for is not read by another"
        )


def test_a_replica_that_lags_is_not_believed(tmp_path):
    with start_server(tmp_path / "one") as server, start_server(tmp_path / "two") as stale:
        publish(stale, tmp_path / "old").close()  # another copying: its epoch is not ours
        publish(server, tmp_path / "records", count=3).close()
        hedge = Hedge(share=0.5)
        store = CopiedStore(
            open_copies(server.url, "test", timeout_s=5.0, hedge=hedge, replica=stale.url)
        )
        warmed(store, hedge)
        before = hedge.hedged_count
        with store.snapshot() as snapshot, standing_still(server, 0.3):
            assert snapshot.get(b"a") == b"2"
        assert hedge.hedged_count > before
        assert hedge.won_count == 0


def test_without_a_replica_it_is_asked_over_another_connection_within_its_share(tmp_path):
    with start_server(tmp_path / "one") as server:
        publish(server, tmp_path / "records").close()
        hedge = Hedge()
        copies = open_copies(server.url, "test", timeout_s=5.0, hedge=hedge)
        warmed(CopiedStore(copies), hedge)
        for _ in range(400):
            assert copies.head() == CommitHead(*astuple(copies.head()))
        assert hedge.hedged_count <= 0.05 * hedge.read_count + 10


def test_a_replica_that_is_gone_costs_nothing_but_the_question(tmp_path):
    with (
        start_server(tmp_path / "one") as server,
        start_server(tmp_path / "two", "--replicaof", f"127.0.0.1 {server.port}") as replica,
    ):
        publish(server, tmp_path / "records").close()
        hedge = Hedge(share=0.5)
        store = CopiedStore(
            open_copies(server.url, "test", timeout_s=5.0, hedge=hedge, replica=replica.url)
        )
        warmed(store, hedge)
        replica.kill()
        with store.snapshot() as snapshot, standing_still(server, 0.3):
            assert snapshot.get(b"a") == b"0"
        assert hedge.won_count == 0


def astuple(head):
    return head.epoch, head.sequence, head.current_at


def wait_for_copy(replica) -> None:
    until = time.monotonic() + 20
    while b"tb:test:@" not in replica.ask("KEYS tb:*"):
        assert time.monotonic() < until
        time.sleep(0.02)
