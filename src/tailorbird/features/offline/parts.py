"""A backfill on disk: Parquet parts by group of columns and range of requests, and a manifest.

    folder/manifest.json         inputs, ranges of requests, and the group of each column
    folder/<group>/rows-00003.parquet       a row per item: numbers as float32, categories as hash64
    folder/<group>/requests-00003.parquet   a row per request: lists of item, type, ts per sequence

A group is what one run computed. A part is renamed into place once complete, so existing parts are
never recomputed. A column belongs to its definition (the schema hash of a set of it alone): once
changed, it is another column. Other events or requests reset the folder. Everything can be
recomputed from the lake, so nothing is synced.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tailorbird.errors import DamageError, NotReadyError
from tailorbird.features.offline.bulk import BackfilledRows, RaggedSequence

FOLDER_FORMAT = 1


class ColumnGroup(msgspec.Struct, frozen=True, omit_defaults=True):
    """Columns computed together, by definition; `is_complete` once every part is complete."""

    columns: dict[str, str]
    is_complete: bool = False


class Manifest(msgspec.Struct, frozen=True):
    """The content of a folder.

    Attributes:
        inputs: hash of the requests and the name of the events.
        cuts: first request of each part, and the number of requests; likewise `row_cuts` for rows.
    """

    inputs: str
    cuts: list[int]
    row_cuts: list[int]
    groups: dict[str, ColumnGroup] = {}
    format: int = FOLDER_FORMAT

    @property
    def part_count(self) -> int:
        return len(self.cuts) - 1

    def group_of(self, name: str, definition: str) -> str | None:
        """Return the complete group that has the column with this definition."""
        return next(
            (
                group_key
                for group_key, group in self.groups.items()
                if group.is_complete and group.columns.get(name) == definition
            ),
            None,
        )


@dataclass(frozen=True)
class BackfilledPart:
    """The columns of requests [start, stop), whose rows are [row_start, row_stop)."""

    start: int
    stop: int
    row_start: int
    row_stop: int
    rows: BackfilledRows


class BackfillFolder:
    """A folder of parts for given inputs; groups of other inputs are deleted."""

    def __init__(self, path: Path, expected: Manifest) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        stored_manifest = read_manifest(path) if (path / "manifest.json").exists() else None
        if stored_manifest is not None and (stored_manifest.format, stored_manifest.inputs) != (
            expected.format,
            expected.inputs,
        ):
            for group_key in stored_manifest.groups:
                shutil.rmtree(path / group_key, ignore_errors=True)
            stored_manifest = None
        # Existing bounds stay, whatever the memory setting: existing parts match them.
        self.manifest = stored_manifest or expected
        self._write()

    def begin(self, group_key: str, columns: Mapping[str, str]) -> None:
        (self.path / group_key).mkdir(exist_ok=True)
        self._set_group(group_key, ColumnGroup(dict(columns)))

    def end(self, group_key: str) -> None:
        self._set_group(
            group_key, msgspec.structs.replace(self.manifest.groups[group_key], is_complete=True)
        )

    def has_part(self, group_key: str, part_index: int) -> bool:
        return all(
            self._file(group_key, kind, part_index).exists() for kind in ("rows", "requests")
        )

    def write(self, group_key: str, part_index: int, rows: BackfilledRows) -> None:
        numbers = {
            name: pa.array(np.ascontiguousarray(rows.numeric[:, i]))
            for i, name in enumerate(rows.numeric_names)
        }
        categories = {
            name: pa.array(np.ascontiguousarray(rows.categorical[:, i]))
            for i, name in enumerate(rows.categorical_names)
        }
        lists = {}
        for name, sequence in rows.sequences.items():
            offsets = pa.array(sequence.offsets)
            columns = {
                "item": sequence.item,
                "type": sequence.type,
                "ts": sequence.ts,
                **{f"of {text}": column_values for text, column_values in sequence.values.items()},
            }
            for column, values in columns.items():
                lists[f"{name}.{column}"] = pa.LargeListArray.from_arrays(offsets, pa.array(values))
        for kind, columns in (("rows", numbers | categories), ("requests", lists)):
            target = self._file(group_key, kind, part_index)
            temporary = target.with_suffix(".new")
            pq.write_table(pa.table(columns), temporary, compression="lz4", use_dictionary=False)
            temporary.replace(target)

    def _file(self, group_key: str, kind: str, part_index: int) -> Path:
        return self.path / group_key / f"{kind}-{part_index:05d}.parquet"

    def _set_group(self, group_key: str, group: ColumnGroup) -> None:
        self.manifest = msgspec.structs.replace(
            self.manifest, groups=self.manifest.groups | {group_key: group}
        )
        self._write()

    def _write(self) -> None:
        temporary = self.path / "manifest.json.new"
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(self.manifest)))
        temporary.replace(self.path / "manifest.json")


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a folder.

    Raises:
        NotReadyError: there is no backfill in the folder.
        DamageError: its manifest cannot be read.
    """
    path = folder / "manifest.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise NotReadyError(
            "there is no backfill here", where=str(folder), fix="tailorbird features backfill"
        ) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DamageError(
            f"not the manifest of a backfill: {error}",
            where=str(path),
            fix="remove the folder and run it again",
        ) from None


