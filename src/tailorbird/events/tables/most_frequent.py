"""The most frequent value of each column per owner: attributes repeated on every event."""

from collections.abc import Iterable, Sequence

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

_PARTS = 32  # number of partial counts before they are merged


class MostFrequentValues:
    """Counts of values by owner, batch by batch, in memory for distinct values only.

    Args:
        owner: the column of ids.
        columns: the columns to aggregate. Ties go to the smallest value; empty values are ignored.
    """

    def __init__(self, owner: str, columns: Sequence[str]) -> None:
        self._owner = owner
        self._owners: list[pa.Table] = []
        self._counts: dict[str, list[pa.Table]] = {name: [] for name in columns if name != owner}
        self._nested: set[str] = set()

    def add(self, batch: pa.RecordBatch) -> None:
        """Count the rows of a batch."""
        owner = batch.column(self._owner)
        self._owners = _append_counts(
            self._owners, pa.table({"owner": owner, "count": pa.repeat(1, len(owner))}), ["owner"]
        )
        for name, parts in self._counts.items():
            column = batch.column(name)
            if pa.types.is_nested(column.type):  # Nested values cannot be grouped.
                self._nested.add(name)
                column = pa.array(
                    [
                        None if value is None else msgspec.json.encode(value).decode()
                        for value in column.to_pylist()
                    ],
                    pa.string(),
                )
            rows = pa.table({"owner": owner, "value": column, "count": pa.repeat(1, len(owner))})
            self._counts[name] = _append_counts(
                parts, rows.filter(rows["value"].is_valid()), ["owner", "value"]
            )

    def rows(self) -> pa.RecordBatch | None:
        """Return a row for each owner, in the order in which they came; None without any."""
        if not self._owners:
            return None
        owners = (
            _sum(self._owners, ["owner"])
            .filter(pc.field("owner").is_valid())["owner"]
            .combine_chunks()
        )
        columns = {self._owner: owners}
        for name, parts in self._counts.items():
            if not parts:
                columns[name] = pa.nulls(len(owners))
                continue
            ordered = _sum(parts, ["owner", "value"]).sort_by(
                [("owner", "ascending"), ("count", "descending"), ("value", "ascending")]
            )
            most_frequent = ordered.group_by("owner", use_threads=False).aggregate(
                [("value", "first")]
            )
            owner_rows = pc.index_in(owners, value_set=most_frequent["owner"].combine_chunks())
            values = most_frequent["value_first"].combine_chunks().take(owner_rows)
            if name in self._nested:
                values = pa.array(
                    [
                        None if value is None else msgspec.json.decode(value)
                        for value in values.to_pylist()
                    ]
                )
            columns[name] = values
        return pa.record_batch(list(columns.values()), list(columns))


def _append_counts(parts: list[pa.Table], rows: pa.Table, keys: list[str]) -> list[pa.Table]:
    parts = [*parts, _sum([rows], keys)]
    return [_sum(parts, keys)] if len(parts) > _PARTS else parts


def _sum(parts: Iterable[pa.Table], keys: list[str]) -> pa.Table:
    parts = list(parts)
    for key in keys:
        kinds = {part.schema.field(key).type for part in parts if part.num_rows}
        if len(kinds) > 1:  # numbers here, texts there
            parts = [
                part.set_column(part.schema.get_field_index(key), key, part[key].cast(pa.string()))
                for part in parts
            ]
    table = pa.concat_tables([part for part in parts if part.num_rows] or parts[:1])
    return (
        table.group_by(keys, use_threads=False)
        .aggregate([("count", "sum")])
        .rename_columns([*keys, "count"])
    )
