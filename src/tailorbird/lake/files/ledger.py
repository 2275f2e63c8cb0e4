"""The ledger: our own record of every commit to the lake, by which corruption of tables shows.

One JSON object per line, appended and synced after its commit, chained as in
`lake.files.hash_chain`:

    {"n": 7, "kind": "commit", "table": "events", "version": 3, "rows": 20000, "positions":
     {"routed": 60001}, "commit_sha256": …, "files": [{"path", "size", "sha256", "rows"}, …],
     "written_at": …, "chain": …}

Kinds: `commit`; `withdrawn` (a corrupt last commit was set aside and its rows are replayed);
`checkpoint` (Delta's summary of its log); `trimmed` (files of the log below this version are
deleted, because a checkpoint replaces them).
"""

from collections.abc import Sequence

import msgspec

from tailorbird.lake.files.hash_chain import HashChainedFile
from tailorbird.storage_paths import StoragePath

ORIGIN = "tailorbird ledger 1"


class LedgerFile(msgspec.Struct, frozen=True):
    """A file as it was written: path below its table's folder, size, checksum and rows."""

    path: str
    size: int
    sha256: str
    rows: int = 0


class LedgerLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the ledger; `n` is its number, from 0."""

    n: int
    kind: str
    table: str
    version: int
    rows: int = 0
    positions: dict[str, int] = {}
    commit_sha256: str = ""
    files: list[LedgerFile] = []
    removed: list[str] = []  # files of earlier commits, whose rows are in `files` now
    written_at: int = 0


_decode = msgspec.json.Decoder(LedgerLine).decode
_encode = msgspec.json.Encoder().encode


class Ledger:
    """Reads the ledger and appends to it; its writer is the lake role.

    Args:
        path: `ledger.jsonl`; an absent file is an empty ledger.
        for_writing: drop a torn last line; the check at the start of the role finds its commit.

    Raises:
        DamageError: a line does not match its checksum.
    """

    def __init__(self, path: StoragePath, *, for_writing: bool = False) -> None:
        self._file = HashChainedFile(path, ORIGIN, for_writing=for_writing)
        self.lines: list[LedgerLine] = []
        for number, json_line in enumerate(self._file.json_lines):
            self._decode_line(number, json_line)
        self._file.json_lines.clear()

    @classmethod
    def write(cls, path: StoragePath, lines: Sequence[LedgerLine]) -> "Ledger":
        """Write a ledger of these lines, numbered again, and open it for appending."""
        HashChainedFile(path, ORIGIN, for_writing=True).replace(
            _encode(msgspec.structs.replace(line, n=number)) for number, line in enumerate(lines)
        )
        return cls(path, for_writing=True)

    def _decode_line(self, number: int, json_line: bytes) -> None:
        try:
            line = _decode(json_line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._file.corrupt_line_error(
                number, f"is not a line of a ledger: {error}"
            ) from error
        if line.n != number:
            raise self._file.corrupt_line_error(number, f"says that it is line {line.n}")
        self.lines.append(line)

    def append(
        self,
        kind: str,
        table: str,
        version: int,
        *,
        written_at: int,
        rows: int = 0,
        positions: dict[str, int] | None = None,
        commit_sha256: str = "",
        files: list[LedgerFile] | None = None,
        removed: list[str] | None = None,
    ) -> LedgerLine:
        """Append a line and sync it."""
        line = LedgerLine(
            n=len(self.lines),
            kind=kind,
            table=table,
            version=version,
            rows=rows,
            positions=positions or {},
            commit_sha256=commit_sha256,
            files=files or [],
            removed=removed or [],
            written_at=written_at,
        )
        self._file.append(_encode(line))
        self.lines.append(line)
        return line

    def commits(self, table: str) -> dict[int, LedgerLine]:
        """Return the commits of a table that were not withdrawn, by version."""
        commits: dict[int, LedgerLine] = {}
        for line in self.lines:
            if line.table != table:
                continue
            if line.kind == "commit":
                commits[line.version] = line
            elif line.kind == "withdrawn":
                commits.pop(line.version, None)
        return commits

    def commits_between(self, start: int, stop: int) -> list[LedgerLine]:
        """Return the commits in a range of lines, without those of the table `commits` itself."""
        return [
            line
            for line in self.lines[start:stop]
            if line.kind == "commit" and line.table != "commits"
        ]

    def files(self, table: str) -> dict[str, LedgerFile]:
        """Return the data files with the table's current rows, by path."""
        live_files: dict[str, LedgerFile] = {}
        for _, line in sorted(self.commits(table).items()):
            live_files.update({file.path: file for file in line.files})
            for path in line.removed:
                live_files.pop(path, None)
        return live_files

    def commit_times(self, table: str) -> dict[str, int]:
        """Return the commit time of each data file, by path."""
        return {
            file.path: line.written_at
            for line in self.commits(table).values()
            for file in line.files
        }

    def first_log_version(self, table: str) -> int:
        """Return the version at which a table's log on disk begins.

        Earlier commits are in a checkpoint and in the ledger.
        """
        return max(
            (line.version for line in self.lines if line.table == table and line.kind == "trimmed"),
            default=0,
        )

    def checkpoints(self, table: str) -> dict[int, LedgerLine]:
        """Return the synced checkpoints of a table, by version."""
        return {
            line.version: line
            for line in self.lines
            if line.table == table and line.kind == "checkpoint"
        }
