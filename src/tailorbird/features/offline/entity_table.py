"""Requests from a Parquet file, each column checked, and the inputs that a folder was made from.

    person, item, ts                       required; a person may be missing
    p                                      optional: the routed position whose events were known
    session_id, device, country, query     optional texts
    local_hour                             optional, 0 to 23

The content of a folder does not change: `backfill.json` stores the versions of the lake that its
first run read. A later run, after more has been loaded, continues with the same responses, events
and p.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tailorbird.atomic_write import atomic_write
from tailorbird.errors import DamageError, UsageError
from tailorbird.features.offline.bulk import Requests

Int64s = npt.NDArray[np.int64]

INPUTS_FILE = "backfill.json"
_TEXT_COLUMNS = ("session_id", "device", "country", "query")
_EARLIEST, _LATEST = (
    int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 10**6 for year in (1990, 2200)
)


class BackfillInputs(msgspec.Struct, frozen=True):
    """The inputs of a folder: a hash of the requests, and the lake's versions as of its first run.

    `inputs` is the hash; `lake` is encoded by `lake.delta.versions.to_manifest`.
    """

    inputs: str
    lake: dict[str, Any]


def read_backfill_inputs(folder: Path, *, lock_name: str) -> BackfillInputs | None:
    """Return the inputs that the folder was made from, or None for a new folder.

    Args:
        lock_name: name of the file that a run creates first.
    Raises:
        UsageError: the folder holds something other than a backfill.
    """
    try:
        return msgspec.json.decode((folder / INPUTS_FILE).read_bytes(), type=BackfillInputs)
    except FileNotFoundError:
        other_files = (
            sorted(
                path.name
                for path in folder.iterdir()
                if path.name != lock_name and not path.name.startswith(f".{INPUTS_FILE}.")
            )
            if folder.is_dir()
            else []
        )
    except NotADirectoryError:
        raise UsageError(
            "is a file, not a folder", where=str(folder), fix="choose a new folder"
        ) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DamageError(
            f"cannot be read: {error}",
            where=str(folder / INPUTS_FILE),
            fix="remove the folder and run it again",
        ) from None
    if other_files:
        raise UsageError(
            f"holds something else than a backfill: {other_files[0]}",
            where=str(folder),
            fix="choose a new folder",
        )
    return None


def write_backfill_inputs(folder: Path, inputs: BackfillInputs) -> None:
    atomic_write(folder / INPUTS_FILE, msgspec.json.format(msgspec.json.encode(inputs)))


def read_requests_file(file: Path, newest_log_position: int) -> Requests:
    """Read each row of a Parquet file as a request for one item.

    Args:
        newest_log_position: the newest p that the lake knows, used where the file has none.
    Raises:
        UsageError: a column is missing or a value is invalid; names file, column and row.
    """
    try:
        with pq.ParquetFile(file) as parquet_file:
            table = parquet_file.read()
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"cannot be read as Parquet: {error}", where=str(file)) from None
    column_names = table.column_names
    for name in ("person", "item", "ts"):
        if name not in column_names:
            message = f"expected columns person, item and ts, found {', '.join(column_names)}"
            raise UsageError(message, where=str(file), fix=f"name the column {name}")
    columns = {
        name: _Column(file, name, table)
        for name in dict.fromkeys(column_names)
        if name in ("person", "item", "ts", "p", "local_hour", *_TEXT_COLUMNS)
    }
    optional_columns: dict[str, Any] = {
        name: columns[name].texts() for name in _TEXT_COLUMNS if name in columns
    }
    if "local_hour" in columns:
        optional_columns["local_hour"] = columns["local_hour"].optional_integers(
            0, 23, "an hour of the day, 0 to 23"
        )
    log_position = (
        columns["p"].required_integers(
            0,
            newest_log_position,
            f"a routed position, 0 to {newest_log_position:,}, up to which the lake knows",
        )
        if "p" in columns
        else None
    )
    return Requests(
        columns["ts"].times(),
        np.full(table.num_rows, newest_log_position) if log_position is None else log_position,
        columns["person"].texts(),
        np.arange(table.num_rows),
        columns["item"].texts(required=True),
        **optional_columns,
    )


class _Column:
    """A column of the file."""

    def __init__(self, file: Path, name: str, table: pa.Table) -> None:
        self._where = f"{file}: {name}"
        if table.column_names.count(name) > 1:
            raise UsageError(
                "there are several columns of this name", where=self._where, fix="keep one"
            )
        self._values = table[name]

    def texts(self, *, required: bool = False) -> pa.ChunkedArray:
        values = self._values
        value_type = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
        if not (
            _is_text(value_type) or pa.types.is_integer(value_type) or pa.types.is_null(value_type)
        ):
            raise UsageError(
                f"expected texts, got {value_type}",
                where=self._where,
                fix="write a column of texts",
            )
        texts = values.cast(pa.string())
        self._require(
            pc.fill_null(pc.not_equal(texts, ""), not required),
            "a text",
            "leave it null where it is not known",
        )
        return texts

    def times(self) -> Int64s:
        values = self._values
        expected = "a time from 1990 on, in microseconds where it is a whole number"
        if pa.types.is_timestamp(values.type):
            values = values.cast(pa.timestamp("us", values.type.tz), safe=False).cast(pa.int64())
        elif not pa.types.is_integer(values.type):
            raise UsageError(
                f"expected timestamps or microseconds, got {values.type}",
                where=self._where,
                fix="write timestamps",
            )
        fix = "write a column of timestamps (UTC where it names no zone)"
        self._require(_is_within(values, _EARLIEST, _LATEST - 1, allow_null=False), expected, fix)
        return values.to_numpy().astype(np.int64)

    def required_integers(self, low: int, high: int, expected: str) -> Int64s:
        """Return the integers of the column, none of them missing."""
        return self._to_integers(low, high, expected, allow_null=False).to_numpy().astype(np.int64)

    def optional_integers(self, low: int, high: int, expected: str) -> pa.ChunkedArray:
        """Return the integers of the column, null where unknown."""
        return self._to_integers(low, high, expected, allow_null=True)

    def _to_integers(
        self, low: int, high: int, expected: str, *, allow_null: bool
    ) -> pa.ChunkedArray:
        values = self._values
        if pa.types.is_floating(values.type):  # Some writers store nullable integers as floats.
            values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
            self._require(pc.fill_null(pc.equal(values, pc.floor(values)), allow_null), expected)
        elif pa.types.is_null(values.type):
            values = values.cast(pa.int64())
        elif not pa.types.is_integer(values.type):
            raise UsageError(
                f"expected {expected}, got {values.type}",
                where=self._where,
                fix="write whole numbers",
            )
        self._require(_is_within(values, low, high, allow_null=allow_null), expected)
        return values.cast(pa.int64())

    def _require(self, is_valid: pa.ChunkedArray, expected: str, fix: str = "") -> None:
        invalid_rows = np.flatnonzero(~is_valid.to_numpy())
        if len(invalid_rows):
            row = int(invalid_rows[0])
            value = self._values[row].as_py()
            more_rows = (
                f" (and {len(invalid_rows) - 1:,} more rows)" if len(invalid_rows) > 1 else ""
            )
            actual = (
                "nothing"
                if value is None
                else repr(value)
                if isinstance(value, str | int | float)
                else str(value)
            )
            raise UsageError(
                f"expected {expected}, got {actual} in row {row + 1:,}{more_rows}",
                where=self._where,
                fix=fix or "correct the row",
            )


def _is_within(
    values: pa.ChunkedArray, low: int, high: int, *, allow_null: bool
) -> pa.ChunkedArray:
    return pc.fill_null(
        pc.and_(pc.greater_equal(values, low), pc.less_equal(values, high)), allow_null
    )


def _is_text(data_type: pa.DataType) -> bool:
    return pa.types.is_string(data_type) or pa.types.is_large_string(data_type)
