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
from tailorbird.registry import Columns
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

    part: Dataset
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
    position: bool = False,
    target_encodings: Mapping[str, npt.NDArray[np.float64]] | None = None,
    fallback_space: Space | None = None,
    live_columns: LiveColumns = NO_LIVE_COLUMNS,
) -> Matrix:
    """Encode a chunk as a matrix of shape (rows, columns).

    Args:
        index_series: each request uses the newest index that is not after its t; there must be one.
        position: whether rows carry the position at which they were shown; otherwise all get the
            first position, as in serving.
        target_encodings: target encodings of training rows as of each row's time; see `Encoder.encode`.
        fallback_space: vectors where the series has none: those of a bundle, which may know what
            came later.
        live_columns: live columns of the chunk's data.
    """
    part, rows = chunk.part, chunk.rows
    columns = (
        {}
        if part.live is None
        else {name: part.live[:, index] for index, name in enumerate(live_columns.names)}
    )
    index_position = index_series.positions_at(part.t)
    assert np.all(index_position >= 0)
    matrix = np.empty((part.rows, len(encoder.names)), np.float32)
    keys, request = part.items.keys[part.item], part.request
    for index in np.unique(index_position):
        requests = np.flatnonzero(index_position == index)
        # Requests are in order of time, so those of one index are adjacent.
        low, high = requests[0], requests[-1] + 1
        assert high - low == len(requests)
        row_range = slice(part.offsets[low], part.offsets[high])
        sequences = {
            name: _slice_sequence(sequence, low, high) for name, sequence in rows.sequences.items()
        }
        matrix[row_range] = encoder.encode(
            rows.numeric[row_range],
            rows.categorical[row_range],
            keys[row_range],
            (request[row_range] - low).astype(np.intp),
            sequences,
            part.t[low:high],
            index_series.indexes[index],
            part.position[row_range] if position else None,
            {name: column[row_range] for name, column in (target_encodings or {}).items()},
            index_series.space(int(index)) or fallback_space,
            live={name: column[row_range] for name, column in columns.items()} if columns else None,
        )
    return matrix


def required_columns(features: FeatureSet) -> list[str]:
    """Return the columns of `events` that training reads; the others need not fit into memory."""
    needed = {*_ROW_COLUMNS, *_CONTEXT_COLUMNS, *event_columns(features)}
    return [name for name in ROUTED.names if name in needed]


def bundle_columns(features: FeatureSet) -> Columns:
    """Return the columns of a feature set as a bundle names them."""
    return Columns(features.numeric, features.categorical, features.sequences)


def _slice_sequence(sequence: object, low: int, high: int) -> RaggedArrays:
    """Return the sequences of requests low…high as a set of their own."""
    offsets, item, ts = sequence.offsets, sequence.item, sequence.ts  # type: ignore[attr-defined]
    event_range = slice(offsets[low], offsets[high])
    return RaggedArrays(offsets[low : high + 1] - offsets[low], item[event_range], ts[event_range])


def _to_requests(part: Dataset) -> Requests:
    context = part.context
    return Requests(
        t=part.t,
        p=part.p,
        person=context["person"],
        session_id=context["session_id"],
        device=context["device"],
        country=context["country"],
        local_hour=context["local_hour"],
        query=context["answer_query"] if "answer_query" in context.column_names else None,
        row_request=part.request,
        row_item=part.items.values.take(pa.array(part.item)),
    )