def read_parts(folder: Path, columns: Mapping[str, str]) -> Iterator[BackfilledPart]:
    """Yield the columns (name → definition, from `inputs.definitions`) part by part, in request
    order.

    Raises:
        NotReadyError: a column is missing or incomplete.
    """
    manifest = read_manifest(folder)
    columns_by_group: dict[str, list[str]] = {}
    for name, definition in columns.items():
        group_key = manifest.group_of(name, definition)
        if group_key is None:
            raise NotReadyError(
                f"{name} was not backfilled to the end",
                where=str(folder),
                fix="tailorbird features backfill",
            )
        columns_by_group.setdefault(group_key, []).append(name)
    for part_index in range(manifest.part_count):
        tables = {
            kind: {
                group_key: pq.read_table(folder / group_key / f"{kind}-{part_index:05d}.parquet")
                for group_key in columns_by_group
            }
            for kind in ("rows", "requests")
        }
        group_by_column = {
            name: group_key for group_key, names in columns_by_group.items() for name in names
        }
        start, stop = manifest.cuts[part_index : part_index + 2]
        row_start, row_stop = manifest.row_cuts[part_index : part_index + 2]
        yield BackfilledPart(
            start,
            stop,
            row_start,
            row_stop,
            _assemble_rows(list(columns), group_by_column, tables, row_stop - row_start),
        )


def _assemble_rows(
    names: Sequence[str],
    group_by_column: Mapping[str, str],
    tables: Mapping[str, Mapping[str, pa.Table]],
    row_count: int,
) -> BackfilledRows:
    columns_on_disk = {
        name: tables["rows"][group_key][name]
        for name, group_key in group_by_column.items()
        if name in tables["rows"][group_key].column_names
    }
    numeric = tuple(
        name
        for name in names
        if name in columns_on_disk and columns_on_disk[name].type == pa.float32()
    )
    categorical = tuple(
        name
        for name in names
        if name in columns_on_disk and columns_on_disk[name].type == pa.uint64()
    )
    numbers = np.empty((row_count, len(numeric)), np.float32)
    categories = np.empty((row_count, len(categorical)), np.uint64)
    for table, columns in ((numbers, numeric), (categories, categorical)):
        for index, name in enumerate(columns):
            table[:, index] = columns_on_disk[name].to_numpy()
    sequences = {}
    for name in (name for name in names if name not in columns_on_disk):
        table = tables["requests"][group_by_column[name]]
        own_columns = [column for column in table.column_names if column.startswith(f"{name}.")]
        columns = {
            column.removeprefix(f"{name}."): table[column].combine_chunks()
            for column in own_columns
        }
        flat_columns = {
            column: column_lists.flatten().to_numpy() for column, column_lists in columns.items()
        }
        offsets = columns["ts"].offsets.to_numpy()
        values = {
            column.removeprefix("of "): values
            for column, values in flat_columns.items()
            if column.startswith("of ")
        }
        sequences[name] = RaggedSequence(
            offsets - offsets[0],
            flat_columns["item"],
            flat_columns["type"],
            flat_columns["ts"],
            values,
        )
    return BackfilledRows(numbers, categories, sequences, numeric, categorical)
