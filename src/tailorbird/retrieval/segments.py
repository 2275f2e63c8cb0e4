"""What is popular where: the items that most people of one country, or with one kind of device, looked at, as of an index.

    segments.arrow    window, field, value, rows (list of int32), counts (list of int32): one line a segment, its most looked at item first

Of each window and field the segments with most interests are kept, at most `SEGMENTS_MAX`, and of each its first `ITEMS_MAX` items. What a
server counts by itself between indexes, for when nothing can be known of the person, stands in `serving.segments`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.events.clock import DAY, HOUR

Ints = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Key = tuple[str, str, str]  # window, field, value

FILE = "segments.arrow"
FIELDS = ("country", "device")  # the narrower first
SPANS_US = {"7d": 7 * DAY, "1h": HOUR}
INTERESTS_MIN = 20  # fewer say nothing
SEGMENTS_MAX = 300
ITEMS_MAX = 2_000  # of a segment
_SCHEMA = pa.schema(
    [*((name, pa.string()) for name in ("window", "field", "value")), *((name, pa.list_(pa.int32())) for name in ("rows", "counts"))]
)


@dataclass(frozen=True)
class Segments:
    """Items by segment. It never changes.

    Attributes:
        lists: (window, field, value) → rows of the index, the most looked at first, and how often each was.
    """

    lists: Mapping[Key, tuple[Int32s, Int32s]]

    def files(self) -> dict[str, bytes]:
        """None where there is no segment."""
        if not self.lists:
            return {}
        lines = [(*key, *self.lists[key]) for key in sorted(self.lists)]
        arrays = [pa.array(column, field.type) for column, field in zip(zip(*lines, strict=True), _SCHEMA, strict=True)]
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, _SCHEMA) as writer:
            writer.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA))
        return {FILE: sink.getvalue().to_pybytes()}

    @classmethod
    def read(cls, files: Mapping[str, bytes], rows: int) -> "Segments | None":
        """From the files of an index, None where it has none. Raises ValueError or an error of Arrow's if they are damaged."""
        if FILE not in files:
            return None
        table = pa.ipc.open_file(pa.BufferReader(files[FILE])).read_all()
        table.validate(full=True)
        if table.schema != _SCHEMA or any(column.null_count for column in table.columns):
            raise ValueError("the segments have other columns")
        keys = zip(*(table[name].to_pylist() for name in ("window", "field", "value")), strict=True)
        lists = dict(zip(keys, zip(_split(table["rows"]), _split(table["counts"]), strict=True), strict=True))
        for key, (items, counts) in lists.items():
            if items.size != counts.size or np.unique(items).size != items.size:
                raise ValueError(f"the segment {key} does not have each item once")
            if items.size and not (int(items.min()) >= 0 and int(items.max()) < rows):
                raise ValueError(f"the segment {key} names an item that does not exist")
        return cls(lists)


def count_segments(seen: pa.Table, row: Ints, ts: Ints, as_of: int, counts: Mapping[str, Ints]) -> Segments:
    """The segments of a log.

    Args:
        seen: interests, whose columns of `FIELDS` are counted; one that is not there has no segments.
        row, ts: (m,): of each interest, its item's row and its time.
        counts: window → (n,): interests of everybody in each item, which decide between items that a segment likes alike.
    """
    lists: dict[Key, tuple[Int32s, Int32s]] = {}
    for field in (name for name in FIELDS if name in seen.column_names):
        encoded = seen[field].combine_chunks().dictionary_encode()
        code, values = encoded.indices.fill_null(-1).to_numpy().astype(np.int64), encoded.dictionary.to_pylist()
        for window, span in SPANS_US.items():
            kept = (ts >= as_of - span) & (code >= 0)
            for value, items, times in _largest(code[kept], row[kept], len(values), counts[window]):
                lists[window, field, values[value]] = items, times
    return Segments(lists)


def _largest(code: Ints, row: Ints, values: int, everybody: Ints) -> Iterator[tuple[int, Int32s, Int32s]]:
    """Of each segment that is large enough its code, items and how often each was looked at."""
    total = np.bincount(code, minlength=values)
    largest = np.argsort(-total, kind="stable")[:SEGMENTS_MAX]
    pair, times = np.unique(code * everybody.size + row, return_counts=True)
    of, item = pair // max(everybody.size, 1), pair % max(everybody.size, 1)
    for value in largest[total[largest] >= INTERESTS_MIN].tolist():
        here = slice(*np.searchsorted(of, [value, value + 1]))
        order = np.lexsort((item[here], -everybody[item[here]], -times[here]))[:ITEMS_MAX]
        yield value, item[here][order].astype(np.int32), times[here][order].astype(np.int32)


def _split(column: pa.ChunkedArray) -> list[Int32s]:
    """The lists of a column; views, so that nothing is held twice."""
    lists = column.combine_chunks()
    values = lists.flatten()
    if values.null_count:
        raise ValueError("a segment has an item without a number")
    return np.split(values.to_numpy(), np.cumsum(lists.value_lengths().to_numpy())[:-1])
