"""Many past requests and their features, as columns; `features.request` has one."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.errors import UsageError
from tailorbird.features.request import Sequence as RequestSequence

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]
Keys = npt.NDArray[np.uint64]
Texts = Sequence[str | None] | pa.Array | pa.ChunkedArray


@dataclass(frozen=True)
class Requests:
    """A batch of m requests with n rows, each an item of one of the requests.

    Attributes:
        t, log_position: shape (m,), the two times of each request: events with ts < t, routed
            at or before p; where several workers kept the state, p has shape (m, parts), see
            `features.offline.positions`.
        person: m ids as resolved by the router: a user's id, `anon:…`, or None.
        session_id, device, country, local_hour, query: m values each, None where unknown; None
            instead of the column if all are unknown.
        position: m integers from 1, the position at which items are scored; None stands for 1.
        row_request: shape (n,), the request of each row.
        row_item: n item ids.
    """

    t: Int64s
    log_position: Int64s
    person: Texts
    row_request: Intps
    row_item: Texts
    session_id: Texts | None = None
    device: Texts | None = None
    country: Texts | None = None
    local_hour: Sequence[int | None] | pa.Array | pa.ChunkedArray | None = None
    query: Texts | None = None
    position: Sequence[int] | Int64s | None = None

    def __post_init__(self) -> None:
        count = len(self.t)
        for name in (
            "log_position",
            "person",
            "session_id",
            "device",
            "country",
            "local_hour",
            "query",
            "position",
        ):
            column = getattr(self, name)
            if column is not None and len(column) != count:
                raise UsageError(
                    f"expected {count:,} values, one a request, got {len(column):,}",
                    where=f"requests.{name}",
                )
        if len(self.row_item) != len(self.row_request):
            raise UsageError(
                f"expected {len(self.row_request):,} items, one a row, got {len(self.row_item):,}",
                where="requests.row_item",
            )
        if (
            len(self.row_request)
            and not 0 <= self.row_request.min() <= self.row_request.max() < count
        ):
            raise UsageError(
                f"a row names a request outside 0 to {count - 1}", where="requests.row_request"
            )

    def slice_requests(self, start: int, stop: int, rows: slice) -> "Requests":
        """Return the requests [start, stop) with their rows, which are contiguous."""
        columns: dict[str, Any] = {
            field_.name: getattr(self, field_.name)
            for field_ in fields(self)
            if not field_.name.startswith("row_")
        }
        sliced_columns: dict[str, Any] = {
            name: None if column is None else column[start:stop] for name, column in columns.items()
        }
        return Requests(
            **sliced_columns,
            row_request=self.row_request[rows] - start,
            row_item=self.row_item[rows],
        )

    def take(self, request_indexes: Intps, row_indexes: Intps) -> "Requests":
        """Return the given requests, in ascending order, with the given rows."""
        columns: dict[str, Any] = {
            field_.name: getattr(self, field_.name)
            for field_ in fields(self)
            if not field_.name.startswith("row_")
        }
        taken_columns: dict[str, Any] = {
            name: None if column is None else _take(column, request_indexes)
            for name, column in columns.items()
        }
        return Requests(
            **taken_columns,
            row_request=np.searchsorted(request_indexes, self.row_request[row_indexes]),
            row_item=_take(self.row_item, row_indexes),
        )


def _take(column: Any, indexes: Intps) -> Any:
    if isinstance(column, pa.Array | pa.ChunkedArray):
        return column.take(pa.array(indexes))
    return (
        column[indexes]
        if isinstance(column, np.ndarray)
        else [column[row] for row in indexes.tolist()]
    )


@dataclass(frozen=True)
class RaggedSequence:
    """A sequence of each request: entries `offsets[i]` to `offsets[i + 1]`, oldest first.

    Columns are those of `request.Sequence`.
    """

    offsets: Int64s
    item: Keys
    type: Keys
    ts: Int64s
    values: dict[str, npt.NDArray] = field(default_factory=dict)

    def of(self, request_index: int) -> RequestSequence:
        """Return the sequence of one request."""
        request_entries = slice(self.offsets[request_index], self.offsets[request_index + 1])
        return RequestSequence(
            self.item[request_entries],
            self.type[request_entries],
            self.ts[request_entries],
            {name: column[request_entries] for name, column in self.values.items()},
        )


@dataclass(frozen=True)
class BackfilledRows:
    """The features of the rows, equal to those that `Reader.read` would have returned.

    Attributes:
        numeric: float32, shape (n, len(numeric_names)); missing is NaN.
        categorical: hash64, shape (n, len(categorical_names)); 0 is missing.
        sequences: by name, one for each request.
    """

    numeric: npt.NDArray[np.float32]
    categorical: Keys
    sequences: dict[str, RaggedSequence]
    numeric_names: tuple[str, ...]
    categorical_names: tuple[str, ...]
