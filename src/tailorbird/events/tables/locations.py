"""Data that are no plain files, written into a folder of plain files that is imported like any other.

    frame, list of dicts      events.parquet or events.jsonl, items.…, users.…
    zip                       the files in it
    workbook, SQLite, DuckDB  one file a sheet or table

The same content gives the same files, so that a repeated import is recognised by their digests.
"""

import re
import sqlite3
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from tailorbird.errors import InputError, UsageError
from tailorbird.events.tables.files import suffix_without_compression

if TYPE_CHECKING:
    from python_calamine import CalamineWorkbook

_NAMELESS_INDEX = re.compile(r"__index_level_\d+__")  # as pandas calls an index without a name
_encode = msgspec.json.Encoder(enc_hook=str).encode


@runtime_checkable
class ArrowStream(Protocol):
    """A table with Arrow's C stream interface, such as a frame of pandas, Polars or DuckDB."""

    def __arrow_c_stream__(self, requested_schema: object = None, /) -> object: ...


TableData = ArrowStream | Sequence[Mapping[str, Any]]
"""A frame, or a list of dicts with one dict a row."""


def write_table_data(data: TableData, folder: Path, name: str) -> None:
    """Write a table in memory as a file called `name`.

    Raises:
        UsageError: it is neither a frame nor a list of dicts.
        InputError: it has no row, or a column cannot be written.
    """
    if isinstance(data, ArrowStream):
        try:
            table = pa.table(data)
            index_names = [name for name in table.column_names if _NAMELESS_INDEX.fullmatch(name)]
            table = table.drop_columns(index_names)
            pq.write_table(table.replace_schema_metadata(None), folder / f"{name}.parquet")
        except (pa.ArrowException, TypeError) as error:
            raise InputError(
                f"a column cannot be written: {error}",
                where=name,
                fix="give the column one type, such as text",
            ) from None
        row_count = table.num_rows
    elif isinstance(data, list | tuple) and all(isinstance(row, Mapping) for row in data):
        _write_rows((dict(row) for row in data), folder / f"{name}.jsonl")
        row_count = len(data)
    else:
        raise UsageError(
            f"expected a table, got {type(data).__name__}",
            where=name,
            fix="give a frame of pandas, Polars, PyArrow or DuckDB, or a list of dicts",
        )
    if not row_count:
        raise InputError("holds no row", where=name)


@contextmanager
def write_tables(tables: Mapping[str, TableData | None], parent: Path | None) -> Iterator[Path]:
    """Write tables in memory into a temporary folder, one file each; those that are None are left
    out.

    Args:
        parent: the folder for temporary files; None takes the system's.
    """
    with _temporary_folder(parent) as folder:
        for name, data in tables.items():
            if data is not None:
                write_table_data(data, folder, name)
        yield folder


@contextmanager
def open_location(path: Path, parent: Path | None = None) -> Iterator[Path]:
    """Unpack a file that holds several tables, and return the folder; return any other path as it
    is.

    Args:
        parent: the folder for temporary files; None takes the system's.

    Raises:
        InputError: the file cannot be read.
    """
    container = _CONTAINER_BY_SUFFIX.get(suffix_without_compression(path))
    if container is None or not path.is_file():
        yield path
        return
    with _temporary_folder(parent) as folder:
        try:
            container.unpack(path, folder)
        except ModuleNotFoundError as error:
            raise InputError(
                f"to read {container.name}, {error.name} is needed",
                where=str(path),
                fix=f"pip install 'tailorbird[{container.extra}]'",
            ) from None
        except (OSError, ValueError, RuntimeError, sqlite3.Error, zipfile.BadZipFile) as error:
            raise InputError(
                f"cannot be read as {container.name}: {error}", where=str(path)
            ) from None
        if not any(folder.rglob("*")):
            raise InputError("holds no table with rows", where=str(path))
        yield folder


@contextmanager
def _temporary_folder(parent: Path | None) -> Iterator[Path]:
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tailorbird-", dir=parent) as name:
        yield Path(name)


