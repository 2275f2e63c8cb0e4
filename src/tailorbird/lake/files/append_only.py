"""Append-only files on either storage: an append is durable or raises.

On a disk it is an append and a sync. Objects cannot be appended to. So the tail is one small object
that each append replaces by compare-and-swap, and full tails are copied into closed parts:

    ledger.jsonl                                  the tail, below `TAIL_BYTES_MAX`
    ledger.jsonl.closed/<first byte>-<end byte>   earlier content, never changed

Of two writers the storage lets one through; the next append of the other raises LockedError. After
a lost reply the tail is read again to see whether it was written.
"""

from pathlib import Path
from typing import Protocol

from tailorbird.errors import LockedError, StorageError
from tailorbird.lake.files import durable
from tailorbird.storage import storage_at
from tailorbird.storage_paths import ObjectPath, StaleError, StoragePath

TAIL_BYTES_MAX = 256 << 10


class AppendOnlyFile(Protocol):
    """An append-only file: its content at the time of opening, and `append`."""

    data: bytes

    def append(self, data: bytes) -> None: ...

    def truncate(self, data: bytes) -> None:
        """Drop a torn end, so that only `data` is left."""
        ...

    def replace(self, data: bytes) -> None:
        """Replace the content atomically."""
        ...


def open_append_only(path: StoragePath) -> AppendOnlyFile:
    """Open the file at `path`; an absent file is empty."""
    storage = storage_at(path)
    if storage.conditional_object is not None:
        return _ObjectFile(storage.conditional_object)
    return _LocalFile(storage.local_path)


class _LocalFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.data = path.read_bytes() if path.exists() else b""

    def append(self, data: bytes) -> None:
        durable.append(self._path, data)

    def truncate(self, data: bytes) -> None:
        durable.replace(self._path, data)

    def replace(self, data: bytes) -> None:
        durable.replace(self._path, data)


class _ObjectFile:
    def __init__(self, path: ObjectPath) -> None:
        self._path = path
        with durable.translate_disk_errors(path):
            # Read the tail first, because the closed parts may grow meanwhile.
            self._tail, self._etag = _read_tagged(path)
            closed_parts = _closed_contents(path, self._tail)
        if closed_parts and self._tail and closed_parts[-1].startswith(self._tail):
            self._tail = b""  # It was closed, and its replacement was not written yet.
        self._tail_start = sum(map(len, closed_parts))
        self.data = b"".join([*closed_parts, self._tail])

    def append(self, data: bytes) -> None:
        if self._tail and len(self._tail) + len(data) > TAIL_BYTES_MAX:
            self._close_tail()
        self._put_tail(self._tail + data)

    def truncate(self, data: bytes) -> None:
        raise StorageError(
            "a stored object is complete, and this one is not",
            where=str(self._path),
            fix="restore it from a copy",
        )

    def replace(self, data: bytes) -> None:
        with durable.translate_disk_errors(self._path):
            closed_parts = sorted(_closed_folder(self._path).iterdir())
            if closed_parts:  # First put everything into the tail, which then overrides the parts.
                self._put_tail(b"".join([*_closed_contents(self._path, self._tail), self._tail]))
            for file in closed_parts:
                file.unlink()
        self._tail_start = 0
        self._put_tail(data)

    def _close_tail(self) -> None:
        end = self._tail_start + len(self._tail)
        durable.write_new(
            _closed_folder(self._path) / f"{self._tail_start:015d}-{end:015d}", self._tail
        )
        self._tail_start = end
        self._tail = b""

    def _put_tail(self, content: bytes) -> None:
        with durable.translate_disk_errors(self._path):
            try:
                self._etag = (
                    self._path.put_if(content, self._etag)
                    if self._etag
                    else self._path.put_new(content)
                )
            except OSError as error:
                stored_content, etag = _read_tagged(self._path)
                if stored_content != content:
                    if isinstance(error, StaleError | FileExistsError):
                        raise LockedError(
                            "another process writes to this lake by now; this one stops",
                            where=str(self._path),
                            fix="run one lake role",
                        ) from error
                    raise
                self._etag = etag
        self._tail = content


def _closed_folder(path: ObjectPath) -> ObjectPath:
    return path.with_name(path.name + ".closed")


def _read_tagged(path: ObjectPath) -> tuple[bytes, str]:
    """Return the content and the ETag of an object; both are empty if it is absent."""
    try:
        return path.read_tagged()
    except FileNotFoundError:
        return b"", ""


def _closed_contents(path: ObjectPath, tail: bytes) -> list[bytes]:
    """Return the closed parts in order.

    A writer that was overtaken may have closed a shorter part than its successor did. The longer
    one counts.
    """
    end_by_start: dict[int, int] = {}
    for file in _closed_folder(path).iterdir():
        start, _, end_digits = file.name.partition("-")
        end_by_start[int(start)] = max(int(end_digits), end_by_start.get(int(start), 0))
    contents: list[bytes] = []
    position = 0
    while position in end_by_start:
        content = (
            _closed_folder(path) / f"{position:015d}-{end_by_start[position]:015d}"
        ).read_bytes()
        if tail.startswith(content) and tail != content:
            break
        contents.append(content)
        position = end_by_start[position]
    return contents
