"""Model matrices: features as of (t, p), encoded with the item index of the time.

Historical features equal online ones bit for bit, and rows are encoded by the function that serving
calls. A large set is processed in chunks, so memory holds the features of one chunk at a time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.events.contract.schema import ROUTED
from tailorbird.features import FeatureSet
from tailorbird.features.offline.backfill import BackfilledRows, History, Requests, event_columns
from tailorbird.ranking.encode.encoder import Encoder
from tailorbird.ranking.encode.live import NO_LIVE_COLUMNS, LiveColumns
from tailorbird.ranking.encode.rows import RaggedArrays
from tailorbird.ranking.tower import Space
from tailorbird.registry import ColumnNames
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.indexes import IndexSeries

Matrix = npt.NDArray[np.float32]

CHUNK_ROWS = 1_000_000
# Columns that rows and labels need, in addition to those of features.
_ROW_COLUMNS = (
    "p",
    "event_id",
    "type",
    "ts",
    "person",
    "session_id",
    "item_id",
    "items",
    "request_id",
    "agent",
    "counts",
    "slot",
    "arm",
    "propensities",
    "timeless",
    "dwell_ms",
)
_CONTEXT_COLUMNS = ("device", "country", "referrer", "local_hour")


@dataclass(frozen=True)
class FeatureChunk:
    """A chunk of a data set with its features."""

    data: Dataset
    rows: BackfilledRows


def iterate_features(
    data: Dataset, features: FeatureSet, events: pa.Table, *, rows_max: int = CHUNK_ROWS
) -> Iterator[FeatureChunk]:
    """Yield the features of a data set in chunks, in order."""
    return iterate_features_from(History(features, events), data, rows_max=rows_max)


def iterate_features_from(
    history: History, data: Dataset, *, rows_max: int = CHUNK_ROWS
) -> Iterator[FeatureChunk]:
    """Yield the features of a data set; `history` can be shared by several data sets."""
    for part in data.chunks(rows_max):
        yield FeatureChunk(part, history.rows(_to_requests(part)))


def encode_rows(
    chunk: FeatureChunk,
    encoder: Encoder,
    index_series: IndexSeries,
    *,
    with_positions: bool = False,
    target_encodings: Mapping[str, npt.NDArray[np.float64]] | None = None,
    fallback_space: Space | None = None,
    live_columns: LiveColumns = NO_LIVE_COLUMNS,
) -> Matrix:
    """Encode a chunk as a matrix of shape (rows, columns).

    Args:
        index_series: each request uses the newest index that is not after its t; there must be one.
        with_positions: whether rows carry the position at which they were shown; otherwise all get
            the first position, as in serving.
        target_encodings: target encodings of training rows as of each row's time; see
            `Encoder.encode`.
        fallback_space: vectors where the series has none: those of a bundle, which may know what
            came later.
        live_columns: live columns of the chunk's data.
    """
    data = chunk.data
    rows = chunk.rows
    live_values_by_column = (
        {}
        if data.live_values is None
        else {
            name: data.live_values[:, index_number]
            for index_number, name in enumerate(live_columns.names)
        }
    )
    index_numbers = index_series.index_numbers_at(data.t)
    assert np.all(index_numbers >= 0)
    matrix = np.empty((data.row_count, len(encoder.names)), np.float32)
    item_keys = data.item_vocabulary.keys[data.item_codes]
    request_index = data.request_index
    for index_number in np.unique(index_numbers):
        request_indexes = np.flatnonzero(index_numbers == index_number)
        # Requests are in order of time, so those of one index are adjacent.
        first_request = request_indexes[0]
        end_request = request_indexes[-1] + 1
        assert end_request - first_request == len(request_indexes)
        row_range = slice(data.offsets[first_request], data.offsets[end_request])
        sequences = {
            name: _slice_sequence(sequence, first_request, end_request)
            for name, sequence in rows.sequences.items()
        }
        matrix[row_range] = encoder.encode(
            rows.numeric[row_range],
            rows.categorical[row_range],
            item_keys[row_range],
            (request_index[row_range] - first_request).astype(np.intp),
            sequences,
            data.t[first_request:end_request],
            index_series.indexes[index_number],
            data.position[row_range] if with_positions else None,
            {name: column[row_range] for name, column in (target_encodings or {}).items()},
            index_series.space(int(index_number)) or fallback_space,
            live={name: column[row_range] for name, column in live_values_by_column.items()}
            if live_values_by_column
            else None,
        )
    return matrix


def required_columns(features: FeatureSet) -> list[str]:
    """Return the columns of `events` that training reads; the others need not fit into memory."""
    required_names = {*_ROW_COLUMNS, *_CONTEXT_COLUMNS, *event_columns(features)}
    return [name for name in ROUTED.names if name in required_names]


def bundle_columns(features: FeatureSet) -> ColumnNames:
    """Return the columns of a feature set as a bundle names them."""
    return ColumnNames(features.numeric, features.categorical, features.sequences)


def _slice_sequence(sequence: object, first_request: int, end_request: int) -> RaggedArrays:
    """Return the sequences of requests from `first_request` to before `end_request`."""
    offsets, item, ts = sequence.offsets, sequence.item, sequence.ts  # type: ignore[attr-defined]
    event_range = slice(offsets[first_request], offsets[end_request])
    return RaggedArrays(
        offsets[first_request : end_request + 1] - offsets[first_request],
        item[event_range],
        ts[event_range],
    )


def _to_requests(data: Dataset) -> Requests:
    context = data.context
    return Requests(
        t=data.t,
        log_position=data.log_position,
        person=context["person"],
        session_id=context["session_id"],
        device=context["device"],
        country=context["country"],
        local_hour=context["local_hour"],
        query=context["answer_query"] if "answer_query" in context.column_names else None,
        row_request=data.request_index,
        row_item=data.item_vocabulary.values.take(pa.array(data.item_codes)),
    )
