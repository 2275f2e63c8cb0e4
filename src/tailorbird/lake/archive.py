"""The archive: every body as it was received, in compressed files that nothing of ours changes but
an erasure.

    archive/<partition>/<first row, 20 digits>.blocks.zst     MessagePack: list of [offset, kind, rows, receipt, payload]
                                                              (as an object: with part of its checksum before `.blocks`;
                                                              one that an erasure wrote anew: with a token there)
    archive/manifest.jsonl                                    one line a file, chained as `lake.chained` says

A file is closed when it holds `bytes_max` of bodies or when its oldest body has waited for
`age_us`; until then its bodies are safe in their log, which is not pruned before the manifest's
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
from tailorbird.lake import durable
from tailorbird.lake.chained import ChainedFile
from tailorbird.places import ObjectPath, Place
from tailorbird.stream import Block, LogReader, Stored

BYTES_MAX = 16 << 20
AGE_US = 1 * MINUTE

ORIGIN = "tailorbird archive 1"
log = logging.getLogger(__name__)

_PARTITION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")


class Archived(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the archive, as its manifest's line tells of it. `first` and `end` are rows of
    the partition.
    """

    n: int
    partition: str
    first: int
    end: int
    blocks: int
    rows: int
    bytes: int  # of the bodies
    file: str
    size: int
    sha256: str
    written_at: int


_decode = msgspec.json.Decoder(Archived).decode
_encode = msgspec.json.Encoder().encode
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[tuple[int, str, int, bytes, bytes]]).decode


