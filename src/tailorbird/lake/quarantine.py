"""Read the quarantine, the refused rows, by reason, path and time. `lake.write.replay` resends
them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tailorbird.events.contract.schema import TIME_TYPE, micros
from tailorbird.lake.lake import Lake

SLICE_ROWS = 10_000
ROW_KEY_COLUMNS = ("raw_partition", "raw_offset", "raw_row")

RowKey = tuple[str, int, int]  # partition, offset and row number in the raw logs


@dataclass(frozen=True)
class QuarantineFilter:
    """A selection of refused rows.

    Attributes:
        reasons: codes; empty for all.
        path: the wrong field, such as `$.properties.price`, or a parent, such as `$.properties`.
        since: received at this time (microseconds) or later.
    """

    reasons: tuple[str, ...] = ()
    path: str = ""
    since: int | None = None

    def to_arrow_filter(self) -> ds.Expression | None:
        """Return the selection as an Arrow filter, or None for all rows."""
        conditions: list[ds.Expression] = []
        if self.reasons:
            conditions.append(ds.field("code").isin(list(self.reasons)))
        if self.path:
            is_property, is_element = (
                pc.starts_with(ds.field("path"), pattern=self.path + separator)
                for separator in (".", "[")
            )
            conditions.append((ds.field("path") == self.path) | is_property | is_element)
        if self.since is not None:
            conditions.append(ds.field("received_at") >= pa.scalar(self.since, TIME_TYPE))
        return _conjunction(conditions)


@dataclass
class ReasonSummary:
    """A summary of the rows refused for one reason.

    Attributes:
        replayed: rows that were replayed since, or were in the lake already.
        first, last: receipt of the first and the last row, microseconds.
        paths: row counts by wrong field, most frequent first.
    """

    code: str
    rows: int = 0
    replayed: int = 0
    first: int = 0
    last: int = 0
    paths: dict[str, int] = field(default_factory=dict)


def summarize_reasons(
    lake: Lake, selection: QuarantineFilter, replayed_keys: frozenset[RowKey]
) -> list[ReasonSummary]:
    """Return the reasons among the selected rows, most frequent first."""
    table = lake.table(
        "quarantine", ["code", "path", "received_at", *ROW_KEY_COLUMNS], selection.to_arrow_filter()
    )
    summaries: list[ReasonSummary] = []
    for code in pc.unique(table.column("code")).to_pylist():
        rows = table.filter(pc.equal(table.column("code"), code))
        times = micros(rows.column("received_at"))
        path_counts = (
            rows.group_by("path")
            .aggregate([("path", "count")])
            .sort_by([("path_count", "descending"), ("path", "ascending")])
        )
        paths = dict(
            zip(
                path_counts.column("path").to_pylist(),
                path_counts.column("path_count").to_pylist(),
                strict=True,
            )
        )
        replayed_count = (
            sum(row_key in replayed_keys for row_key in row_keys(rows)) if replayed_keys else 0
        )
        summaries.append(
            ReasonSummary(
                code, len(rows), replayed_count, int(times.min()), int(times.max()), paths
            )
        )
    return sorted(summaries, key=lambda reason: (-reason.rows, reason.code))


def read_samples(lake: Lake, selection: QuarantineFilter, limit: int) -> list[dict[str, Any]]:
    """Return at most `limit` of the selected rows, the newest first."""
    table = lake.table("quarantine", where=selection.to_arrow_filter()).sort_by(
        [("received_at", "descending"), ("raw_offset", "descending")]
    )
    return table.slice(0, max(0, limit)).to_pylist()


def read_slices(
    lake: Lake, selection: QuarantineFilter, rows_max: int = SLICE_ROWS
) -> Iterator[pa.Table]:
    """Yield the selected rows in order of receipt, in slices of about `rows_max`.

    Rows of one body stay together.
    """
    condition = selection.to_arrow_filter()
    table = lake.table("quarantine", ["received_at", "raw_offset"], condition)
    times = micros(table.column("received_at"))
    offsets = table.column("raw_offset").to_numpy()
    slice_start_rows = np.lexsort((offsets, times))[::rows_max]
    slice_starts = list(
        dict.fromkeys(
            zip(times[slice_start_rows].tolist(), offsets[slice_start_rows].tolist(), strict=True)
        )
    )
    for number, start in enumerate(slice_starts):
        conditions = [
            filter_ for filter_ in (condition, _at_or_after(*start)) if filter_ is not None
        ]
        if number + 1 < len(slice_starts):
            conditions.append(~_at_or_after(*slice_starts[number + 1]))
        yield lake.table("quarantine", where=_conjunction(conditions)).sort_by(
            [(name, "ascending") for name in ("received_at", *ROW_KEY_COLUMNS)]
        )


def _at_or_after(received_at: int, offset: int) -> ds.Expression:
    """Return the filter for rows at this time and offset or later."""
    received_scalar = pa.scalar(received_at, TIME_TYPE)
    return (ds.field("received_at") > received_scalar) | (
        (ds.field("received_at") == received_scalar) & (ds.field("raw_offset") >= offset)
    )


def count_rows(lake: Lake, selection: QuarantineFilter) -> int:
    """Return the number of selected rows."""
    return lake.table("quarantine", ["code"], selection.to_arrow_filter()).num_rows


def row_keys(rows: pa.Table) -> list[RowKey]:
    """Return the partition, offset and row number of each row in the raw logs."""
    return list(zip(*(rows.column(name).to_pylist() for name in ROW_KEY_COLUMNS), strict=True))


def _conjunction(conditions: Sequence[ds.Expression]) -> ds.Expression | None:
    combined: ds.Expression | None = None
    for condition in conditions:
        combined = condition if combined is None else combined & condition
    return combined
