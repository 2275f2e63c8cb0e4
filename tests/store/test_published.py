"""Copies in Valkey under faults: lost, behind, half written, written by two, on a server that must
not be used.
"""

import socket
import threading
import time
from contextlib import closing

import pytest
from tests.support.network.stores import needs_valkey, start_server

from tailorbird.errors import ConfigError, DamageError, NotReadyError, StorageError
from tailorbird.store import CopiedStore, CopyTarget, open_copies, open_store
from tailorbird.store.protocol import SnapshotExpiredError
from tailorbird.store.published import PublishedStore
from tailorbird.store.versions import Change, CommitHead, encode_versions, version_at

pytestmark = needs_valkey


@pytest.fixture
def server(tmp_path):
    with start_server(tmp_path / "server") as started:
        yield started


@pytest.fixture
def local(tmp_path):
    return open_store(tmp_path / "records", create=True)


def copies(server, name="test"):
    return open_copies(server.url, name, timeout_s=5)


def put(store, *records):
    store.write(lambda transaction: transaction.put_many(records))


def settled(published):
    assert published.wait_until_copied(30), published.problem
    return published


def everything(store):
    with store.snapshot() as snapshot:
        return dict(snapshot.scan(b""))


def test_what_was_there_before_the_first_publisher_is_copied_and_what_is_skipped_is_not(
    server, local
):
    put(local, (b"a", b"1"), (b"c1", b"x"))
    published = settled(PublishedStore(local, copies(server), skipped_prefixes=(b"c",)))
    put(published, (b"b", b"2"), (b"c2", b"y"))
    settled(published)
    assert everything(CopiedStore(copies(server))) == {b"a": b"1", b"b": b"2"}
    assert everything(published) == {b"a": b"1", b"b": b"2", b"c1": b"x", b"c2": b"y"}
    published.close()


def test_a_reader_sees_none_of_a_commit_that_is_half_written(server, local):
    remote = copies(server)
    published = settled(PublishedStore(local, remote))
    put(published, (b"a", b"old"), (b"gone", b"here"))
    settled(published)
    written, go_on = threading.Event(), threading.Event()
    set_head = remote.set_head

    def delay_head(head):
        written.set()
        go_on.wait(20)
        set_head(head)

    remote.set_head = delay_head
    published.write(
        lambda transaction: [
            transaction.put_many([(b"a", b"new"), (b"b", b"new")]),
            transaction.delete_many([b"gone"]),
        ]
    )
    assert written.wait(20)
    reader = CopiedStore(copies(server))
    assert everything(reader) == {b"a": b"old", b"gone": b"here"}
    go_on.set()
    settled(published)
    assert everything(reader) == {b"a": b"new", b"b": b"new"}
    published.close()


def test_a_snapshot_whose_record_was_written_twice_says_so(server, local):
    published = settled(PublishedStore(local, copies(server)))
    put(published, (b"a", b"0"))
    settled(published)
    with CopiedStore(copies(server)).snapshot() as snapshot:
        for value in (b"1", b"2"):
            put(published, (b"a", value))
            settled(published)
        with pytest.raises(SnapshotExpiredError, match="written again"):
            snapshot.get(b"a")
    published.close()


def test_a_publisher_that_comes_back_copies_only_what_it_missed(server, local, tmp_path):
    published = settled(PublishedStore(local, copies(server)))
    put(published, *((b"%04d" % n, b"old") for n in range(3_000)))
    settled(published)
    first = copies(server).head()
    remote = copies(server)
    published._stop()  # as if the server could not be reached
    put(published, (b"0001", b"new"), (b"x", b"new"))
    published.close()
    counted = []
    publish = remote.publish
    remote.publish = lambda changes, *rest: [counted.extend(changes), publish(changes, *rest)]
    again = settled(PublishedStore(open_store(tmp_path / "records"), remote))
    assert sorted(one.key for one in counted) == [b"0001", b"x"]
    head = copies(server).head()
    assert (head.epoch, head.sequence) == (first.epoch, first.sequence + 1)
    with CopiedStore(copies(server)).snapshot() as snapshot:
        assert snapshot.get_many([b"0001", b"x", b"0002"], default=b"") == b"newnewold"
    again.close()


