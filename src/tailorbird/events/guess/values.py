"""Data classes of `--guess`: the user's hints and the decisions per column and file."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tailorbird.errors import InputError
from tailorbird.events.tables.forms import TableSpec


class AskError(InputError):
    """A question that the files leave open and one answer settles.

    `choices` are the possible answers.
    """

    def __init__(
        self, message: str, *, where: str = "", fix: str = "", choices: tuple[str, ...] = ()
    ) -> None:
        self.choices = choices
        super().__init__(message, where=where, fix=fix)


@dataclass(frozen=True)
class ColumnGuess:
    """The decision about one column."""

    column: str
    role: str
    why: str


@dataclass(frozen=True)
class SourceGuess:
    """The decision about one file.

    Attributes:
        kind: `events`, `items` or `users`.
        toml: the decision as a `[[source]]` table of mapping.toml.
        types: event type → rows of the sample, most frequent first, as the mapping calls them.
        values: text in the column of types → event type.
        table_spec: how the file is written.
        ts_format: of its times, where they are not ISO 8601.
        sample: rows from all over the file.
    """

    file: Path
    kind: str
    columns: list[ColumnGuess]
    toml: str
    ts_unit: str
    types: dict[str, int]
    values: dict[str, str]
    table_spec: TableSpec
    ts_format: str
    sample: pa.RecordBatch


@dataclass(frozen=True)
class MappingHints:
    """What the user states where the files leave something open.

    Attributes:
        columns: names of the columns, where the first line does not have them.
        ts_format: of times, for `strptime`.
    """

    columns: tuple[str, ...] = ()
    ts_format: str = ""


NO_HINTS = MappingHints()