def _write_rows(rows: Iterable[Mapping[str, Any]], file: Path) -> None:
    """Write rows as JSON lines, whose reader copes with columns of several types."""
    with file.open("wb") as stream:
        for row in rows:
            stream.write(_encode({str(key): value for key, value in row.items()}) + b"\n")


def _unpack_zip(file: Path, folder: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            name = Path(member.filename).name
            if not (member.is_dir() or member.filename.startswith("__MACOSX/") or name[:1] == "."):
                archive.extract(member, folder)  # It removes `..` and absolute paths.


def _unpack_workbook(file: Path, folder: Path) -> None:
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        _unpack_sheets(CalamineWorkbook.from_path(str(file)), folder)
    except CalamineError as error:
        raise ValueError(str(error)) from None


def _unpack_sheets(workbook: "CalamineWorkbook", folder: Path) -> None:
    for sheet_name in workbook.sheet_names:
        rows = workbook.get_sheet_by_name(sheet_name).iter_rows()
        header = next((row for row in rows if any(cell != "" for cell in row)), None)
        records = [] if header is None else list(_to_records(header, rows))
        if records:
            _write_rows(records, folder / f"{_to_file_name(sheet_name)}.jsonl")


def _to_records(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> Iterator[dict[str, Any]]:
    names = [str(cell).strip() or f"column_{index}" for index, cell in enumerate(header, 1)]
    for row in rows:
        values = [_to_cell_value(cell) for cell in row]
        if any(value is not None for value in values):
            yield dict(zip(names, values, strict=False))


def _to_cell_value(cell: Any) -> Any:
    """Return the value of a cell: empty ones are null, and whole numbers have no fraction."""
    if cell == "":
        return None
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    if isinstance(cell, timedelta):
        return cell.total_seconds()
    return cell.isoformat() if isinstance(cell, datetime | date | time) else cell


def _unpack_sqlite(file: Path, folder: Path) -> None:
    uri = f"{file.resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        for (table_name,) in connection.execute(query).fetchall():
            cursor = connection.execute(f"SELECT * FROM {_quote(table_name)}")
            names = [column[0] for column in cursor.description]
            records = (
                {
                    name: None if isinstance(value, bytes) else value
                    for name, value in zip(names, row, strict=True)
                }
                for row in cursor
            )
            target = folder / f"{_to_file_name(table_name)}.jsonl"
            _write_rows(records, target)
            if not target.stat().st_size:
                target.unlink()


def _unpack_duckdb(file: Path, folder: Path) -> None:
    import duckdb

    try:
        with duckdb.connect(str(file), read_only=True) as connection:
            query = (
                "SELECT table_schema, table_name FROM information_schema.tables "
                "WHERE table_type = 'BASE TABLE'"
            )
            for schema_name, table_name in connection.execute(query).fetchall():
                relation = connection.table(f"{_quote(schema_name)}.{_quote(table_name)}")
                if relation.shape[0]:
                    relation.write_parquet(str(folder / f"{_to_file_name(table_name)}.parquet"))
    except duckdb.Error as error:
        raise ValueError(str(error)) from None


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _to_file_name(name: str) -> str:
    return re.sub(r"[^\w .-]", "_", name).strip(" .") or "table"


@dataclass(frozen=True)
class _Container:
    """A kind of file that holds several tables.

    Attributes:
        extra: the extra of Tailorbird with the library that reads it.
        unpack: writes its tables into a folder, one file each.
    """

    name: str
    suffixes: tuple[str, ...]
    extra: str
    unpack: Callable[[Path, Path], None]


_CONTAINERS = (
    _Container("a zip archive", (".zip",), "", _unpack_zip),
    _Container(
        "a workbook", (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"), "excel", _unpack_workbook
    ),
    _Container("an SQLite database", (".sqlite", ".sqlite3", ".db"), "", _unpack_sqlite),
    _Container("a DuckDB database", (".duckdb", ".ddb"), "files", _unpack_duckdb),
)
_CONTAINER_BY_SUFFIX = {
    suffix: container for container in _CONTAINERS for suffix in container.suffixes
}
