"""The LMDB store: growth, one environment per process, forks, other processes."""

import os
import subprocess
import sys
import threading

import pytest

from tailorbird.errors import NotReadyError, StorageError
from tailorbird.store import embedded, open_store


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path / "records", create=True, map_bytes=1 << 20)
    yield opened
    opened.close()


def put(store, *records):
    store.write(lambda transaction: transaction.put_many(records))


def test_the_map_grows_when_it_is_full_and_the_change_is_run_again(store):
    put(store, *((b"%06d" % n, bytes(10_000)) for n in range(500)))  # 5 MB into a map of 1 MB
    with store.snapshot() as snapshot:
        assert len(list(snapshot.scan(b""))) == 500


def test_growing_waits_for_the_snapshots_of_this_process(store):
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with store.snapshot() as snapshot:
            entered.set()
            leave.wait(20)
            assert snapshot.get(b"000001") is None

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait(20)
    writer = threading.Thread(
        target=lambda: put(store, *((b"%06d" % n, bytes(10_000)) for n in range(500)))
    )
    writer.start()
    writer.join(0.2)
    assert writer.is_alive()
    leave.set()
    holder.join(20)
    writer.join(20)
    with store.snapshot() as snapshot:
        assert snapshot.get(b"000001") is not None


def test_a_store_opened_twice_is_one_environment_and_lives_until_both_are_closed(store):
    second = open_store(store.path)
    put(store, (b"a", b"1"))
    store.close()
    with second.snapshot() as snapshot:
        assert snapshot.get(b"a") == b"1"
    second.close()
    with pytest.raises(StorageError, match="the store is closed"), second.snapshot():
        pass


def test_there_must_be_one_to_open_unless_it_is_to_be_created(tmp_path):
    with pytest.raises(NotReadyError, match="no records yet"):
        open_store(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot open the store"):
        open_store(tmp_path / "file", create=True)


def test_a_store_from_before_a_fork_is_refused(store):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with store.snapshot():
                os.write(writer, b"opened")
        except StorageError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert b"opened before a fork" in os.read(reader, 1000)


def test_another_process_reads_on_after_the_map_has_grown(store):
    program = (
        "import sys, pathlib; from tailorbird.store import open_store\n"
        "store = open_store(pathlib.Path(sys.argv[1]), map_bytes=1 << 20)\n"
        "for _ in range(2):\n"
        "    with store.snapshot() as snapshot: print(len(list(snapshot.scan(b''))), flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", program, str(store.path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "0\n"
        put(store, *((b"%06d" % n, bytes(10_000)) for n in range(500)))
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "500\n"
        child.stdin.write("\n")


def test_a_dead_reader_does_not_hold_pages_back_for_ever(store, tmp_path, monkeypatch):
    code = """
import sys
from pathlib import Path
from tailorbird.store import embedded, open_store
with open_store(Path(sys.argv[1])).snapshot() as snapshot:
    snapshot.get(b"k0")
    print("reading", flush=True)
    sys.stdin.read()
"""

    def rewrite():
        for turn in range(10):
            store.write(
                lambda transaction, turn=turn: transaction.put_many(
                    [(b"k%d" % n, bytes([turn]) * 2_000) for n in range(20)]
                )
            )
        return store.size_bytes()

    rewrite()
    reader = subprocess.Popen(
        [sys.executable, "-c", code, str(store.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert reader.stdout.readline() == b"reading\n"
    reader.kill()
    reader.wait()
    rewritten = rewrite()
    assert rewrite() > rewritten, "its slot keeps every page that it might read"
    monkeypatch.setattr(embedded, "READER_CHECK_S", 0.0)
    settled = rewrite()
    assert rewrite() == settled
