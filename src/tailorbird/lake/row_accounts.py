"""Accounts of rows: the raw log's rows against those of the tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.lake.files.archive import ArchiveFile

_RAW_ROW_COLUMNS = ["raw_partition", "raw_offset", "raw_row"]
ROW_TABLES = ("events", "quarantine", "duplicates")


@dataclass
class RowAccount:
    """Counts of the raw rows of one partition. `missing` and `repeated` are 0 in an intact lake.

    Attributes:
        archived: rows in the archive.
        events, quarantine, duplicates: archived rows in each table.
        pending: archived rows that are not routed and loaded yet.
        missing: routed rows that are in no table.
        repeated: rows that are in the tables more than once.
    """

    archived: int = 0
    events: int = 0
    quarantine: int = 0
    duplicates: int = 0
    pending: int = 0
    missing: int = 0
    repeated: int = 0


class TableReader(Protocol):
    """Gives columns of a table's rows."""

    def table(self, name: str, columns: Sequence[str]) -> pa.Table: ...


def count_raw_rows(
    reader: TableReader,
    archived_files: dict[str, list[ArchiveFile]],
    routed_positions: dict[str, int],
) -> Iterator[tuple[str, RowAccount, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Yield for each raw partition its account, the numbers of the rows in no table, and those of
    the rows in the tables more than once.
    """
    rows_by_table = {name: _raw_rows(reader, name) for name in ROW_TABLES}
    for partition, files in archived_files.items():
        end = files[-1].end
        account = RowAccount(archived=sum(file.rows for file in files))
        count_by_row = np.zeros(
            end, np.int64
        )  # From 0 on, because rows that were lost before archiving may be in the tables.
        for name in ROW_TABLES:
            rows = rows_by_table[name].get(partition, np.empty(0, np.int64))
            rows = rows[rows < end]
            setattr(account, name, len(rows))
            count_by_row += np.bincount(rows, minlength=end)
        routed_end = min(routed_positions.get(partition, 0), end)
        account.pending = int(np.sum(count_by_row[routed_end:] == 0))
        missing_rows = np.flatnonzero(count_by_row[:routed_end] == 0)
        repeated_rows = np.flatnonzero(count_by_row > 1)
        account.missing = len(missing_rows)
        account.repeated = len(repeated_rows)
        yield partition, account, missing_rows, repeated_rows


def _raw_rows(reader: TableReader, name: str) -> dict[str, npt.NDArray[np.int64]]:
    """Return for each partition the numbers of the raw rows that a table holds."""
    table = reader.table(name, _RAW_ROW_COLUMNS)
    if len(table) == 0:
        return {}
    rows = table.column("raw_offset").to_numpy() + table.column("raw_row").to_numpy()
    partitions = table.column("raw_partition").combine_chunks().dictionary_encode()
    codes = partitions.indices.to_numpy()
    return {
        str(partition): rows[codes == code]
        for code, partition in enumerate(partitions.dictionary.to_pylist())
    }
