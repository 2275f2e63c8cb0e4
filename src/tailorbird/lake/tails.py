"""Files that grow at the end, on either kind of storage: what is appended is there for good, or the
call raises.

A disk appends and syncs. Objects cannot be appended to, so there the end is one small object that
is put anew with each append, on condition that it is still the one that this writer put last; what
is full is copied beside it:

    ledger.jsonl                                  the end, below `END_BYTES`
    ledger.jsonl.closed/<first byte>-<end byte>   what came before, never changed

Of two writers the storage lets one through; the other learns of it at its next append
(`LockedError`) and writes no more. A reply that was lost is asked for: the end is read again, and
either it is what was put, or it is not.
"""

from pathlib import Path
from typing import Protocol

from tailorbird.errors import LockedError, StorageError
from tailorbird.lake import durable
from tailorbird.places import ObjectPath, Place, StaleError

END_BYTES = 256 << 10


class Tail(Protocol):
    """The content when it was opened, and appending to it."""

    data: bytes

    def append(self, data: bytes) -> None: ...
    def cut(self, data: bytes) -> None: ...

    def replace(self, data: bytes) -> None:
        """Put other content in the place of all, whole or not at all."""
        ...


def open_tail(path: Place) -> Tail:
    """The file at `path`; one that is not there is empty."""
    return _ObjectTail(path) if isinstance(path, ObjectPath) else _FileTail(path)


class _FileTail:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.data = path.read_bytes() if path.exists() else b""

    def append(self, data: bytes) -> None:
        durable.append(self._path, data)

    def cut(self, data: bytes) -> None:
        durable.replace(self._path, data)

    def replace(self, data: bytes) -> None:
        durable.replace(self._path, data)


class _ObjectTail:
    def __init__(self, path: ObjectPath) -> None:
        self._path = path
        with durable.disk_errors(path):
            self._end, self._tag = _tagged(path)  # before what is closed, which may grow meanwhile
            closed = _closed(path, self._end)
        if closed and self._end and closed[-1].startswith(self._end):
            self._end = b""  # it was closed, and not yet begun anew
        self._start = sum(map(len, closed))
        self.data = b"".join([*closed, self._end])

    def append(self, data: bytes) -> None:
        if self._end and len(self._end) + len(data) > END_BYTES:
            self._close()
        self._put(self._end + data)

    def cut(self, data: bytes) -> None:
        raise StorageError(
            "an object that was put is whole, and this one is not",
            where=str(self._path),
            fix="restore it from a copy",
        )

    def replace(self, data: bytes) -> None:
        with durable.disk_errors(self._path):
            closed = sorted(_folder(self._path).iterdir())
            if closed:  # the end says all of it first, and then what is closed does not count
                self._put(b"".join([*_closed(self._path, self._end), self._end]))
            for file in closed:
                file.unlink()
        self._start = 0
        self._put(data)

    def _close(self) -> None:
        end = self._start + len(self._end)
        durable.write_new(_folder(self._path) / f"{self._start:015d}-{end:015d}", self._end)
        self._start, self._end = end, b""

    def _put(self, content: bytes) -> None:
        with durable.disk_errors(self._path):
            try:
                self._tag = (
                    self._path.put_if(content, self._tag)
                    if self._tag
                    else self._path.put_new(content)
                )
            except OSError as error:
                found, tag = _tagged(self._path)
                if found != content:
                    if isinstance(error, StaleError | FileExistsError):
                        raise LockedError(
                            "another process writes to this lake by now; this one stops",
                            where=str(self._path),
                            fix="run one lake role",
                        ) from error
                    raise
                self._tag = tag
        self._end = content


def _folder(path: ObjectPath) -> ObjectPath:
    return path.with_name(path.name + ".closed")


def _tagged(path: ObjectPath) -> tuple[bytes, str]:
    try:
        return path.read_tagged()
    except FileNotFoundError:
        return b"", ""


def _closed(path: ObjectPath, end: bytes) -> list[bytes]:
    """What is closed, in order. A writer that was overtaken may have closed less than the one that
    overtook it: the longer counts.
    """
    spans: dict[int, int] = {}
    for file in _folder(path).iterdir():
        first, _, last = file.name.partition("-")
        spans[int(first)] = max(int(last), spans.get(int(first), 0))
    found: list[bytes] = []
    at = 0
    while at in spans:
        content = (_folder(path) / f"{at:015d}-{spans[at]:015d}").read_bytes()
        if end.startswith(content) and end != content:
            break
        found.append(content)
        at = spans[at]
    return found
