"""From the rows of a data set to the matrix of a model: features as they were known at (t, p),
encoded with the index of the time.

Backfill is what serving would have read, to the bit; encoding is the very function that serving
calls. A large set goes through in pieces, so that memory holds one piece's features at a time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.events.schema import ROUTED
from tailorbird.features import FeatureSet
from tailorbird.features.backfill import BackfilledRows, History, Requests, event_columns
from tailorbird.ranking.encoders import Encoder, Ragged
from tailorbird.ranking.live import NOTHING_LIVE, LiveColumns
from tailorbird.ranking.tower import Space
from tailorbird.registry import Columns
from tailorbird.training.dataset import Dataset
from tailorbird.training.indexes import IndexSeries

Matrix = npt.NDArray[np.float32]

ROWS_AT_ONCE = 1_000_000
# What rows and labels look at, beside what features do.
_OF_ROWS = (
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
    "propensities",
    "timeless",
    "dwell_ms",
)
_OF_CONTEXT = ("device", "country", "referrer", "local_hour")


@dataclass(frozen=True)
class Featured:
    """A piece of a data set with its features."""

    part: Dataset
    rows: BackfilledRows


def featured(
    data: Dataset, features: FeatureSet, events: pa.Table, *, rows_max: int = ROWS_AT_ONCE
) -> Iterator[Featured]:
    """The features of a data set, piece by piece, in order."""
    return featured_from(History(features, events), data, rows_max=rows_max)


def featured_from(
    history: History, data: Dataset, *, rows_max: int = ROWS_AT_ONCE
) -> Iterator[Featured]:
    """The same of several data sets, one after another, for which events are made ready once."""
    for part in data.chunks(rows_max):
        yield Featured(part, history.rows(_requests(part)))


def encoded(
    piece: Featured,
    encoder: Encoder,
    series: IndexSeries,
    *,
    position: bool = False,
    learned: Mapping[str, npt.NDArray[np.float64]] | None = None,
    otherwise: Space | None = None,
    live: LiveColumns = NOTHING_LIVE,
) -> Matrix:
    """The matrix of a piece, shape (rows, columns).

    Args:
        series: each request takes the newest index that is not after its t; there must be one.
        position: whether rows carry the position at which they were shown; False puts all at the
            first, as serving does.
        learned: of training rows, target encodings as of each row's time; see `Encoder.encode`.
        otherwise: vectors where the series has none: those of a bundle, which may know what came
            later.
        live: what the live columns of the piece's data are.
    """
    part, rows = piece.part, piece.rows
    columns = (
        {} if part.live is None else {name: part.live[:, at] for at, name in enumerate(live.names)}
    )
    place = series.place_of(part.t)
    assert np.all(place >= 0)
    matrix = np.empty((part.rows, len(encoder.names)), np.float32)
    keys, request = part.items.keys[part.item], part.request
    for index in np.unique(place):
        chosen = np.flatnonzero(place == index)
        low, high = (
            chosen[0],
            chosen[-1] + 1,
        )  # requests are in order of time, so those of one index lie together
        assert high - low == len(chosen)
        here = slice(part.offsets[low], part.offsets[high])
        sequences = {name: _some(sequence, low, high) for name, sequence in rows.sequences.items()}
        matrix[here] = encoder.encode(
            rows.numeric[here],
            rows.categorical[here],
            keys[here],
            (request[here] - low).astype(np.intp),
            sequences,
            part.t[low:high],
            series.indexes[index],
            part.position[here] if position else None,
            {name: column[here] for name, column in (learned or {}).items()},
            series.space(int(index)) or otherwise,
            live={name: column[here] for name, column in columns.items()} if columns else None,
        )
    return matrix


def needed_columns(features: FeatureSet) -> list[str]:
    """The columns of `events` that training reads; a lake of millions of events fits into memory
    without the others.
    """
    needed = {*_OF_ROWS, *_OF_CONTEXT, *event_columns(features)}
    return [name for name in ROUTED.names if name in needed]


def columns_of(features: FeatureSet) -> Columns:
    """The columns of a feature set as a bundle names them."""
    return Columns(features.numeric, features.categorical, features.sequences)


def _some(sequence: object, low: int, high: int) -> Ragged:
    """The sequences of requests low…high, as a set of their own."""
    offsets, item, ts = sequence.offsets, sequence.item, sequence.ts  # type: ignore[attr-defined]
    here = slice(offsets[low], offsets[high])
    return Ragged(offsets[low : high + 1] - offsets[low], item[here], ts[here])


def _requests(part: Dataset) -> Requests:
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
