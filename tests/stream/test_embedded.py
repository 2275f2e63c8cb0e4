"""Failures of a log in a file: kills at fault points, damaged pages, a full or failing disk."""

import os
import signal
import subprocess
import sys

import apsw
import pytest
from tests.faults.chaos import injection

from tailorbird.errors import (
    DamageError,
    InputError,
    LockedError,
    NotReadyError,
    StorageError,
    UsageError,
)
from tailorbird.stream import (
    Block,
    damaged_tail_files,
    open_reader,
    open_writer,
    raw_logs,
    raw_path,
    response_log_path,
    response_logs,
    routed_path,
    sqlite,
)

CHILD = """
import sys
from tailorbird.stream import Block, open_writer
writer = open_writer(sys.argv[1], partition="collector")
print("open", flush=True)
for number in range(int(sys.argv[2])):
    if number % 5 == 4:
        writer.prune(3 * (number // 2))
    with writer.transaction() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS mine(number INTEGER)")
        writer.append([Block("body", 2, b"%d" % number), Block("body", 1, b"x" * 1000)])
        connection.execute("INSERT INTO mine VALUES (?)", (number,))
    print(number, flush=True)
"""


def child(path, count, faults):
    """Run a writer that dies at the fault; return the acknowledged numbers and exit status."""
    command = [sys.executable, "-c", CHILD, str(path), str(count)]
    done = subprocess.run(
        command,
        env=os.environ | {"TAILORBIRD_FAULTS": faults},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return [int(line) for line in done.stdout.split()[1:]], done


@pytest.mark.parametrize(
    ("site", "hit"),
    [
        ("stream.before_append", 1),
        ("stream.after_append", 3),
        ("stream.before_commit", 3),
        ("stream.after_commit", 3),
        ("stream.before_prune_commit", 1),
        ("stream.after_append", 7),
    ],
)
def test_after_a_kill_everything_acknowledged_is_there_and_nothing_by_halves(tmp_path, site, hit):
    path = tmp_path / "raw-collector.db"
    acknowledged, done = child(path, 10, f"{site}=kill@{hit}")
    assert done.returncode == -signal.SIGKILL
    with open_writer(path, partition="collector") as writer, open_reader(path) as reader:
        start = reader.start()
        numbers = [int(one.block.payload) for one in reader.read(start) if one.block.rows == 2]
        assert reader.end() % 3 == 0
        assert numbers == list(range(start // 3, reader.end() // 3))
        assert reader.end() // 3 - len(acknowledged) in (
            0,
            1,
        )  # one more may be durable than was acknowledged
        if reader.end():
            assert [row[0] for row in writer.connection.execute("SELECT number FROM mine")] == list(
                range(reader.end() // 3)
            )
        assert writer.append([Block("body", 1, b"on")]) == reader.end() - 1


def test_a_kill_in_the_middle_of_a_checkpoint_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "raw-collector.db"
    for site in ("stream.before_checkpoint", "stream.after_checkpoint"):
        code = CHILD.replace('x" * 1000', 'x" * 3_000_000')
        command = [sys.executable, "-c", code, str(path), "6"]
        env = os.environ | {"TAILORBIRD_FAULTS": f"{site}=kill"}
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == -signal.SIGKILL
    with open_writer(path, partition="collector"), open_reader(path) as reader:
        blocks = reader.read(reader.start(), bytes_max=1 << 30)
    assert blocks
    assert all(len(one.block.payload) in (1, 3_000_000) for one in blocks)


def test_a_failed_commit_ends_the_writer_until_it_is_opened_again(tmp_path):
    code = """
import sys
from tailorbird.errors import StorageError
from tailorbird.stream import Block, open_writer
writer = open_writer(sys.argv[1], partition="collector")
writer.append([Block("body", 1, b"1")])
for _ in range(2):
    try:
        writer.append([Block("body", 1, b"2")])
    except StorageError as error:
        print(error.message)
writer.close()
with open_writer(sys.argv[1], partition="collector") as writer:
    print(writer.end())
"""
    for action, end in (
        ("stream.before_commit=raise@2", "1"),
        ("stream.after_commit=raise@2", "3"),
    ):
        command = [sys.executable, "-c", code, str(tmp_path / f"{end}.db")]
        done = subprocess.run(
            command,
            env=os.environ | {"TAILORBIRD_FAULTS": action},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        first, second, outcome = done.stdout.splitlines()
        assert first.startswith("writing failed")
        assert second.startswith("an earlier write failed and its outcome is unknown")
        assert outcome == {"1": "1", "3": "2"}[end]


def test_a_full_disk_is_told_and_what_was_acknowledged_stays(tmp_path):
    with open_writer(tmp_path / "a.db", partition="a") as writer:
        writer.append([Block("body", 1, b"kept")])
        pages = writer.connection.execute("PRAGMA page_count").get
        writer.connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(StorageError, match="the disk is full; nothing was written"):
            writer.append([Block("body", 1, b"x" * 100_000)])
        writer.connection.execute("PRAGMA max_page_count = 100000")
        assert writer.append([Block("body", 1, b"room again")]) == 1
        with open_reader(tmp_path / "a.db") as reader:
            assert [one.block.payload for one in reader.read(0)] == [b"kept", b"room again"]


@pytest.fixture
def full_at_checkpoints(monkeypatch):
    """Every commit is followed by a checkpoint, for which there is no room until the returned list
    is emptied.
    """
    checkpoint, full = sqlite.checkpoint, [True]

    def checkpoint_or_fail(connection, path, *, truncate=False):
        if full:
            raise apsw.FullError("database or disk is full")
        checkpoint(connection, path, truncate=truncate)

    monkeypatch.setattr(sqlite, "CHECKPOINT_BYTES", 0)
    monkeypatch.setattr(sqlite, "checkpoint", checkpoint_or_fail)
    return full


def test_a_disk_that_is_full_at_the_checkpoint_takes_nothing_back(
    tmp_path, full_at_checkpoints, caplog
):
    path = tmp_path / "a.db"
    with open_writer(path, partition="a") as writer:
        assert writer.append([Block("body", 3, b"committed")]) == 0
        assert "the disk is full; nothing is lost" in caplog.text
        assert writer.end() == 3
        for _ in range(2):  # what comes next is refused before anything of it is written
            with pytest.raises(StorageError, match="the disk is full; nothing was written"):
                writer.append([Block("body", 1, b"refused")])
        full_at_checkpoints.clear()
        assert writer.append([Block("body", 1, b"room again")]) == 3
    with open_writer(path, partition="a") as writer, open_reader(path) as reader:
        assert [(one.offset, one.block.payload) for one in reader.read(0)] == [
            (0, b"committed"),
            (3, b"room again"),
        ]
        assert writer.end() == 4


def test_a_checkpoint_that_is_tried_again_and_fails_otherwise_ends_the_writer(
    tmp_path, monkeypatch, full_at_checkpoints
):
    def fail(connection, path, *, truncate=False):
        raise apsw.IOError("disk I/O error")

    with open_writer(tmp_path / "a.db", partition="a") as writer:
        writer.append([Block("body", 3, b"committed")])
        full_at_checkpoints.clear()
        with monkeypatch.context() as patch:
            patch.setattr(sqlite, "checkpoint", fail)
            with pytest.raises(StorageError, match="disk I/O error"):
                writer.append([Block("body", 1, b"refused")])
        with pytest.raises(StorageError, match="an earlier write failed"):
            writer.append([Block("body", 1, b"refused")])


def test_a_full_disk_when_the_log_is_closed_loses_nothing(tmp_path, full_at_checkpoints):
    path = tmp_path / "a.db"
    with open_writer(path, partition="a") as writer:
        writer.append([Block("body", 3, b"committed")])
    full_at_checkpoints.clear()
    with open_writer(path, partition="a") as writer:
        assert writer.append([Block("body", 1, b"on")]) == 3


def test_a_checkpoint_that_fails_otherwise_ends_the_writer_but_keeps_the_commit(
    tmp_path, monkeypatch
):
    def fail(connection, path, *, truncate=False):
        raise apsw.IOError("disk I/O error")

    monkeypatch.setattr(sqlite, "CHECKPOINT_BYTES", 0)
    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "checkpoint", fail)
        writer = open_writer(tmp_path / "a.db", partition="a")
        with pytest.raises(StorageError, match="disk I/O error"):
            writer.append([Block("body", 3, b"committed")])
        assert writer.end() == 3
        with pytest.raises(StorageError, match="an earlier write failed"):
            writer.append([Block("body", 1, b"refused")])
        writer.close()
    with open_writer(tmp_path / "a.db", partition="a") as writer:
        assert writer.append([Block("body", 1, b"on")]) == 3


def test_after_a_checkpoint_fails_while_shrinking_nothing_is_written_until_the_log_is_reopened(
    tmp_path, monkeypatch
):
    tried = []

    def fail(connection, path, *, truncate=False):
        tried.append(path)
        raise apsw.IOError("disk I/O error")

    with monkeypatch.context() as patch:
        writer = open_writer(tmp_path / "a.db", partition="a")
        writer.append([Block("body", 3, b"pruned")])
        writer.prune(3)
        patch.setattr(sqlite, "checkpoint", fail)
        with pytest.raises(StorageError, match="disk I/O error"):
            writer.shrink()
        with pytest.raises(StorageError, match="an earlier write failed"):
            writer.append([Block("body", 1, b"refused")])
        writer.close()
    assert len(tried) == 1
    with open_writer(tmp_path / "a.db", partition="a") as writer:
        assert writer.append([Block("body", 1, b"on")]) == 3


@pytest.mark.skipif(bool(injection.WHY_NOT), reason=injection.WHY_NOT or "calls can be watched")
def test_what_a_writer_left_in_the_wal_is_written_anew_before_it_is_synced(tmp_path):
    """Its last sync may have failed: then the kernel would not write it again, and another sync
    would say that it had.
    """
    child(tmp_path / "a.db", 3, "stream.after_commit=kill@3")
    left = (tmp_path / "a.db-wal").read_bytes()
    code = (
        "import sys; from tailorbird.stream import open_writer; open_writer(sys.argv[1], "
        "partition='collector')"
    )
    command = [
        "strace",
        "-f",
        "-y",
        "-e",
        "trace=pwrite64,fsync,fdatasync",
        sys.executable,
        "-c",
        code,
        str(tmp_path / "a.db"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    calls = [line for line in done.stderr.splitlines() if "a.db-wal>" in line]
    rewritten = next(
        number
        for number, call in enumerate(calls)
        if call.endswith(f"{len(left)}, 0) = {len(left)}")
    )
    assert not any("sync(" in call for call in calls[:rewritten])
    assert "fsync(" in calls[rewritten + 1]
    assert (tmp_path / "a.db-wal").read_bytes() == left, "whoever reads meanwhile sees the same"


def filled(path, count=6):
    with open_writer(path, partition="collector") as writer:
        writer.append([Block("body", 2, f"payload {number}".encode()) for number in range(count)])


def overwrite(path, change, *bindings):
    connection = apsw.Connection(str(path))
    connection.execute(change, bindings)
    connection.close()


@pytest.mark.parametrize(
    "change", ["payload = x'00'", "receipt = x'00'", "kind = 'events'", "crc = crc + 1"]
)
def test_damage_in_the_middle_stops_readers_and_writer_and_names_the_offset(tmp_path, change):
    path = tmp_path / "raw-collector.db"
    filled(path)
    overwrite(path, f"UPDATE block SET {change} WHERE offset = 4")
    with (
        open_reader(path) as reader,
        pytest.raises(DamageError, match="block at offset 4 does not match its checksum"),
    ):
        reader.read(0)
    with pytest.raises(DamageError, match=r"raw-collector\.db: the block at offset 4"):
        open_writer(path, partition="collector")


def test_a_block_that_went_missing_breaks_the_chain(tmp_path):
    path = tmp_path / "raw-collector.db"
    filled(path)
    overwrite(path, "DELETE FROM block WHERE offset = 4")
    with open_reader(path) as reader, pytest.raises(DamageError, match="block at offset 6"):
        reader.read(0)


def test_a_damaged_tail_is_set_aside_and_its_offsets_are_not_given_again(tmp_path, caplog):
    path = tmp_path / "raw-collector.db"
    filled(path)
    overwrite(path, "UPDATE block SET payload = x'00' WHERE offset >= 8")
    with pytest.raises(DamageError, match="block at offset 8"):
        open_writer(path, partition="collector", on_damaged_tail="stop")
    with open_writer(path, partition="collector") as writer:
        assert [aside.name for aside in writer.damaged_tail_paths] == ["raw-collector.db.damaged-8"]
        assert writer.damaged_tail_paths[0].stat().st_size > 0
        assert damaged_tail_files(path) == writer.damaged_tail_paths
        [record] = caplog.records
        assert record.levelname == "CRITICAL"
        assert "the blocks at 8 to 12 do not match their checksums" in record.message
        assert "may hold events that were acknowledged" in record.message
        assert writer.append([Block("body", 1, b"on")]) == 12
    with open_reader(path) as reader:
        assert [one.offset for one in reader.read(0)] == [0, 2, 4, 6, 12]
        assert [one.offset for one in reader.read(10)] == [12]


def test_rows_that_were_read_and_are_gone_are_noticed(tmp_path):
    path = tmp_path / "raw-collector.db"
    filled(path)
    overwrite(path, "DELETE FROM block WHERE offset = 10")
    with (
        open_reader(path) as reader,
        pytest.raises(DamageError, match="the log ends at 10, but was written up to 12"),
    ):
        reader.read(12)


@pytest.mark.parametrize(
    "ask", [lambda log: log.read(0), lambda log: log.end(), lambda log: log.backlog_after(0)]
)
def test_last_blocks_that_the_disk_lost_are_told_though_nobody_had_read_them(tmp_path, ask):
    path = tmp_path / "routed.db"
    filled(path)
    overwrite(path, "DELETE FROM block WHERE offset >= 8")
    with (
        open_reader(path) as reader,
        pytest.raises(DamageError, match="the log ends at 8, but was written up to 12"),
    ):
        ask(reader)
    with pytest.raises(DamageError, match="the disk lost the rows between"):
        open_writer(path, partition="collector", on_damaged_tail="stop")


def test_a_door_goes_on_behind_last_blocks_that_are_gone_and_says_so(tmp_path, caplog):
    path = tmp_path / "raw-collector.db"
    filled(path)
    overwrite(path, "DELETE FROM block WHERE offset >= 8")
    with open_writer(path, partition="collector") as writer:
        assert writer.append([Block("body", 1, b"on")]) == 12
    [record] = caplog.records
    assert record.levelname == "CRITICAL"
    assert "8 to 12" in record.message
    with open_reader(path) as reader:
        assert [one.offset for one in reader.read(0)] == [0, 2, 4, 6, 12]
    with open_writer(path, partition="collector", on_damaged_tail="stop"):
        assert len(caplog.records) == 1, "it was told once, and is no news"


def test_a_stale_note_of_the_last_block_loses_nothing(tmp_path, caplog):
    path = tmp_path / "raw-collector.db"
    filled(path)
    overwrite(path, "UPDATE head SET last = 4, crc = (SELECT crc FROM block WHERE offset = 2)")
    with open_reader(path) as reader:
        assert reader.end() == 12
    with open_writer(path, partition="collector", on_damaged_tail="stop") as writer:
        assert writer.end() == 12
    assert "look at the disk" in caplog.text


def test_a_log_of_an_earlier_version_gets_its_note(tmp_path):
    path = tmp_path / "raw-collector.db"
    filled(path)
    overwrite(path, "DROP TABLE head")
    with open_reader(path) as reader:
        assert reader.end() == 12
    open_writer(path, partition="collector").close()
    overwrite(path, "DELETE FROM block WHERE offset >= 8")
    with open_reader(path) as reader, pytest.raises(DamageError, match="was written up to 12"):
        reader.end()


def test_flipped_bytes_never_come_out_as_data(tmp_path):
    path = tmp_path / "raw-collector.db"
    filled(path, 40)
    content = path.read_bytes()
    with open_reader(path) as reader:
        blocks = [one.block for one in reader.read(0)]
    for at in range(100, len(content), len(content) // 300):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        try:
            with open_reader(path) as reader:
                read_blocks = [one.block for one in reader.read(0)]
        except (DamageError, StorageError, InputError, NotReadyError):
            continue
        assert read_blocks == blocks


def test_a_file_that_is_no_log_or_anothers_is_refused(tmp_path):
    (tmp_path / "a.db").write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(DamageError, match="not a database"):
        open_writer(tmp_path / "a.db", partition="a")
    open_writer(tmp_path / "b.db", partition="b").close()
    with pytest.raises(InputError, match="this is the log of b, not of c"):
        open_writer(tmp_path / "b.db", partition="c")
    open_writer(tmp_path / "b.db", partition="b").close()  # a refusal lets go of the lock


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        open_writer(tmp_path / "file" / "a.db", partition="a")


def test_each_commit_is_synced_and_checkpoints_are_ours(tmp_path):
    with open_writer(tmp_path / "a.db", partition="a") as writer:
        settings = {
            name: writer.connection.execute(f"PRAGMA {name}").get
            for name in ("synchronous", "wal_autocheckpoint", "journal_mode")
        }
        assert settings == {"synchronous": 2, "wal_autocheckpoint": 0, "journal_mode": "wal"}


def test_the_wal_does_not_grow_without_bound(tmp_path):
    with (
        open_writer(tmp_path / "a.db", partition="a") as writer,
        open_reader(tmp_path / "a.db") as reader,
    ):
        for _ in range(40):
            writer.append([Block("body", 1, b"x" * 1_000_000)])
            reader.read(0, bytes_max=1)
        assert sqlite.wal_bytes(tmp_path / "a.db") < 2 * sqlite.CHECKPOINT_BYTES


def test_the_lock_dies_with_its_process(tmp_path):
    path = tmp_path / "raw-collector.db"
    code = CHILD + "\nsys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path), "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(LockedError, match=f"process {process.pid} is writing"):
            open_writer(path, partition="collector")
    finally:
        process.kill()
        process.wait()
    open_writer(path, partition="collector").close()


def test_files_are_found_by_their_producers(tmp_path):
    for path in (
        raw_path(tmp_path, "b"),
        raw_path(tmp_path, "a-1"),
        response_log_path(tmp_path, "b"),
        routed_path(tmp_path),
    ):
        open_writer(path, partition="x").close()
    assert list(raw_logs(tmp_path)) == ["a-1", "b"]
    assert list(response_logs(tmp_path)) == ["b"]
    with pytest.raises(UsageError):
        raw_path(tmp_path, "../b")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("blocks", "payload"), [(40, 200), (3, 23_000)], ids=["within a page", "over pages"]
)
def test_a_log_whose_readers_keep_pace_does_not_grow(tmp_path, blocks, payload):
    """The room of what was pruned is used again, whatever sizes the blocks have: the file is as
    large as the most that ever waited.
    """
    path = tmp_path / "raw.db"
    with open_writer(path, partition="collector") as writer:

        def run(steps, waiting):
            for step in steps:
                sizes = (payload + (step * 37 + number) % 700 for number in range(blocks))
                writer.append([Block("body", 10, os.urandom(size)) for size in sizes])
                if step % 7 == 0:
                    writer.prune(max(0, step - waiting) * 10 * blocks)
            return writer.connection.pragma("page_count")

        steady = run(range(60), 20)
        assert run(range(60, 180), 20) <= 1.1 * steady
        after_a_stall = run(range(180, 240), 60)
        assert after_a_stall > 1.5 * steady
        assert run(range(240, 360), 20) <= 1.1 * after_a_stall
