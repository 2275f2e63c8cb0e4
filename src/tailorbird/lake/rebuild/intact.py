"""The rows of a lake that are not corrupt: those of data files that match the ledger, and those
that were recovered since.

It reads the data files by the ledger alone, so a table whose Delta log is corrupt can be read too.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from tailorbird.lake.files.ledger import Ledger, LedgerFile
from tailorbird.lake.tables import DAY_FIELD, TABLES


class IntactRows:
    """Reads the intact rows of each table.

    Args:
        corrupt_paths: for each table, the paths of its corrupt data files.

    Attributes:
        recovered: for each table, rows that are in none of its intact files.
    """

    def __init__(
        self, lake: Path, ledger: Ledger, corrupt_paths: Mapping[str, Collection[str]]
    ) -> None:
        self._lake = lake
        self._files = {name: list(ledger.files(name).values()) for name in TABLES}
        self._corrupt_paths = corrupt_paths
        self.recovered: dict[str, pa.Table] = {}

    def intact_files(self, name: str) -> list[LedgerFile]:
        """Return the intact data files of a table."""
        corrupt_paths = self._corrupt_paths.get(name, ())
        return [file for file in self._files[name] if file.path not in corrupt_paths]

    def corrupt_files(self, name: str) -> list[LedgerFile]:
        """Return the corrupt data files of a table, as the ledger says they were."""
        return [
            file for file in self._files[name] if file.path in self._corrupt_paths.get(name, ())
        ]

    def count_expected_rows(self, name: str) -> int:
        """Return the number of rows that the ledger says a table has."""
        return sum(file.rows for file in self._files[name])

    def count_rows(self, name: str) -> int:
        """Return the number of intact and recovered rows of a table."""
        return sum(file.rows for file in self.intact_files(name)) + len(
            self.recovered.get(name, ())
        )

    def add_rows(self, name: str, rows: pa.Table) -> None:
        """Add recovered rows, with all columns of the table."""
        rows = rows.select(TABLES[name].schema.names).cast(TABLES[name].schema)
        earlier_rows = self.recovered.get(name)
        self.recovered[name] = (
            rows if earlier_rows is None else pa.concat_tables([earlier_rows, rows])
        )

    def discard(self, name: str) -> None:
        """Forget the rows that were recovered of a table."""
        self.recovered.pop(name, None)

    def table(
        self, name: str, columns: Sequence[str] | None = None, where: ds.Expression | None = None
    ) -> pa.Table:
        """Return the intact and recovered rows of a table, all columns by default."""
        spec = TABLES[name]
        folder = self._lake / name
        column_names = list(columns) if columns is not None else spec.schema.names
        recovered_rows = self.recovered.get(name, spec.schema.empty_table())
        if where is not None:
            recovered_rows = recovered_rows.filter(where)
        paths = [str(folder / file.path) for file in self.intact_files(name)]
        if not paths:
            return recovered_rows.select(column_names)
        dataset = ds.dataset(
            paths,
            schema=spec.schema,
            format="parquet",
            partitioning=ds.partitioning(pa.schema([DAY_FIELD]), flavor="hive")
            if spec.partition_column
            else None,
            partition_base_dir=str(folder),
        )
        stored_rows = dataset.to_table(columns=column_names, filter=where)
        return pa.concat_tables([stored_rows, recovered_rows.select(column_names)])
