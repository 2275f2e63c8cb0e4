"""The ledger: our own record of every commit to the lake, beside the tables, so that damage in them
cannot go unseen.

One JSON object a line, appended and synced after the commit that it tells of, chained as
`lake.chained` says:

    {"n": 7, "kind": "commit", "table": "events", "version": 3, "rows": 20000, "positions":
     {"routed": 60001}, "commit_sha256": …, "files": [{"path", "size", "sha256", "rows"}, …],
     "written_at": …, "chain": …}

Kinds: `commit`; `withdrawn` (a damaged last commit was set aside and its rows are replayed);
`checkpoint` (Delta's own summary of its log); `trimmed` (files of the log below this version are
deleted: a checkpoint of it holds what they said). Reading needs nothing but a JSON parser.
"""

from collections.abc import Sequence

import msgspec

from tailorbird.lake.chained import ChainedFile
from tailorbird.places import Place

ORIGIN = "tailorbird ledger 1"


class File(msgspec.Struct, frozen=True):
    """A file as it was written: path below its table's folder, bytes, checksum and rows."""

    path: str
    size: int
    sha256: str
    rows: int = 0


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the ledger."""

    n: int
    kind: str
    table: str
    version: int
    rows: int = 0
    positions: dict[str, int] = {}
    commit_sha256: str = ""
    files: list[File] = []
    removed: list[str] = []  # of earlier commits, whose rows are in `files` now
    written_at: int = 0


_decode = msgspec.json.Decoder(Line).decode
_encode = msgspec.json.Encoder().encode


class Ledger:
    """Reads the whole ledger and appends to it; its writer is the lake role.

    Args:
        path: `ledger.jsonl`; an absent file is an empty ledger.
        writer: drops a torn last line, which tells of a commit that the start-up check then finds
            by itself.
    Raises:
        DamageError: a line is not what was written.
    """

    def __init__(self, path: Place, *, writer: bool = False) -> None:
        self._file = ChainedFile(path, ORIGIN, writer=writer)
        self.lines: list[Line] = []
        for number, body in enumerate(self._file.bodies):
            self._take(number, body)
        self._file.bodies.clear()

    @classmethod
    def write(cls, path: Place, lines: Sequence[Line]) -> "Ledger":
        """Write a ledger of these lines, numbered again, and open it for appending."""
        ChainedFile(path, ORIGIN, writer=True).replace(
            _encode(msgspec.structs.replace(line, n=number)) for number, line in enumerate(lines)
        )
        return cls(path, writer=True)

    def _take(self, number: int, body: bytes) -> None:
        try:
            line = _decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._file.damaged(number, f"is not a line of a ledger: {error}") from error
        if line.n != number:
            raise self._file.damaged(number, f"says that it is line {line.n}")
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
        files: list[File] | None = None,
        removed: list[str] | None = None,
    ) -> Line:
        """Add a line and sync it."""
        line = Line(
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

    def commits(self, table: str) -> dict[int, Line]:
        """The commits of a table that stand, by version: without those that were withdrawn."""
        standing: dict[int, Line] = {}
        for line in self.lines:
            if line.table != table:
                continue
            if line.kind == "commit":
                standing[line.version] = line
            elif line.kind == "withdrawn":
                standing.pop(line.version, None)
        return standing

    def commits_between(self, start: int, stop: int) -> list[Line]:
        """Return the commits among these lines that the table `commits` mirrors: all but its own."""
        return [
            line
            for line in self.lines[start:stop]
            if line.kind == "commit" and line.table != "commits"
        ]

    def files(self, table: str) -> dict[str, File]:
        """The data files that hold the table's rows now, by path."""
        live: dict[str, File] = {}
        for _, line in sorted(self.commits(table).items()):
            live.update({file.path: file for file in line.files})
            for path in line.removed:
                live.pop(path, None)
        return live

    def written(self, table: str) -> dict[str, int]:
        """When each data file of the standing commits was committed, by path."""
        return {
            file.path: line.written_at
            for line in self.commits(table).values()
            for file in line.files
        }

    def log_begin(self, table: str) -> int:
        """The version at which the table's log on disk begins; the commits before it stand in a
        checkpoint and in this file.
        """
        return max(
            (line.version for line in self.lines if line.table == table and line.kind == "trimmed"),
            default=0,
        )

    def checkpoints(self, table: str) -> dict[int, Line]:
        """The checkpoints of a table that were synced, by version."""
        return {
            line.version: line
            for line in self.lines
            if line.table == table and line.kind == "checkpoint"
        }
