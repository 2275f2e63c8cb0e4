"""Parquet files of one hour each: `FOLDER/2026-11-24/13.parquet`."""

import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tailorbird.atomic_write import atomic_write
from tailorbird.events import HOUR, to_iso

POSITION_KEY = b"position"  # of the last event in the lake when an hour was computed
log = logging.getLogger(__name__)


class HourFiles:
    """Reads and writes the files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, hour: int) -> Path:
        """Return the file of the hour that begins at a time."""
        name = to_iso(hour)
        return self.folder / name[:10] / f"{name[11:13]}.parquet"

    def read(
        self, since: int, until: int, columns: Sequence[str] | None = None
    ) -> dict[int, pa.Table]:
        """Return the table of each hour that begins before `until`, from that of `since` on.

        Hours without a file are left out.
        """
        tables = {}
        for hour in range(since // HOUR * HOUR, until, HOUR):
            if (path := self.path(hour)).is_file():
                with pq.ParquetFile(path) as file:
                    tables[hour] = file.read(None if columns is None else list(columns))
        return tables

    def read_notes(self, hour: int) -> dict[bytes, int] | None:
        """Return the numbers in the metadata of an hour's file; None without a readable file."""
        try:
            metadata = pq.read_schema(self.path(hour)).metadata or {}
        except FileNotFoundError:
            return None
        except pa.ArrowInvalid as error:
            log.warning("%s cannot be read and is computed again: %s", self.path(hour), error)
            return None
        return {name: int(value) for name, value in metadata.items()}

    def write(self, hour: int, table: pa.Table, notes: Mapping[bytes, int]) -> None:
        """Replace the file of an hour atomically."""
        buffer = io.BytesIO()
        table_with_notes = table.replace_schema_metadata(
            {name: str(value) for name, value in notes.items()}
        )
        pq.write_table(table_with_notes, buffer, compression="zstd")
        atomic_write(self.path(hour), buffer.getvalue())
