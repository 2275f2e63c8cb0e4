"""Requests of a Parquet file, each column checked, and what a folder of features was made for.

    person, item, ts                       asked for; a person may be missing
    p                                      where known: the routed position up to which events were known
    session_id, device, country, query     texts, where known
    local_hour                             0 to 23, where known

What a folder answers does not change: `backfill.json` keeps the versions of the lake that its first
run read, so that a run later, when more has been loaded, goes on with the same answers, events and
p.
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

from tailorbird.errors import DamageError, UsageError
from tailorbird.features.bulk import Requests
from tailorbird.whole import write_whole

Int64s = npt.NDArray[np.int64]

FILE = "backfill.json"
_TEXTS = ("session_id", "device", "country", "query")
_EARLIEST, _LATEST = (
    int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 10**6 for year in (1990, 2200)
)


class Asked(msgspec.Struct, frozen=True):
    """What a folder was made for: a hash of the requests, and the lake as its first run found it,
    as `lake.versions.plain` has it.
    """

    inputs: str
    lake: dict[str, Any]


def read_asked(folder: Path, *, lock: str) -> Asked | None:
    """What the folder is for; None where it is new.

    Args:
        lock: the file that a run makes before all others.
    Raises:
        UsageError: it is a folder of something else.
    """
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Asked)
    except FileNotFoundError:
        held = (
            sorted(
                one.name
                for one in folder.iterdir()
                if one.name != lock and not one.name.startswith(f".{FILE}.")
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
            where=str(folder / FILE),
            fix="remove the folder and run it again",
        ) from None
    if held:
        raise UsageError(
            f"holds something else than a backfill: {held[0]}",
            where=str(folder),
            fix="choose a new folder",
        )
    return None


def write_asked(folder: Path, asked: Asked) -> None:
    write_whole(folder / FILE, msgspec.json.format(msgspec.json.encode(asked)))


def requests_of_file(file: Path, newest: int) -> Requests:
    """Each row as a request for one item.

    Args:
        newest: the p that the lake knows up to, which counts where the file has none.
    Raises:
        UsageError: a column is missing, or a value in it cannot be; names file, column and row.
    """
    try:
        with pq.ParquetFile(file) as opened:
            table = opened.read()
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"cannot be read as Parquet: {error}", where=str(file)) from None
    names = table.column_names
    for name in ("person", "item", "ts"):
        if name not in names:
            told = f"expected columns person, item and ts, found {', '.join(names)}"
            raise UsageError(told, where=str(file), fix=f"name the column {name}")
    held = {
        name: _Column(file, name, table)
        for name in dict.fromkeys(names)
        if name in ("person", "item", "ts", "p", "local_hour", *_TEXTS)
    }
    known: dict[str, Any] = {name: held[name].texts() for name in _TEXTS if name in held}
    if "local_hour" in held:
        known["local_hour"] = held["local_hour"].whole(0, 23, "an hour of the day, 0 to 23")
    p = (
        held["p"].numbers(
            0, newest, f"a routed position, 0 to {newest:,}, up to which the lake knows"
        )
        if "p" in held
        else None
    )
    return Requests(
        held["ts"].times(),
        np.full(table.num_rows, newest) if p is None else p,
        held["person"].texts(),
        np.arange(table.num_rows),
        held["item"].texts(required=True),
        **known,
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
        plain = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
        if not (_is_text(plain) or pa.types.is_integer(plain) or pa.types.is_null(plain)):
            raise UsageError(
                f"expected texts, got {plain}", where=self._where, fix="write a column of texts"
            )
        texts = values.cast(pa.string())
        self._require(
            pc.fill_null(pc.not_equal(texts, ""), not required),
            "a text",
            "leave it null where it is not known",
        )
        return texts

    def times(self) -> Int64s:
        values, told = (
            self._values,
            "a time from 1990 on, in microseconds where it is a whole number",
        )
        if pa.types.is_timestamp(values.type):
            values = values.cast(pa.timestamp("us", values.type.tz), safe=False).cast(pa.int64())
        elif not pa.types.is_integer(values.type):
            raise UsageError(
                f"expected timestamps or microseconds, got {values.type}",
                where=self._where,
                fix="write timestamps",
            )
        fix = "write a column of timestamps (UTC where it names no zone)"
        self._require(_within(values, _EARLIEST, _LATEST - 1, missing=False), told, fix)
        return values.to_numpy().astype(np.int64)

    def numbers(self, low: int, high: int, told: str) -> Int64s:
        """Whole numbers, each of them known."""
        return self._whole(low, high, told, missing=False).to_numpy().astype(np.int64)

    def whole(self, low: int, high: int, told: str) -> pa.ChunkedArray:
        """Whole numbers, null where unknown."""
        return self._whole(low, high, told, missing=True)

    def _whole(self, low: int, high: int, told: str, *, missing: bool) -> pa.ChunkedArray:
        values = self._values
        if pa.types.is_floating(
            values.type
        ):  # how some writers keep whole numbers of which some are missing
            values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
            self._require(pc.fill_null(pc.equal(values, pc.floor(values)), missing), told)
        elif pa.types.is_null(values.type):
            values = values.cast(pa.int64())
        elif not pa.types.is_integer(values.type):
            raise UsageError(
                f"expected {told}, got {values.type}", where=self._where, fix="write whole numbers"
            )
        self._require(_within(values, low, high, missing=missing), told)
        return values.cast(pa.int64())

    def _require(self, holds: pa.ChunkedArray, told: str, fix: str = "") -> None:
        wrong = np.flatnonzero(~holds.to_numpy())
        if len(wrong):
            row = int(wrong[0])
            value = self._values[row].as_py()
            more = f" (and {len(wrong) - 1:,} more rows)" if len(wrong) > 1 else ""
            got = (
                "nothing"
                if value is None
                else repr(value)
                if isinstance(value, str | int | float)
                else str(value)
            )
            raise UsageError(
                f"expected {told}, got {got} in row {row + 1:,}{more}",
                where=self._where,
                fix=fix or "correct the row",
            )


def _within(values: pa.ChunkedArray, low: int, high: int, *, missing: bool) -> pa.ChunkedArray:
    return pc.fill_null(
        pc.and_(pc.greater_equal(values, low), pc.less_equal(values, high)), missing
    )


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