class Archive:
    """Writes bodies into files and their checksums into the manifest; reads them back, checked.

    Args:
        path: the folder, made if it is not there.
        writer: drops a torn last line of the manifest; its file is written again.
    Raises:
        DamageError: a line of the manifest is not what was written.
    """

    def __init__(
        self,
        path: Place,
        *,
        clock: Clock | None = None,
        writer: bool = False,
        bytes_max: int = BYTES_MAX,
        age_us: int = AGE_US,
    ) -> None:
        self.path = path
        self.files: list[Archived] = []
        self._ends: dict[str, int] = {}
        self._clock = clock
        self._bytes_max = bytes_max
        self._age_us = age_us
        self._waiting_since: dict[str, int] = {}
        if writer:
            durable.make_folder(path)
        self._manifest = ChainedFile(path / "manifest.jsonl", ORIGIN, writer=writer)
        for number, body in enumerate(self._manifest.bodies):
            self._take(number, body)
        self._manifest.bodies.clear()

    def _take(self, number: int, body: bytes) -> None:
        try:
            line = _decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._manifest.damaged(number, f"is not a line of a manifest: {error}") from error
        if line.n != number:
            raise self._manifest.damaged(number, f"says that it is line {line.n}")
        self._keep(line)

    def _keep(self, line: Archived) -> None:
        self.files.append(line)
        self._ends[line.partition] = line.end

    def gaps(self) -> Iterator[tuple[str, int, int]]:
        """Rows that were lost before they were archived: partition, the first of them, and behind
        the last.
        """
        ends: dict[str, int] = {}
        for file in self.files:
            if file.first > (end := ends.get(file.partition, 0)):
                yield file.partition, end, file.first
            ends[file.partition] = file.end

    def positions(self) -> dict[str, int]:
        """For each partition the position behind its last archived row."""
        return dict(self._ends)

    def take(self, reader: LogReader, *, flush: bool = False, archived: int = 0) -> int:
        """Archive what stands in a raw log behind what was archived before, if it fills a file,
        waited long enough, or `flush`.

        Args:
            archived: up to where the log is said to be archived; it is refused if that was, and no
                file of it is here.
        Returns:
            The rows that were archived, at most one file's.
        Raises:
            DamageError: the archive lacks what is no longer in the log.
        """
        assert self._clock is not None
        start = self._ends.get(reader.partition)
        if start is None:
            start = self._begin(reader, archived)
        if reader.end() <= start:
            self._waiting_since.pop(reader.partition, None)
            return 0
        now = self._clock.now()
        since = self._waiting_since[reader.partition] = min(
            now, self._waiting_since.get(reader.partition, now)
        )  # a clock may be set back
        old = flush or now - since >= self._age_us
        blocks: list[Stored] = []
        size = 0
        while size < self._bytes_max and (
            more := reader.read(start, bytes_max=self._bytes_max - size)
        ):
            blocks += more
            size += sum(len(stored.block.payload) for stored in more)
            start = more[-1].end
        if not blocks or not (old or size >= self._bytes_max):
            return 0
        self._write(reader.partition, blocks, size, now)
        self._waiting_since.pop(reader.partition, None)
        return sum(stored.block.rows for stored in blocks)

    def _begin(self, reader: LogReader, archived: int) -> int:
        """From where a log is archived that has no file yet: its first row, also of one that was
        made behind a lost one.
        """
        start = reader.start()
        if start > 0 and (archived or reader.pruned()):
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

    def _write(self, partition: str, blocks: list[Stored], size: int, now: int) -> None:
        if not _PARTITION.match(partition):
            raise StorageError(
                f"cannot archive a partition of the name {partition!r}", fix="rename the producer"
            )
        data = packed(blocks)
        sha256 = hashlib.sha256(data).hexdigest()
        # Where another writer may be about, its file must have another name than ours.
        part = f".{sha256[:12]}" if isinstance(self.path, ObjectPath) else ""
        name = f"{partition}/{blocks[0].offset:020d}{part}.blocks.zst"
        path = self.path / name
        durable.make_folder(path.parent)
        if not part:
            path.unlink(missing_ok=True)  # of a try that died before its line was written
        durable.write_new(path, data)
        durable.sync_folder(path.parent)
        faults.at("archive.after_file")
        line = Archived(
            n=len(self.files),
            partition=partition,
            first=blocks[0].offset,
            end=blocks[-1].end,
            blocks=len(blocks),
            rows=sum(s.block.rows for s in blocks),
            bytes=size,
            file=name,
            size=len(data),
            sha256=sha256,
            written_at=now,
        )
        self._manifest.append(_encode(line))
        faults.at("archive.after_manifest")
        self._keep(line)

    def needless(self) -> list[Place]:
        """Files of tries that died before their line was written. None of them can get one any
        more: the chain is behind them.
        """
        named = {file.file for file in self.files}
        needless: list[Place] = []
        for partition, end in self._ends.items():
            for path in (self.path / partition).iterdir():
                first = path.name.partition(".")[0]
                if f"{partition}/{path.name}" not in named and first.isdigit() and int(first) < end:
                    needless.append(path)
        return needless

    @property
    def chain(self) -> str:
        """The checksum of the whole manifest."""
        return self._manifest.chain

    def rewrite(
        self,
        change: Callable[[Archived, Stored], Block | None],
        told: Callable[[int], None] = lambda done: None,
    ) -> int:
        """Write those files anew of which `change` gives a block in another's place, and then the
        manifest; how many files.

        Until the manifest is replaced, all at once, it names the old files; from then on these are
        needless and are deleted. So a crash leaves files that no line names, which the next
        rewriting deletes.
        """
        lines: list[Archived] = []
        count = 0
        for file in self.files:
            blocks = list(self.read(file))
            changed = [change(file, stored) for stored in blocks]
            if any(block is not None for block in changed):
                pairs = zip(blocks, changed, strict=True)
                file = self._write_anew(
                    file, [old if new is None else Stored(old.offset, new) for old, new in pairs]
                )
                count += 1
            lines.append(file)
            told(1)
        faults.at("erase.archive_files")
        if count:
            self._manifest.replace(_encode(line) for line in lines)
            self.files = lines
        faults.at("erase.archive_manifest")
        named = {line.file for line in lines}
        found: list[Place] = list(self.path.glob("*/*.blocks.zst"))
        needless = [path for path in found if f"{path.parent.name}/{path.name}" not in named]
        for path in needless:
            with durable.disk_errors(path):
                path.unlink()
        for folder in {path.parent for path in needless}:
            durable.sync_folder(folder)
        return count

    def _write_anew(self, file: Archived, blocks: list[Stored]) -> Archived:
        name = f"{file.partition}/{file.first:020d}.{uuid.uuid4().hex[:8]}.blocks.zst"
        data = packed(blocks)
        durable.write_new(self.path / name, data)
        durable.sync_folder((self.path / name).parent)
        size = sum(len(stored.block.payload) for stored in blocks)
        return msgspec.structs.replace(
            file, bytes=size, file=name, size=len(data), sha256=hashlib.sha256(data).hexdigest()
        )

    def read(self, file: Archived) -> Iterator[Stored]:
        """The blocks of a file, once its checksum was found to be right. Raises DamageError."""
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
            yield Stored(offset, Block(kind=kind, rows=rows, payload=payload, receipt=receipt))


def packed(blocks: list[Stored]) -> bytes:
    """The content of a file that holds these blocks."""
    return _compress(
        _pack(
            [
                [s.offset, s.block.kind, s.block.rows, s.block.receipt, s.block.payload]
                for s in blocks
            ]
        )
    )


def _compress(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()
