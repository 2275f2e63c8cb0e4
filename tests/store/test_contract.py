"""The contract of `store.protocol` on LMDB and on copies in Valkey, alone and in a cluster."""

from contextlib import contextmanager

import pytest
from tests.support.network.stores import BINARY, start_server

from tailorbird.store import CopiedStore, open_copies, open_store
from tailorbird.store.published import PublishedStore


class Copied:
    """Written through a store that publishes, read from what it published."""

    def __init__(self, published, copies):
        self._published, self._copies = published, copies

    def write(self, change):
        result = self._published.write(change)
        assert self._published.wait_until_copied(20), self._published.problem
        return result

    @contextmanager
    def snapshot(self):
        with self._copies.snapshot() as snapshot:
            yield snapshot


@pytest.fixture(
    params=[
        "lmdb",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("valkey", "valkey cluster")),
    ]
)
def store(request, tmp_path):
    local = open_store(tmp_path / "records", create=True)
    if request.param == "lmdb":
        yield local
        local.close()
        return
    if BINARY is None:
        pytest.skip("no valkey-server here (Debian: apt-get install valkey-server)")
    with start_server(tmp_path / "server", cluster="cluster" in request.param) as server:
        published = PublishedStore(local, open_copies(server.url, "test", timeout_s=5))
        assert published.wait_until_copied(20), published.problem
        copies = CopiedStore(open_copies(server.url, "test", timeout_s=5))
        yield Copied(published, copies)
        copies.close()
        published.close()


def put(store, *records):
    store.write(lambda transaction: transaction.put_many(records))


def test_many_records_come_in_the_order_asked_for_with_a_default_for_those_not_there(store):
    put(store, (b"a", b"11"), (b"b", b"22"))
    with store.snapshot() as snapshot:
        assert snapshot.get_many([b"b", b"x", b"a", b"b"], default=b"--") == b"22--1122"
        assert snapshot.get(b"x") is None


def test_values_of_any_length_come_with_their_lengths(store):
    put(store, (b"a", b"1"), (b"b", b"22"), (b"c", b""))
    with store.snapshot() as snapshot:
        assert snapshot.get_many_with_sizes([b"b", b"x", b"a", b"c", b"b"]) == (
            b"22122",
            [2, 0, 1, 0, 2],
        )


def test_a_scan_gives_what_begins_with_the_prefix_in_order(store):
    put(store, (b"b2", b"2"), (b"a9", b"0"), (b"b1", b"1"), (b"c", b"3"))
    with store.snapshot() as snapshot:
        assert list(snapshot.scan(b"b")) == [(b"b1", b"1"), (b"b2", b"2")]
        assert list(snapshot.scan(b"b", after=b"b1")) == [(b"b2", b"2")]
        assert list(snapshot.scan(b"b", after=b"b10")) == [(b"b2", b"2")]
        assert list(snapshot.scan(b"b", after=b"b2")) == []


def test_a_snapshot_does_not_see_what_is_written_after_it(store):
    put(store, (b"a", b"old"))
    with store.snapshot() as snapshot:
        put(store, (b"a", b"new"))
        assert snapshot.get(b"a") == b"old"
    with store.snapshot() as snapshot:
        assert snapshot.get(b"a") == b"new"


def test_a_change_that_fails_leaves_nothing(store):
    def change(transaction):
        transaction.put_many([(b"a", b"1")])
        assert transaction.get(b"a") == b"1"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.write(change)
    with store.snapshot() as snapshot:
        assert snapshot.get(b"a") is None


def test_a_record_that_is_deleted_is_gone_for_later_snapshots_only(store):
    put(store, (b"a", b"1"), (b"b", b"2"))
    with store.snapshot() as snapshot:
        store.write(lambda transaction: transaction.delete_many([b"a"]))
        assert snapshot.get(b"a") == b"1"
    with store.snapshot() as snapshot:
        assert snapshot.get(b"a") is None
        assert list(snapshot.scan(b"")) == [(b"b", b"2")]
        assert snapshot.get_many_with_sizes([b"a", b"b"]) == (b"2", [0, 1])


def test_keys_and_values_are_any_bytes(store):
    records = [(bytes([byte]) + b"*?[x]\\^-\r\n", bytes([byte, 0, 255])) for byte in range(1, 255)]
    put(store, *records)
    with store.snapshot() as snapshot:
        assert [snapshot.get(key) for key, _ in records] == [value for _, value in records]
        assert list(snapshot.scan(b"*")) == [
            record for record in records if record[0].startswith(b"*")
        ]
