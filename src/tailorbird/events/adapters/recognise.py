"""Recognition of file formats by file names and first records, for `tailorbird import`."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tailorbird.errors import InputError
from tailorbird.events.adapters.batch import FormatAdapter
from tailorbird.events.adapters.registry import FORMATS
from tailorbird.events.tables.arrow_files import (
    ARROW_SUFFIXES,
    is_arrow_file,
    read_arrow_column_names,
)
from tailorbird.events.tables.files import (
    READ_ERRORS,
    has_no_suffix,
    name_without_compression,
    open_file,
    read_lines,
    read_records,
    suffix_without_compression,
)

_RECORDS_MAX = 20
_HEAD_BYTES = 4096
_IMPORTABLE_SUFFIXES = (
    ".csv",
    ".tsv",
    ".txt",
    ".json",
    ".jsonl",
    ".ndjson",
    *ARROW_SUFFIXES,
    ".dat",
    ".data",
    ".item",
    ".user",
)
_TEXT_SUFFIXES = (".tsv", ".txt", "")
MAPPING_FORMAT = "mapping"  # any other table


def recognise_format(files: list[Path]) -> str | None:
    """Return the format that all of the files share, `mapping` for unknown tables, or None.

    Raises:
        InputError: a file cannot be read.
    """
    formats = {_recognise_file(file) for file in files}
    return formats.pop() if len(formats) == 1 else None


def _recognise_file(file: Path) -> str | None:
    name = name_without_compression(file)
    suffix = suffix_without_compression(file)
    if is_arrow_file(file):
        return _format_of_columns(name, read_arrow_column_names(file))
    if suffix in (".csv", ".tsv"):
        if suffix == ".tsv" and (format_ := _format_of_text(file, name)) is not None:
            return format_
        format_ = _format_of_columns(name, _read_csv_columns(file))
        return format_ if FORMATS[format_].has_csv else MAPPING_FORMAT
    return _format_of_text(file, name) or _format_of_records(file)


def _format_of_text(file: Path, name: str) -> str | None:
    """Return the format of a file of lines, such as `u.data` or a tab-separated log."""
    first_line = b""
    if suffix_without_compression(file) in _TEXT_SUFFIXES:
        _, first_line = next(iter(read_lines(file, strip=False)), (0, b""))
    return _first_match(lambda adapter: adapter.is_text(name, first_line))


def _format_of_columns(name: str, columns: list[str]) -> str:
    return _first_match(lambda adapter: adapter.is_table(name, columns)) or MAPPING_FORMAT


def _first_match(matches: Callable[[FormatAdapter], bool]) -> str | None:
    """Return the most specific format that matches, or None."""
    return next((name for name in reversed(FORMATS) if matches(FORMATS[name])), None)


def _format_of_records(file: Path) -> str | None:
    for record_index, (_, raw) in enumerate(read_records(file)):
        try:
            format_ = _format_of_record(msgspec.json.decode(raw))
        except (msgspec.MsgspecError, RecursionError):
            format_ = None
        if format_ is not None:
            return format_
        if record_index == _RECORDS_MAX:
            return None
    return None


def _format_of_record(record: Any) -> str | None:
    if not isinstance(record, dict):
        return None
    return _first_match(lambda adapter: adapter.is_record(record))


def _read_csv_columns(file: Path) -> list[str]:
    _, header_line = next(iter(read_lines(file)), (0, b""))
    try:
        separator = "\t" if suffix_without_compression(file) == ".tsv" else ","
        return next(
            csv.reader([header_line.decode("utf-8-sig", errors="replace")], delimiter=separator), []
        )
    except csv.Error:
        return []


def list_importable_files(path: Path) -> list[Path]:
    """Return the files at `path` that any format might read.

    Raises:
        InputError: there is nothing there.
    """
    if path.is_file():
        return [path]
    if not path.exists():
        raise InputError("no such file or folder", where=str(path))
    files = sorted(file for file in path.rglob("*") if file.is_file() and _might_be_read(file))
    if not files:
        raise InputError(
            "no file in it that any format reads",
            where=str(path),
            fix="name the format: tailorbird import --help",
        )
    return files


def _might_be_read(file: Path) -> bool:
    if suffix_without_compression(file) in _IMPORTABLE_SUFFIXES:
        return not file.name.lower().startswith("readme")
    return (has_no_suffix(file) or file.suffix == ".gz") and _is_export(file)


def _is_export(file: Path) -> bool:
    """Return whether a file without a telling name is in a format whose exports have none.

    Other files may lie in the same folder.
    """
    try:
        with open_file(file) as stream:
            first_bytes = stream.read(_HEAD_BYTES)
    except READ_ERRORS:
        return True  # The reader of the file reports the damage.
    if b"\x00" in first_bytes:
        return False
    format_ = _recognise_file(file)
    return format_ is not None and FORMATS[format_].may_lack_suffix
