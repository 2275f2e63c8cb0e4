"""The form of a CSV file: its delimiter, header and decimal sign."""

import csv
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tailorbird.errors import InputError
from tailorbird.events.tables.encodings import open_table
from tailorbird.events.tables.files import DAMAGED, bare_suffix

DELIMITERS = (",", ";", "\t", "|")
_HEAD = 256 << 10


@dataclass(frozen=True)
class Join:
    """Another table whose columns each row gets by a shared key.

    Attributes:
        file: the other table, written in the same form; its requested columns are held in memory.
        on: the column of the key. Of several rows with one key the first counts; a row without a
            match gets nulls.
    """

    file: Path
    on: str


@dataclass(frozen=True)
class TableForm:
    """The form of a CSV file, and the tables that are joined to it.

    Attributes:
        delimiter: between values; "" takes a tab for `.tsv` and a comma for the rest.
        decimal: of its numbers, "." or ",". With a comma, points divide thousands.
        columns: names of its columns, where its first line does not have them.
        joins: further tables, in this order: a later one may be joined by a column of an earlier
            one.
    """

    delimiter: str = ""
    decimal: str = "."
    columns: tuple[str, ...] = ()
    joins: tuple[Join, ...] = ()

    def delimiter_of(self, file: Path) -> str:
        return self.delimiter or ("\t" if bare_suffix(file) == ".tsv" else ",")


DEFAULT_FORM = TableForm()


def sniff_delimiter(file: Path) -> str:
    """Detect the delimiter with DuckDB's sniffer; "" for the one that the file name implies.

    Raises:
        InputError: the file cannot be read.
    """
    head = _read_complete_lines(file)
    usual = TableForm().delimiter_of(file)
    header = head.partition("\n")[0]
    if not head or (
        usual in header and not any(other in header for other in DELIMITERS if other != usual)
    ):
        return ""
    delimiter = _sniff_form(head)
    return "" if delimiter == usual or delimiter not in DELIMITERS else delimiter


def has_header(file: Path, form: TableForm) -> bool:
    """Return whether the first line names the columns.

    None of its values may be a number or a time, and only the first may be empty.
    """
    return not any(_is_value(text, column) for column, text in enumerate(first_row(file, form)))


def first_row(file: Path, form: TableForm) -> list[str]:
    """Return the values of the first line of a text file."""
    return next(
        (
            row
            for row in csv.reader(
                _read_complete_lines(file).splitlines()[:5], delimiter=form.delimiter_of(file)
            )
            if row
        ),
        [],
    )


def _is_value(text: str, column: int) -> bool:
    text = text.strip()
    if not text:
        return column > 0  # pandas writes no name above its index
    return text[:1].isdigit() and (text[-1:].isdigit() or text[-1:] in "ZM")


def _read_complete_lines(file: Path) -> str:
    """Return the complete lines at the start of a file."""
    try:
        with open_table(file) as stream:
            head = stream.read(_HEAD)
    except DAMAGED as error:
        raise InputError(f"damaged: {error}", where=str(file)) from None
    full_lines = head if len(head) < _HEAD else head.rpartition(b"\n")[0]
    return full_lines.decode(errors="replace").removeprefix("\ufeff")


def _sniff_form(head: str) -> str:
    try:
        import duckdb
    except ModuleNotFoundError:
        raise InputError(
            "to recognise how it is written, DuckDB is needed",
            fix="pip install 'tailorbird[files]'",
        ) from None
    with tempfile.NamedTemporaryFile("w", suffix=".csv", encoding="utf-8", newline="") as scratch:
        scratch.write(head)
        scratch.flush()
        try:
            with duckdb.connect() as connection:
                row = connection.execute(
                    "SELECT Delimiter FROM sniff_csv(?, quote = '\"')", [scratch.name]
                ).fetchone()
        except duckdb.Error:  # DuckDB does not recognise a table.
            return ""
    return "" if row is None else row[0]
