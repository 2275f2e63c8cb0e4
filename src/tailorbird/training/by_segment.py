"""What is popular or trending by country or device, for many requests at once, from the newest index that each may see.

The same lists that a server finds for one request (`retrieval.candidates.by_segment`), with items by code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.retrieval import Index
from tailorbird.retrieval.candidates import by_segment

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RollingSegments:
    """Indexes by the moment of which they are, ascending; `keys`: of items by code."""

    moments: Ints
    indexes: Sequence[Index]
    keys: npt.NDArray[np.uint64]

    def best(self, source: str, t: Ints, context: pa.Table, n: int) -> tuple[Ints, Ints]:
        """The best `n` items of each request: (request, item), the best first within a request.

        Args:
            source: such as `popular_by:country`.
            context: of the requests, with that column.
        """
        field = source.partition(":")[2]
        place = np.searchsorted(self.moments, t, side="right") - 1
        encoded = context[field].combine_chunks().dictionary_encode()
        segment, values = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), encoded.dictionary.to_pylist()
        parts = [np.zeros((2, 0), np.int64)]
        for number in np.unique(place[place >= 0]).tolist():
            index = self.indexes[number]
            row = index.find(self.keys)
            code = np.full(len(index), -1, np.int64)
            code[row[row >= 0]] = np.flatnonzero(row >= 0)
            for each in np.unique(segment[place == number]).tolist():
                asked = np.flatnonzero((place == number) & (segment == each))
                _, found = by_segment(index, source, {field: values[each] if each >= 0 else None}, n)
                item = code[found.rows]
                item = item[item >= 0]
                parts.append(np.stack([np.repeat(asked, item.size), np.tile(item, asked.size)]))
        request, item = np.concatenate(parts, axis=1)
        return request, item
