"""Data classes of `--guess`: the user's hints and the decisions per column and file."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tailorbird.errors import InputError
from tailorbird.events.tables.forms import TableSpec

ROLE_OPTIONS = {
    "ts": "time",
    "user_id": "person",
    "session_id": "session",
    "item_id": "item",
    "type": "type",
}  # key of the mapping → option that names its column
ROLE_QUESTIONS = {
    "ts": "When did it happen?",
    "user_id": "Who acts?",
    "session_id": "Which visit or order was it?",
    "item_id": "What was it done with?",
    "type": "What was done?",
}


class AskError(InputError):
    """A question that the files leave open and one answer settles.

    `choices` are the possible answers, the proposal first, and `option` is what takes one.
    """

    def __init__(
        self,
        message: str,
        *,
        where: str = "",
        fix: str = "",
        choices: tuple[str, ...] = (),
        option: str = "ts-format",
    ) -> None:
        self.choices = choices
        self.option = option
        super().__init__(message, where=where, fix=fix)


@dataclass(frozen=True)
class ColumnGuess:
    """The decision about one column."""

    column: str
    role: str
    why: str


@dataclass(frozen=True)
class Doubt:
    """A role for which two columns are nearly as good.

    Attributes:
        role: key of the mapping.
        option: of `init`, without its hyphens.
        proposal: the best column, "" for none.
        descriptions: what the candidates hold, in the order of `candidates`.
        candidates: the columns, best first.
        margin: points by which the proposal leads.
    """

    role: str
    option: str
    proposal: str
    descriptions: tuple[str, ...]
    candidates: tuple[str, ...]
    margin: float


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
    doubts: tuple[Doubt, ...] = ()


@dataclass(frozen=True)
class MappingHints:
    """What the user states where the files leave something open.

    Attributes:
        columns: names of the columns, where the first line does not have them.
        ts_format: of times, for `strptime`.
        roles: (key of the mapping, `COLUMN` or `FILE:COLUMN`); the column `none` says that there
            is none.
    """

    columns: tuple[str, ...] = ()
    ts_format: str = ""
    roles: tuple[tuple[str, str], ...] = ()

    def get_roles(self, file_name: str, names: list[str]) -> dict[str, str]:
        """Return role → column of a file, "" where there is none."""
        stated: dict[str, str] = {}
        for role, place in self.roles:
            file, _, column = place.rpartition(":")
            if place == "none":
                stated[role] = ""
            elif place in names:
                stated[role] = place
            elif column in names and file == file_name:
                stated[role] = column
        return stated


NO_HINTS = MappingHints()
