"""The archive: every body as it was received, in compressed files that only an erasure rewrites.

    archive/<partition>/<first row, 20 digits>.blocks.zst
        MessagePack: a list of [offset, kind, rows, receipt, payload]. In a bucket the name has part
        of the checksum before `.blocks`, and after an erasure a random token.
    archive/manifest.jsonl
        One line per file, chained as in `lake.files.hash_chain`.

A file is closed when it holds `bytes_max` of bodies or when its oldest body has waited for
`age_us`. Until then its bodies are safe in their log, which is not pruned before the manifest's
line is synced. The manifest is the archive's position.
"""

import hashlib
import logging
import re
import uuid
from collections.abc import Callable, Iterator

import msgspec
import pyarrow as pa

from tailorbird import faults
from tailorbird.errors import DamageError, StorageError
from tailorbird.events.clock import MINUTE, Clock
from tailorbird.lake.files import durable
from tailorbird.lake.files.hash_chain import HashChainedFile
from tailorbird.storage import storage_at
from tailorbird.storage_paths import StoragePath
from tailorbird.stream import Block, LogReader, StoredBlock

FILE_BYTES_MAX = 16 << 20
FILE_AGE_US = 1 * MINUTE

ORIGIN = "tailorbird archive 1"
log = logging.getLogger(__name__)

_PARTITION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")


class ArchiveFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the archive, as its line in the manifest describes it.

    Attributes:
        n: number of the line, from 0.
        first, end: rows of the partition; `end` is exclusive.
        bytes: of the bodies, before compression; `size` is that of the file.
        file: path below the archive.
    """

    n: int
    partition: str
    first: int
    end: int
    blocks: int
    rows: int
    bytes: int
    file: str
    size: int
    sha256: str
    written_at: int


_decode = msgspec.json.Decoder(ArchiveFile).decode
_encode = msgspec.json.Encoder().encode
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[tuple[int, str, int, bytes, bytes]]).decode


class Archive:
    """Writes bodies into files and their checksums into the manifest, and reads them back checked.

    Args:
        path: the folder; the writer creates it.
        for_writing: drop a torn last line of the manifest, whose file is written again.

    Raises:
        DamageError: a line of the manifest does not match its checksum.
    """

    def __init__(
        self,
        path: StoragePath,
        *,
        clock: Clock | None = None,
        for_writing: bool = False,
        bytes_max: int = FILE_BYTES_MAX,
        age_us: int = FILE_AGE_US,
    ) -> None:
        self.path = path
        self.files: list[ArchiveFile] = []
        self._end_by_partition: dict[str, int] = {}
        self._clock = clock
        self._bytes_max = bytes_max
        self._age_us = age_us
        self._waiting_since_by_partition: dict[str, int] = {}
        if for_writing:
            durable.make_folder(path)
        self._manifest = HashChainedFile(path / "manifest.jsonl", ORIGIN, for_writing=for_writing)
        for number, json_line in enumerate(self._manifest.json_lines):
            self._decode_line(number, json_line)
        self._manifest.json_lines.clear()

    def _decode_line(self, number: int, json_line: bytes) -> None:
        try:
            line = _decode(json_line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._manifest.corrupt_line_error(
                number, f"is not a line of a manifest: {error}"
            ) from error
        if line.n != number:
            raise self._manifest.corrupt_line_error(number, f"says that it is line {line.n}")
        self._add_line(line)

    def _add_line(self, line: ArchiveFile) -> None:
        self.files.append(line)
        self._end_by_partition[line.partition] = line.end

    def gaps(self) -> Iterator[tuple[str, int, int]]:
        """Yield the spans of rows that were lost before they were archived: partition, first row,
        and the row after the last one.
        """
        end_by_partition: dict[str, int] = {}
        for file in self.files:
            if file.first > (end := end_by_partition.get(file.partition, 0)):
                yield file.partition, end, file.first
            end_by_partition[file.partition] = file.end

    def positions(self) -> dict[str, int]:
        """Return for each partition the position after its last archived row."""
        return dict(self._end_by_partition)

    def archive_next(self, reader: LogReader, *, flush: bool = False, archived_end: int = 0) -> int:
        """Archive the next rows of a raw log if they fill a file or have waited long enough.

        Args:
            flush: archive them in any case.
            archived_end: the position up to which the log was archived before.

        Returns:
            The number of rows archived, at most those of one file.

        Raises:
            DamageError: the log was pruned, or archived before, and the archive has none of its
                files.
        """
        assert self._clock is not None
        start = self._end_by_partition.get(reader.partition)
        if start is None:
            start = self._first_row(reader, archived_end)
        if reader.end() <= start:
            self._waiting_since_by_partition.pop(reader.partition, None)
            return 0
        now = self._clock.now()
        waiting_since = self._waiting_since_by_partition[reader.partition] = min(
            now, self._waiting_since_by_partition.get(reader.partition, now)
        )  # The clock may have been set back.
        is_due = flush or now - waiting_since >= self._age_us
        blocks: list[StoredBlock] = []
        body_bytes = 0
        while body_bytes < self._bytes_max and (
            next_blocks := reader.read(start, bytes_max=self._bytes_max - body_bytes)
        ):
            blocks += next_blocks
            body_bytes += sum(len(stored_block.block.payload) for stored_block in next_blocks)
            start = next_blocks[-1].end
        if not blocks or not (is_due or body_bytes >= self._bytes_max):
            return 0
        self._write_file(reader.partition, blocks, body_bytes, now)
        self._waiting_since_by_partition.pop(reader.partition, None)
        return sum(stored_block.block.rows for stored_block in blocks)

    def _first_row(self, reader: LogReader, archived_end: int) -> int:
        """Return the first row to archive of a log without files, which may start after rows that
        were lost.
        """
        start = reader.start()
        if start > 0 and (archived_end or reader.has_pruned_rows()):
            raise DamageError(
                f"the log begins at {start}, but none of its rows are in the archive",
                where=f"{self.path / reader.partition}",
                fix="restore the archive from a copy",
            )
        if start > 0:
            log.critical(
                "%s: rows 0 to %d were lost before any of them was archived; what was routed "
                "of them is in the tables. "
                "The archive begins at %d",
                self.path / reader.partition,
                start - 1,
                start,
            )
        return start

    def _write_file(
        self, partition: str, blocks: list[StoredBlock], body_bytes: int, now: int
    ) -> None:
        if not _PARTITION.match(partition):
            raise StorageError(
                f"cannot archive a partition of the name {partition!r}", fix="rename the producer"
            )
        data = pack_blocks(blocks)
        sha256 = hashlib.sha256(data).hexdigest()
        # In a bucket another writer may still be active, so its file must have another name.
        name_suffix = f".{sha256[:12]}" if storage_at(self.path).is_remote else ""
        name = f"{partition}/{blocks[0].offset:020d}{name_suffix}.blocks.zst"
        path = self.path / name
        durable.make_folder(path.parent)
        if not name_suffix:
            path.unlink(missing_ok=True)  # A crash may have come before the manifest's line.
        durable.write_new(path, data)
        durable.sync_folder(path.parent)
        faults.fire_if_armed("archive.after_file")
        line = ArchiveFile(
            n=len(self.files),
            partition=partition,
            first=blocks[0].offset,
            end=blocks[-1].end,
            blocks=len(blocks),
            rows=sum(stored_block.block.rows for stored_block in blocks),
            bytes=body_bytes,
            file=name,
            size=len(data),
            sha256=sha256,
            written_at=now,
        )
        self._manifest.append(_encode(line))
        faults.fire_if_armed("archive.after_manifest")
        self._add_line(line)

    def unreferenced_files(self) -> list[StoragePath]:
        """Return the files without a line in the manifest, left by crashes.

        None can get a line any more, because the manifest has later rows.
        """
        named_files = {file.file for file in self.files}
        needless_files: list[StoragePath] = []
        for partition, end in self._end_by_partition.items():
            for path in (self.path / partition).iterdir():
                first_part = path.name.partition(".")[0]
                if (
                    f"{partition}/{path.name}" not in named_files
                    and first_part.isdigit()
                    and int(first_part) < end
                ):
                    needless_files.append(path)
        return needless_files

    @property
    def checksum(self) -> str:
        """The checksum of the entire manifest."""
        return self._manifest.checksum

    def rewrite(
        self,
        change: Callable[[ArchiveFile, StoredBlock], Block | None],
        progress: Callable[[int], None] = lambda file_count: None,
    ) -> int:
        """Rewrite the files in which `change` replaces a block, then the manifest.

        The manifest names the old files until it is replaced atomically; then they are deleted. A
        crash leaves files that no line names, which the next rewrite deletes.

        Returns:
            The number of files rewritten.
        """
        lines: list[ArchiveFile] = []
        rewritten_count = 0
        for file in self.files:
            blocks = list(self.read(file))
            new_blocks = [change(file, stored_block) for stored_block in blocks]
            if any(block is not None for block in new_blocks):
                pairs = zip(blocks, new_blocks, strict=True)
                file = self._write_rewritten(
                    file,
                    [old if new is None else StoredBlock(old.offset, new) for old, new in pairs],
                )
                rewritten_count += 1
            lines.append(file)
            progress(1)
        faults.fire_if_armed("erase.archive_files")
        if rewritten_count:
            self._manifest.replace(_encode(line) for line in lines)
            self.files = lines
        faults.fire_if_armed("erase.archive_manifest")
        named_files = {line.file for line in lines}
        stored_files: list[StoragePath] = list(self.path.glob("*/*.blocks.zst"))
        needless_files = [
            path for path in stored_files if f"{path.parent.name}/{path.name}" not in named_files
        ]
        for path in needless_files:
            with durable.translate_disk_errors(path):
                path.unlink()
        for folder in {path.parent for path in needless_files}:
            durable.sync_folder(folder)
        return rewritten_count

    def _write_rewritten(self, file: ArchiveFile, blocks: list[StoredBlock]) -> ArchiveFile:
        name = f"{file.partition}/{file.first:020d}.{uuid.uuid4().hex[:8]}.blocks.zst"
        data = pack_blocks(blocks)
        durable.write_new(self.path / name, data)
        durable.sync_folder((self.path / name).parent)
        body_bytes = sum(len(stored_block.block.payload) for stored_block in blocks)
        return msgspec.structs.replace(
            file,
            bytes=body_bytes,
            file=name,
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        )

    def read(self, file: ArchiveFile) -> Iterator[StoredBlock]:
        """Yield the blocks of a file after checking its checksum. Raises DamageError."""
        path = self.path / file.file
        fix = "restore it from a copy of the archive"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DamageError(
                f"an archived file cannot be read: {error.strerror}", where=str(path), fix=fix
            ) from error
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise DamageError(
                "an archived file does not match its checksum", where=str(path), fix=fix
            )
        with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
            entries = _unpack(stream.read())
        for offset, kind, rows, receipt, payload in entries:
            yield StoredBlock(offset, Block(kind=kind, rows=rows, payload=payload, receipt=receipt))


def pack_blocks(blocks: list[StoredBlock]) -> bytes:
    """Return the content of a file with these blocks."""
    entries = [
        [
            stored_block.offset,
            stored_block.block.kind,
            stored_block.block.rows,
            stored_block.block.receipt,
            stored_block.block.payload,
        ]
        for stored_block in blocks
    ]
    return _compress(_pack(entries))


def _compress(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()
