"""Versions of the tables: which there are, what each stands for, and reading the lake as of one.

A version of `events`, `users`, `items` or `answers` is the rows below the positions that its
commits carry. Rows are only ever added and no compaction changes one, so these tables are read as
of any version, of however long ago, from the files of today. Of the other tables Delta's own
versions are read, for as long as their files are kept (`lake.history`).
"""

from collections.abc import Mapping
from functools import reduce

import msgspec
import pyarrow as pa
import pyarrow.dataset as ds

from tailorbird.errors import NotReadyError, UsageError
from tailorbird.lake.ledger import Ledger
from tailorbird.lake.tables import TABLES
from tailorbird.places import Place

BY_P = ("events", "users", "items")  # from the routed log, each row with its position
_ROUTED = "routed"
_ANSWERS = "answers-"


class TableVersion(msgspec.Struct, frozen=True):
    """A version, and for each log that feeds the table the position behind the last row that it
    holds.
    """

    version: int
    positions: dict[str, int] = {}


def versions_of(lake: Place) -> dict[str, TableVersion]:
    """The newest version of each table that the ledger vouches for. Raises DamageError."""
    ledger = Ledger(lake / "ledger.jsonl")
    return {
        name: _at(ledger, name, max(known)) for name in TABLES if (known := ledger.commits(name))
    }


def version_at(lake: Place, table: str, version: int) -> dict[str, TableVersion]:
    """All tables as they were when `table` had that version: those that it shares a log with at the
    same position.

    Raises:
        UsageError: no such table or version.
        NotReadyError: there is no lake yet.
    """
    if table not in TABLES:
        raise UsageError(f"there is no table {table!r}", fix=f"the tables: {', '.join(TABLES)}")
    ledger = Ledger(lake / "ledger.jsonl")
    known = ledger.commits(table)
    if not known:
        raise NotReadyError(
            "there is nothing in the lake yet",
            where=str(lake),
            fix="tailorbird import FORMAT PATH, or tailorbird up",
        )
    if version not in known:
        raise UsageError(
            f"table {table} has no version {version}", fix=f"versions 0 to {max(known)}"
        )
    return {table: _at(ledger, table, version)}


def rows_of(table: str, at: TableVersion) -> ds.Expression | None:
    """The filter that leaves a version's rows; None where Delta's own version has to be read."""
    if table in BY_P:
        return ds.field("p") < pa.scalar(at.positions.get(_ROUTED, 0), pa.int64())
    if table != "answers":
        return None
    parts = [
        (ds.field("producer") == log.removeprefix(_ANSWERS))
        & (ds.field("offset") < pa.scalar(position, pa.int64()))
        for log, position in sorted(at.positions.items())
    ]
    return reduce(lambda one, other: one | other, parts, ds.scalar(False))


def _at(ledger: Ledger, table: str, version: int) -> TableVersion:
    positions: dict[str, int] = {}
    for each, line in sorted(ledger.commits(table).items()):
        if each <= version:
            positions.update(line.positions)
    return TableVersion(version, positions)


def plain(at: Mapping[str, TableVersion]) -> dict[str, dict[str, object]]:
    """Versions as JSON, for a manifest."""
    return {
        name: {"version": each.version, "positions": dict(each.positions)}
        for name, each in at.items()
    }


def from_plain(value: object) -> dict[str, TableVersion]:
    """What `plain` gave. Raises UsageError if it is something else."""
    try:
        return msgspec.convert(value, dict[str, TableVersion])
    except msgspec.ValidationError as error:
        raise UsageError(f"expected versions of tables as a manifest has them: {error}") from None