@pytest.mark.parametrize("loss", ["FLUSHALL", "kill"])
def test_lost_copies_are_told_to_readers_and_written_anew(server, local, loss):
    published = settled(PublishedStore(local, copies(server)))
    put(published, *((b"%04d" % n, b"%d" % n) for n in range(2_500)))
    settled(published)
    if loss == "kill":
        server.kill()
        with pytest.raises(StorageError, match="fix: is the server up"):
            everything(CopiedStore(copies(server)))
        put(published, (b"meanwhile", b"1"))
        assert not published.wait_until_copied(0.1)
        server.start()
    else:
        server.ask("FLUSHALL")
        with pytest.raises(NotReadyError, match="no records have been published"):
            everything(CopiedStore(copies(server)))
        put(published, (b"meanwhile", b"1"))
    settled(published)
    records = everything(CopiedStore(copies(server)))
    assert len(records) == 2_501
    assert records == everything(published)
    published.close()


def test_only_one_publishes_under_a_name_and_the_next_takes_over_when_it_ends(
    server, local, tmp_path
):
    first = settled(PublishedStore(local, copies(server)))
    other = open_store(tmp_path / "other", create=True)
    put(other, (b"other", b"1"))
    second = PublishedStore(other, copies(server))
    assert not second.wait_until_copied(0.5)
    assert "another process publishes under this name" in second.problem
    put(first, (b"a", b"1"))
    settled(first)
    assert everything(CopiedStore(copies(server))) == {b"a": b"1"}
    first.close()
    settled(second)
    assert everything(CopiedStore(copies(server))) == {b"other": b"1"}
    second.close()


def test_names_do_not_mix(server, local, tmp_path):
    one = settled(PublishedStore(local, copies(server, "one")))
    two = settled(PublishedStore(open_store(tmp_path / "two", create=True), copies(server, "two")))
    put(one, (b"a", b"1"))
    put(two, (b"a", b"2"))
    settled(one), settled(two)
    two.republish()
    assert [everything(CopiedStore(copies(server, name))) for name in ("one", "two")] == [
        {b"a": b"1"},
        {b"a": b"2"},
    ]
    one.close(), two.close()


def test_republishing_tells_its_progress(server, local):
    published = settled(PublishedStore(local, copies(server)))
    put(published, *((b"%04d" % n, b"") for n in range(2_500)))
    progress = []
    assert published.republish(progress.append) == 2_500
    assert progress[-1] == 2_500
    assert progress == sorted(progress)
    settled(published)
    assert len(everything(CopiedStore(copies(server)))) == 2_500
    published.close()


def test_a_server_that_evicts_is_refused(tmp_path, local):
    with start_server(
        tmp_path / "evicting", "--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"
    ) as server:
        published = PublishedStore(local, copies(server))
        assert not published.wait_until_copied(0.5)
        assert "allkeys-lru, which drops records in silence" in published.problem
        published.close()


def test_a_full_server_stops_the_copies_and_not_the_store(tmp_path, local):
    with start_server(
        tmp_path / "full", "--maxmemory", "3mb", "--maxmemory-policy", "noeviction"
    ) as server:
        published = settled(PublishedStore(local, copies(server)))
        put(published, *((b"%04d" % n, bytes(10_000)) for n in range(500)))
        assert not published.wait_until_copied(1)
        assert "command not allowed when used memory" in published.problem
        assert len(everything(published)) == 500
        server.ask("CONFIG SET maxmemory 100mb")
        settled(published)
        assert everything(CopiedStore(copies(server))) == everything(published)
        published.close()


def test_a_wrong_password_is_told_without_it(tmp_path):
    with start_server(tmp_path / "closed", "--requirepass", "right") as server:
        url = server.url.replace("//", "//:wrong-secret@")
        with pytest.raises(StorageError) as error:
            open_copies(url, "test", timeout_s=5).head()
        assert "wrong-secret" not in str(error.value)
        assert (
            open_copies(server.url.replace("//", "//:right@"), "test", timeout_s=5).head() is None
        )


