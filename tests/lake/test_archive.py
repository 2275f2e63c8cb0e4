"""The archive gives back what was received, byte for byte, in bounded files."""

import pytest

from tailorbird.errors import DamageError
from tailorbird.events import SystemClock
from tailorbird.lake.files.archive import Archive
from tailorbird.stream import Block, open_reader, open_writer, raw_path


@pytest.fixture
def log(tmp_path):
    writer = open_writer(raw_path(tmp_path, "collector"), partition="collector")
    yield writer
    writer.close()


def open_archive(tmp_path, **options):
    return Archive(tmp_path / "archive", clock=SystemClock(), for_writing=True, **options)


def body(k):
    return Block(
        kind="body",
        rows=1 + k % 3,
        payload=bytes([k % 256, 0, 255]) * (50 + k),
        receipt=b'{"received_at": %d}' % k,
    )


def take_all(archive, reader):
    while archive.archive_next(reader, flush=True):
        pass


def test_blocks_come_back_as_they_were(tmp_path, log):
    blocks = [body(k) for k in range(200)]
    log.append(blocks)
    reader = open_reader(raw_path(tmp_path, "collector"))
    archive = open_archive(tmp_path, bytes_max=10_000)
    take_all(archive, reader)
    again = Archive(tmp_path / "archive")
    assert [stored.block for file in again.files for stored in again.read(file)] == blocks
    assert [stored.offset for file in again.files for stored in again.read(file)] == [
        s.offset for s in reader.read(0)
    ]
    assert again.positions() == {"collector": log.end()}
    assert len(again.files) > 3
    reader.close()


def test_files_are_bounded(tmp_path, log):
    log.append([Block(kind="body", rows=1, payload=bytes(1000)) for _ in range(100)])
    reader = open_reader(raw_path(tmp_path, "collector"))
    archive = open_archive(tmp_path, bytes_max=10_000)
    take_all(archive, reader)
    assert all(file.bytes <= 11_000 for file in archive.files)
    assert sum(file.rows for file in archive.files) == 100
    reader.close()


def test_a_full_file_is_closed_at_once(tmp_path, log):
    reader = open_reader(raw_path(tmp_path, "collector"))
    archive = open_archive(tmp_path, bytes_max=10_000)
    log.append([Block(kind="body", rows=1, payload=bytes(1000)) for _ in range(5)])
    assert archive.archive_next(reader) == 0
    log.append([Block(kind="body", rows=1, payload=bytes(1000)) for _ in range(10)])
    assert archive.archive_next(reader) >= 10
    reader.close()


def test_a_torn_manifest_line_is_written_again(tmp_path, log):
    log.append([body(k) for k in range(20)])
    reader = open_reader(raw_path(tmp_path, "collector"))
    take_all(open_archive(tmp_path), reader)
    manifest = tmp_path / "archive" / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-9])
    take_all(open_archive(tmp_path), reader)
    again = Archive(tmp_path / "archive")
    assert (
        sum(stored.block.rows for file in again.files for stored in again.read(file)) == log.end()
    )
    reader.close()


def test_a_changed_file_is_not_read(tmp_path, log):
    log.append([body(1)])
    reader = open_reader(raw_path(tmp_path, "collector"))
    archive = open_archive(tmp_path)
    take_all(archive, reader)
    path = archive.path / archive.files[0].file
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(DamageError, match="checksum"):
        list(archive.read(archive.files[0]))
    reader.close()


def test_a_log_that_was_pruned_before_it_was_archived_is_damage(tmp_path, log):
    log.append([body(1), body(2)])
    log.prune(log.end())
    log.append([body(3)])
    reader = open_reader(raw_path(tmp_path, "collector"))
    with pytest.raises(DamageError, match="begins at"):
        open_archive(tmp_path).archive_next(reader, flush=True)
    reader.close()
