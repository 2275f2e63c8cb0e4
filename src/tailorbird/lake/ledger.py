"""The ledger: our own record of every commit to the lake, beside the tables, so that damage in them cannot go unseen.

One JSON object a line, appended and synced after the commit that it tells of. Each carries the SHA-256 of the line
before, so that a line cannot be changed, moved or taken out:

    {"n": 7, "chain": sha256(line 6), "kind": "commit", "table": "events", "version": 3, "rows": 20000,
     "positions": {"routed": 60001}, "commit_sha256": …, "files": [{"path", "size", "sha256", "rows"}, …], "written_at": …}

Kinds: `commit`; `withdrawn` (a damaged last commit was set aside and its rows are replayed); `checkpoint` (Delta's own
summary of its log). Reading needs nothing but a JSON parser.
"""

import hashlib
from pathlib import Path

import msgspec

from tailorbird.errors import DamageError
from tailorbird.lake import durable

_ORIGIN = hashlib.sha256(b"tailorbird ledger 1").hexdigest()


class File(msgspec.Struct, frozen=True):
    """A file as it was written: path below its table's folder, bytes, checksum and rows."""

    path: str
    size: int
    sha256: str
    rows: int = 0


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the ledger."""

    n: int
    chain: str
    kind: str
    table: str
    version: int
    rows: int = 0
    positions: dict[str, int] = {}
    commit_sha256: str = ""
    files: list[File] = []
    written_at: int = 0


_decode = msgspec.json.Decoder(Line).decode
_encode = msgspec.json.Encoder().encode


class Ledger:
    """Reads the whole ledger and appends to it; its writer is the lake role.

    Args:
        path: `ledger.jsonl`; an absent file is an empty ledger.
        writer: drops a torn last line, which tells of a commit that the start-up check then finds by itself.
    Raises:
        DamageError: a line does not follow from the one before.
    """

    def __init__(self, path: Path, *, writer: bool = False) -> None:
        self.path = path
        self.lines: list[Line] = []
        self._chain = _ORIGIN
        data = path.read_bytes() if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        for number, raw in enumerate(whole.splitlines()):
            self._take(number, raw)
        if writer and len(whole) < len(data):
            durable.replace(path, whole)

    def _take(self, number: int, raw: bytes) -> None:
        try:
            line = _decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise _damaged(self.path, number, f"is not a line of the ledger ({error})") from error
        if line.n != number or line.chain != self._chain:
            raise _damaged(self.path, number, "does not follow from the line before: a line was changed, moved or removed")
        self.lines.append(line)
        self._chain = hashlib.sha256(raw).hexdigest()

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
    ) -> Line:
        """Add a line and sync it."""
        line = Line(
            n=len(self.lines),
            chain=self._chain,
            kind=kind,
            table=table,
            version=version,
            rows=rows,
            positions=positions or {},
            commit_sha256=commit_sha256,
            files=files or [],
            written_at=written_at,
        )
        raw = _encode(line)
        durable.append(self.path, raw + b"\n")
        self.lines.append(line)
        self._chain = hashlib.sha256(raw).hexdigest()
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

    def checkpoints(self, table: str) -> dict[int, Line]:
        """The checkpoints of a table that were synced, by version."""
        return {line.version: line for line in self.lines if line.table == table and line.kind == "checkpoint"}


def _damaged(path: Path, number: int, what: str) -> DamageError:
    return DamageError(what, where=f"{path}:{number + 1}", fix="restore the ledger from a copy; the tables themselves were not touched")
