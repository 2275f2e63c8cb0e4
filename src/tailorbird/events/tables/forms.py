"""The form of a CSV file: its delimiter, header and decimal sign."""

import csv
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tailorbird.errors import InputError
from tailorbird.events.tables.encodings import open_table
from tailorbird.events.tables.files import READ_ERRORS, suffix_without_compression

DELIMITERS = (",", ";", "\t", "|")
_SNIFFED_BYTES = 256 << 10


@dataclass(frozen=True)
class Join:
    """Another table whose columns each row gets by a shared key.

    Attributes:
        file: the other table, written in the same form; its requested columns are held in memory.
        key_column: the column of the key. Of several rows with one key the first counts; a row
            without a match gets nulls.
    """

    file: Path
    key_column: str


@dataclass(frozen=True)
class TableSpec:
    """The form of a CSV file, and the tables that are joined to it.

    Attributes:
        delimiter: between values; "" takes a tab for `.tsv` and a comma for the rest.
        decimal_sign: of its numbers, "." or ",". With a comma, points divide thousands.
        columns: names of its columns, where its first line does not have them.
        joins: further tables, in this order: a later one may be joined by a column of an earlier
            one.
    """

    delimiter: str = ""
    decimal_sign: str = "."
    columns: tuple[str, ...] = ()
    joins: tuple[Join, ...] = ()

    def get_delimiter(self, file: Path) -> str:
        return self.delimiter or ("\t" if suffix_without_compression(file) == ".tsv" else ",")


DEFAULT_TABLE_SPEC = TableSpec()


def sniff_delimiter(file: Path) -> str:
    """Detect the delimiter with DuckDB's sniffer; "" for the one that the file name implies.

    Raises:
        InputError: the file cannot be read.
    """
    first_lines = _read_complete_lines(file)
    default_delimiter = TableSpec().get_delimiter(file)
    header = first_lines.partition("\n")[0]
    if not first_lines or (
        default_delimiter in header
        and not any(other in header for other in DELIMITERS if other != default_delimiter)
    ):
        return ""
    delimiter = _run_sniffer(first_lines)
    return "" if delimiter == default_delimiter or delimiter not in DELIMITERS else delimiter


def has_header(file: Path, table_spec: TableSpec) -> bool:
    """Return whether the first line names the columns.

    None of its values may be a number or a time, and only the first may be empty.
    """
    return not any(
        _is_data_value(text, column_index)
        for column_index, text in enumerate(read_first_row(file, table_spec))
    )


def read_first_row(file: Path, table_spec: TableSpec) -> list[str]:
    """Return the values of the first line of a text file."""
    return next(
        (
            row
            for row in csv.reader(
                _read_complete_lines(file).splitlines()[:5],
                delimiter=table_spec.get_delimiter(file),
            )
            if row
        ),
        [],
    )


def _is_data_value(text: str, column_index: int) -> bool:
    """Return whether a text of the first line is a value rather than the name of its column."""
    text = text.strip()
    if not text:
        return column_index > 0  # pandas writes no name above its index
    return text[:1].isdigit() and (text[-1:].isdigit() or text[-1:] in "ZM")


def _read_complete_lines(file: Path) -> str:
    """Return the complete lines at the start of a file."""
    try:
        with open_table(file) as stream:
            first_bytes = stream.read(_SNIFFED_BYTES)
    except READ_ERRORS as error:
        raise InputError(f"damaged: {error}", where=str(file)) from None
    full_lines = (
        first_bytes if len(first_bytes) < _SNIFFED_BYTES else first_bytes.rpartition(b"\n")[0]
    )
    return full_lines.decode(errors="replace").removeprefix("\ufeff")


def _run_sniffer(first_lines: str) -> str:
    try:
        import duckdb
    except ModuleNotFoundError:
        raise InputError(
            "to recognise how it is written, DuckDB is needed",
            fix="pip install 'tailorbird[files]'",
        ) from None
    with tempfile.NamedTemporaryFile(
        "w", suffix=".csv", encoding="utf-8", newline=""
    ) as temporary_file:
        temporary_file.write(first_lines)
        temporary_file.flush()
        try:
            with duckdb.connect() as connection:
                row = connection.execute(
                    "SELECT Delimiter FROM sniff_csv(?, quote = '\"')", [temporary_file.name]
                ).fetchone()
        except duckdb.Error:  # DuckDB does not recognise a table.
            return ""
    return "" if row is None else row[0]
