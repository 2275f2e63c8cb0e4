"""Finds syncs that were believed after a failed sync, from the trace of a step.

After a failed fsync the kernel may mark unwritten pages as clean: the next one says "done" and has
written nothing. So bytes written to a file since its last sync are in doubt once a sync of it
fails, until the same bytes are written again, and so are the names that were made in a folder. To
sync a file whose bytes, or whose name, are in doubt is to believe what nobody wrote.

    write, pwrite64 …   bytes that no sync has made durable; no longer in doubt, if they were
    open, rename …      names that no sync of their folder has made durable
    fsync, fdatasync    they become durable; or, if it fails, are in doubt
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from os.path import dirname

SYNCS = ("fsync", "fdatasync")
WRITES = ("write", "pwrite64", "writev", "pwritev", "ftruncate")
NAMES = ("openat", "rename", "renameat", "renameat2", "link", "mkdir", "unlink")
TRACED = (*SYNCS, *WRITES, *NAMES)

_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+)")
_HANDLE = re.compile(r"\d+<([^>]*)>")
_END = 1 << 60  # offset of appends: after all others, in order


@dataclass
class _File:
    """Ranges of bytes."""

    unsynced: list[tuple[int, int]] = field(default_factory=list)
    doubtful: list[tuple[int, int]] = field(default_factory=list)

    def write(self, begin: int, end: int) -> None:
        self.unsynced.append((begin, end))
        self.doubtful = _without(self.doubtful, begin, end)

    def cut(self, size: int) -> None:
        self.unsynced, self.doubtful = (
            _without(self.unsynced, size, _END << 1),
            _without(self.doubtful, size, _END << 1),
        )

    def fail(self) -> None:
        self.doubtful, self.unsynced = self.doubtful + self.unsynced, []


@dataclass
class _Folder:
    """Names of a folder. `lasting`: the durable ones, which an open does not create."""

    unsynced: set[str] = field(default_factory=set)
    doubtful: set[str] = field(default_factory=set)
    lasting: set[str] = field(default_factory=set)

    def drop(self, name: str) -> None:
        for names in (self.unsynced, self.doubtful, self.lasting):
            names.discard(name)

    def synced(self) -> None:
        self.lasting, self.unsynced = self.lasting | self.unsynced, set()

    def fail(self) -> None:
        self.doubtful, self.unsynced = self.doubtful | self.unsynced, set()


def find_believed_syncs(
    trace: Iterable[str], folder: str, durable_paths: Iterable[str] = ()
) -> list[str]:
    """Return the files and folders that were synced while something of them was in doubt.

    `durable_paths`: what was durable before the step.

        >>> write = '1 pwrite64(3</a/f>, "x", 1, 0) = 1'
        >>> failed, synced = '1 fsync(3</a/f>) = -1 EIO', '1 fsync(3</a/f>) = 0'
        >>> find_believed_syncs([write, failed, synced], "/a")
        ['/a/f']
        >>> find_believed_syncs([write, failed, write, synced], "/a")
        []
    """
    files: dict[str, _File] = defaultdict(_File)
    folders: dict[str, _Folder] = defaultdict(_Folder)
    for path in durable_paths:
        folders[dirname(path)].lasting.add(path)
    believed_paths: list[str] = []
    appended = _END
    for name, arguments, result in _calls(trace):
        handle = _HANDLE.match(arguments)
        path = handle.group(1) if handle else ""
        if name in NAMES and result >= 0:
            _take_name(name, arguments, files, folders)
        elif not path.startswith(folder):
            continue
        elif name in SYNCS and result < 0:
            (folders[path] if path in folders else files[path]).fail()
        elif name in SYNCS:
            if path in folders:
                doubtful = bool(folders[path].doubtful)
                folders[path].synced()
            else:
                doubtful = bool(files[path].doubtful) or path in folders[dirname(path)].doubtful
                files[path].unsynced.clear()
            believed_paths += [path] if doubtful else []
        elif name == "ftruncate" and result == 0:
            files[path].cut(int(arguments.rpartition(", ")[2]))
        elif name in ("pwrite64", "pwritev") and result > 0:
            offset = int(arguments.rpartition(", ")[2])
            files[path].write(offset, offset + result)
        elif name in WRITES and result > 0:
            files[path].write(appended, appended + result)
            appended += result
    return believed_paths


def _take_name(
    name: str, arguments: str, files: dict[str, _File], folders: dict[str, _Folder]
) -> None:
    paths = re.findall(r'"([^"]*)"', arguments)
    if not paths or (name == "openat" and "O_CREAT" not in arguments):
        return
    path = paths[-1]
    if path.endswith(
        (".lock", "-shm", "-journal")
    ):  # these need not be durable; journals only matter for files that are being created
        return
    names = folders[dirname(path)]
    if name == "openat" and "O_TRUNC" in arguments:
        files[path].cut(0)
    if name == "unlink":
        files.pop(path, None)
        names.drop(path)
        return
    if name != "openat" or "O_EXCL" in arguments:  # the file is new
        names.drop(path)
        files[path] = files.pop(paths[0], _File()) if name.startswith("rename") else _File()
    if path not in names.lasting:
        names.unsynced.add(path)


def _without(ranges: list[tuple[int, int]], begin: int, end: int) -> list[tuple[int, int]]:
    remaining: list[tuple[int, int]] = []
    for first, last in ranges:
        remaining += [
            (a, b) for a, b in ((first, min(last, begin)), (max(first, end), last)) if a < b
        ]
    return remaining


def _calls(trace: Iterable[str]) -> Iterator[tuple[str, str, int]]:
    """Yield name, arguments and result of each finished call.

    Calls that strace shows in two lines are joined.
    """
    unfinished: dict[str, str] = {}
    for line in trace:
        thread, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            unfinished[thread] = call.removesuffix("<unfinished ...>")
            continue
        if call.startswith("<..."):
            call = unfinished.pop(thread, "") + call.partition("resumed>")[2]
        if match := _CALL.match(call):
            yield match.group(1), match.group(2), int(match.group(3))
