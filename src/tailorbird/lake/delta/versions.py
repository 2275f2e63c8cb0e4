"""Versions of the tables, and reading the lake at one of them.

A version of `events`, `users`, `items` or `answers` is the rows below the positions of its commits.
Rows are only ever added and no compaction changes one, so any version of these tables can be read
from the current files. Of the other tables Delta's versions are read, as long as their files are
kept (`lake.history`).
"""

from collections.abc import Mapping
from functools import reduce

import msgspec
import pyarrow as pa
import pyarrow.dataset as ds

from tailorbird.errors import NotReadyError, UsageError
from tailorbird.lake.files.ledger import Ledger
from tailorbird.lake.tables import TABLES
from tailorbird.storage_paths import StoragePath

TABLES_WITH_LOG_POSITION = (
    "events",
    "users",
    "items",
)  # rows with their position in the routed log
_ROUTED_LOG = "routed"
_RESPONSE_LOG_PREFIX = "answers-"


class TableVersion(msgspec.Struct, frozen=True):
    """A version, and for each log that feeds the table the position after its last row."""

    version: int
    positions: dict[str, int] = {}


def versions_of(lake: StoragePath) -> dict[str, TableVersion]:
    """Return the latest version of each table in the ledger. Raises DamageError."""
    ledger = Ledger(lake / "ledger.jsonl")
    return {
        name: _version_at(ledger, name, max(commits))
        for name in TABLES
        if (commits := ledger.commits(name))
    }


def version_at(lake: StoragePath, table: str, version: int) -> dict[str, TableVersion]:
    """Return the given version of a table.

    Raises:
        UsageError: no such table or version.
        NotReadyError: there is no lake yet.
    """
    if table not in TABLES:
        raise UsageError(f"there is no table {table!r}", fix=f"the tables: {', '.join(TABLES)}")
    ledger = Ledger(lake / "ledger.jsonl")
    commits = ledger.commits(table)
    if not commits:
        raise NotReadyError(
            "there is nothing in the lake yet",
            where=str(lake),
            fix="tailorbird import FORMAT PATH, or tailorbird up",
        )
    if version not in commits:
        raise UsageError(
            f"table {table} has no version {version}", fix=f"versions 0 to {max(commits)}"
        )
    return {table: _version_at(ledger, table, version)}


def version_filter(table: str, table_version: TableVersion) -> ds.Expression | None:
    """Return the filter for a version's rows, or None if Delta's version must be read."""
    if table in TABLES_WITH_LOG_POSITION:
        return ds.field("p") < pa.scalar(table_version.positions.get(_ROUTED_LOG, 0), pa.int64())
    if table != "answers":
        return None
    conditions = [
        (ds.field("producer") == log.removeprefix(_RESPONSE_LOG_PREFIX))
        & (ds.field("offset") < pa.scalar(position, pa.int64()))
        for log, position in sorted(table_version.positions.items())
    ]
    return reduce(lambda left, right: left | right, conditions, ds.scalar(False))


def _version_at(ledger: Ledger, table: str, version: int) -> TableVersion:
    positions: dict[str, int] = {}
    for line_version, line in sorted(ledger.commits(table).items()):
        if line_version <= version:
            positions.update(line.positions)
    return TableVersion(version, positions)


def to_manifest(versions: Mapping[str, TableVersion]) -> dict[str, dict[str, object]]:
    """Convert versions to JSON for a manifest."""
    return {
        name: {"version": table_version.version, "positions": dict(table_version.positions)}
        for name, table_version in versions.items()
    }


def from_manifest(value: object) -> dict[str, TableVersion]:
    """Convert versions from a manifest. Raises UsageError if they are malformed."""
    try:
        return msgspec.convert(value, dict[str, TableVersion])
    except msgspec.ValidationError as error:
        raise UsageError(f"expected versions of tables as a manifest has them: {error}") from None
