"""The most frequent value of each column per owner (item or user): attributes repeated on every
event.
"""

from collections.abc import Iterable, Sequence

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

_PARTIAL_COUNTS_MAX = 32  # number of partial counts before they are merged


class MostFrequentValues:
    """Counts of values by owner, batch by batch, in memory for distinct values only.

    Args:
        owner_column: the column of ids.
        columns: the columns to aggregate. Ties go to the smallest value; empty values are ignored.
    """

    def __init__(self, owner_column: str, columns: Sequence[str]) -> None:
        self._owner_column = owner_column
        self._owner_counts: list[pa.Table] = []
        self._value_counts: dict[str, list[pa.Table]] = {
            name: [] for name in columns if name != owner_column
        }
        self._nested_columns: set[str] = set()

    def add(self, batch: pa.RecordBatch) -> None:
        """Count the rows of a batch."""
        owner = batch.column(self._owner_column)
        self._owner_counts = _append_counts(
            self._owner_counts,
            pa.table({"owner": owner, "count": pa.repeat(1, len(owner))}),
            ["owner"],
        )
        for name, partial_counts in self._value_counts.items():
            column = batch.column(name)
            if pa.types.is_nested(column.type):  # Nested values cannot be grouped.
                self._nested_columns.add(name)
                column = pa.array(
                    [
                        None if value is None else msgspec.json.encode(value).decode()
                        for value in column.to_pylist()
                    ],
                    pa.string(),
                )
            rows = pa.table({"owner": owner, "value": column, "count": pa.repeat(1, len(owner))})
            self._value_counts[name] = _append_counts(
                partial_counts, rows.filter(rows["value"].is_valid()), ["owner", "value"]
            )

    def to_batch(self) -> pa.RecordBatch | None:
        """Return a row for each owner, in the order in which they came; None without any."""
        if not self._owner_counts:
            return None
        owners = (
            _sum_counts(self._owner_counts, ["owner"])
            .filter(pc.field("owner").is_valid())["owner"]
            .combine_chunks()
        )
        columns = {self._owner_column: owners}
        for name, partial_counts in self._value_counts.items():
            if not partial_counts:
                columns[name] = pa.nulls(len(owners))
                continue
            sorted_counts = _sum_counts(partial_counts, ["owner", "value"]).sort_by(
                [("owner", "ascending"), ("count", "descending"), ("value", "ascending")]
            )
            most_frequent = sorted_counts.group_by("owner", use_threads=False).aggregate(
                [("value", "first")]
            )
            owner_rows = pc.index_in(owners, value_set=most_frequent["owner"].combine_chunks())
            values = most_frequent["value_first"].combine_chunks().take(owner_rows)
            if name in self._nested_columns:
                values = pa.array(
                    [
                        None if value is None else msgspec.json.decode(value)
                        for value in values.to_pylist()
                    ]
                )
            columns[name] = values
        return pa.record_batch(list(columns.values()), list(columns))


def _append_counts(
    partial_counts: list[pa.Table], rows: pa.Table, keys: list[str]
) -> list[pa.Table]:
    partial_counts = [*partial_counts, _sum_counts([rows], keys)]
    return (
        [_sum_counts(partial_counts, keys)]
        if len(partial_counts) > _PARTIAL_COUNTS_MAX
        else partial_counts
    )


def _sum_counts(partial_counts: Iterable[pa.Table], keys: list[str]) -> pa.Table:
    partial_counts = list(partial_counts)
    for key in keys:
        key_types = {
            partial_count.schema.field(key).type
            for partial_count in partial_counts
            if partial_count.num_rows
        }
        if len(key_types) > 1:  # numbers here, texts there
            partial_counts = [
                partial_count.set_column(
                    partial_count.schema.get_field_index(key),
                    key,
                    partial_count[key].cast(pa.string()),
                )
                for partial_count in partial_counts
            ]
    table = pa.concat_tables(
        [partial_count for partial_count in partial_counts if partial_count.num_rows]
        or partial_counts[:1]
    )
    return (
        table.group_by(keys, use_threads=False)
        .aggregate([("count", "sum")])
        .rename_columns([*keys, "count"])
    )