@pytest.mark.parametrize("url", ["http://localhost:1", "valkey://localhost:port", "localhost"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ConfigError, match=r"store\.url"):
        open_copies(url, "test")


def test_foreign_and_cut_records_are_never_taken_for_ours():
    stored = encode_versions(Change(b"k", b"value", b"old", True), 7, 5, 3)
    assert version_at(stored, CommitHead(7, 5)) == b"value"
    assert version_at(stored, CommitHead(7, 4)) == b"old"
    for head in (CommitHead(7, 2), CommitHead(8, 5)):
        with pytest.raises(SnapshotExpiredError):
            version_at(stored, head)
    for cut in range(len(stored)):
        with pytest.raises(DamageError, match="record"):
            version_at(stored[:cut], CommitHead(7, 5))


def test_a_cluster_that_is_not_there_stops_the_copies_and_not_the_store(local):
    free = socket.socket()
    free.bind(("127.0.0.1", 0))
    with closing(
        PublishedStore(
            local,
            open_copies(
                f"valkey+cluster://127.0.0.1:{free.getsockname()[1]}", "test", timeout_s=0.2
            ),
        )
    ) as store:
        store.write(lambda transaction: transaction.put_many([(b"a", b"1")]))
        until = time.monotonic() + 30
        while not store.problem and time.monotonic() < until:
            time.sleep(0.01)
        assert "127.0.0.1" in store.problem
        with store.snapshot() as snapshot:
            assert snapshot.get(b"a") == b"1"
    free.close()


def test_whatever_goes_wrong_is_told_and_the_copies_go_on_afterwards(
    server, local, monkeypatch, caplog
):
    copied = copies(server)
    wrong, claim = [True], copied.claim
    monkeypatch.setattr(copied, "claim", lambda *given: 1 // 0 if wrong[0] else claim(*given))
    with closing(PublishedStore(local, copied)) as store:
        store.write(lambda transaction: transaction.put_many([(b"a", b"1")]))
        assert not store.wait_until_copied(0.2)
        assert "division" in store.problem
        assert "copies are not renewed" in caplog.text
        wrong[0] = False
        assert store.wait_until_copied(30), store.problem


def test_a_head_tells_when_it_was_last_the_newest_also_while_nothing_is_written(server, local):
    moment = [1_000.0]
    published = settled(PublishedStore(local, copies(server), now=lambda: moment[0]))
    assert copies(server).head().current_at == 1_000_000_000
    moment[0] = 1_060.0
    until = time.monotonic() + 20
    while copies(server).head().current_at != 1_060_000_000:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert published.status().at == 1_060_000_000
    server.kill()
    put(published, (b"a", b"1"), (b"b", b"2"))
    moment[0] = 1_090.0
    while not published.problem:
        assert time.monotonic() < until
        time.sleep(0.05)
    status = published.status()
    assert (status.at, status.commits, status.records, bool(status.problem)) == (
        1_060_000_000,
        1,
        2,
        True,
    )
    published.close()


@pytest.mark.slow
def test_a_cluster_is_pruned_of_a_schema_that_nobody_publishes(tmp_path, local):
    with start_server(tmp_path / "cluster", cluster=True) as server:
        at = CopyTarget(server.url, "shop")
        published = PublishedStore(local, at.open("0" * 12, timeout_s=5))
        put(published, *((b"%d" % n, b"x") for n in range(1_500)))
        settled(published)
        assert at.prune([]) == {}
        published.close()
        assert at.prune(["0" * 12]) == {}
        assert at.prune([]) == {"0" * 12: 1_500}
        part = f"{'0' * 12}.part-1-of-3"  # of a worker among several
        published = PublishedStore(
            open_store(tmp_path / "part", create=True), at.open(part, timeout_s=5)
        )
        put(published, (b"a", b"x"))
        settled(published).close()
        assert at.prune([part]) == {}
        assert at.prune(["0" * 12]) == {part: 1}
        assert b"keys=" not in server.ask("INFO keyspace")
