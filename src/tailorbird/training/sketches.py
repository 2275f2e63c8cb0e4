"""Histograms of what a model learned from, counted during training and stored in its bundle.

    feature   one row of each request: the item that was shown first, or for a drawn request its
              first candidate
    label     all rows, for each head
    score     the best row of each validation request, as the model serves it

Monitoring takes the same histograms of what is served (`monitoring.drift.sketches`), so that both
have the same bins. Four bins cover each doubling of a number. Negative numbers, zero and missing
values have bins of their own. A category is one of `CATEGORIES` groups of its hash.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.matrix import FeatureChunk

MISSING = ""
CATEGORIES = 64
SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("kind", pa.string()),
        ("category", pa.bool_()),
        ("bin", pa.string()),
        ("count", pa.float64()),
    ]
)
_LARGEST_BIN = 241  # the bin of the largest number; its negative is that of the smallest
_NUMBER_BINS = 2 * _LARGEST_BIN + 2  # and one for missing values

HistogramRow = tuple[str, str, bool, str, float]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class FeatureSketch:
    """Histograms of features, of one row a request.

    Args:
        numeric, categorical: names of the columns.
    """

    def __init__(self, numeric: Sequence[str], categorical: Sequence[str]) -> None:
        self._numeric = numeric
        self._categorical = categorical
        self._number_counts = np.zeros((len(numeric), _NUMBER_BINS))
        self._category_counts = np.zeros((len(categorical), CATEGORIES + 1))

    def count_chunks(self, chunks: Iterable[FeatureChunk]) -> Iterator[FeatureChunk]:
        """Yield the chunks, and count the rows of each."""
        for chunk in chunks:
            rows, weights = select_row_per_request(chunk.data)
            self._number_counts += _count_bins(
                chunk.rows.numeric[rows], number_bin_columns, _NUMBER_BINS, weights
            )
            keys = chunk.rows.categorical[rows]
            self._category_counts += _count_bins(
                keys, category_bin_columns, CATEGORIES + 1, weights
            )
            yield chunk

    def histogram_rows(self) -> list[HistogramRow]:
        """Return the histograms counted so far."""
        return [
            *number_histogram_rows("feature", self._numeric, self._number_counts),
            *category_histogram_rows("feature", self._categorical, self._category_counts),
        ]


def select_row_per_request(dataset: Dataset) -> tuple[Ints, Floats]:
    """Return one row of each request, and its weight.

    The row is the item shown first, or the first candidate of a drawn request.
    """
    if dataset.position.any():
        rows = np.flatnonzero(dataset.position == 1)
        return rows, dataset.weight[rows]
    rows = dataset.offsets[:-1][np.diff(dataset.offsets) > 0]
    return rows, np.ones(len(rows))


def label_histogram_rows(dataset: Dataset) -> list[HistogramRow]:
    """Return the histogram of each label, of all rows."""
    names = list(dataset.labels)
    values = np.column_stack([dataset.labels[name].astype(np.float32) for name in names])
    return number_histogram_rows(
        "label", names, _count_bins(values, number_bin_columns, _NUMBER_BINS, dataset.weight)
    )


def score_histogram(dataset: Dataset, value: Floats) -> list[HistogramRow]:
    """Return the histogram of the best value of each request.

    Args:
        value: of each row of `dataset`, shape (n,).
    """
    starts = dataset.offsets[:-1][np.diff(dataset.offsets) > 0]
    best_values = np.maximum.reduceat(value, starts)[:, None] if len(starts) else np.zeros((0, 1))
    return number_histogram_rows(
        "score", ["score"], _count_bins(best_values, number_bin_columns, _NUMBER_BINS)
    )


def objective_value(
    scores_by_head: Mapping[str, Floats], objective: Mapping[str, float], row_count: int
) -> Floats:
    """Return the value of each row by the objective, (row_count,); absent heads are left out."""
    return sum(
        (
            weight * scores_by_head[name]
            for name, weight in objective.items()
            if name in scores_by_head
        ),
        np.zeros(row_count),
    )


def to_table(rows: Sequence[HistogramRow]) -> pa.Table:
    """Return histograms as a table of `SCHEMA`."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(SCHEMA)
    return pa.table(
        [pa.array(list(column), field.type) for column, field in zip(columns, SCHEMA, strict=True)],
        schema=SCHEMA,
    )


def to_bytes(rows: Sequence[HistogramRow]) -> bytes:
    """Return histograms as a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(to_table(rows), buffer, compression="zstd")
    return buffer.getvalue()


def signed_bins(values: npt.NDArray[np.floating]) -> Ints:
    """Return the bin of each finite number: negative for negative numbers, 0 for zero."""
    with np.errstate(divide="ignore"):
        quarter_octave = np.floor(4.0 * np.log2(np.abs(values.astype(np.float64)))) + 81
    bins = np.where(values == 0, 0, np.clip(quarter_octave, 1, _LARGEST_BIN))
    return (np.sign(values) * bins).astype(np.int64)


def number_from_bin(bin_position: float) -> float:
    """Return the number at a position in the positive bins; a bin starts at its whole number."""
    return 2.0 ** ((bin_position - 81.0) / 4.0)


def number_bin_columns(values: npt.NDArray[np.floating]) -> Ints:
    """Return the bin column of each number; NaN and infinity are missing."""
    is_finite = np.isfinite(values)
    return np.where(is_finite, signed_bins(np.where(is_finite, values, 0)) + _LARGEST_BIN + 1, 0)


def category_bin_columns(keys: npt.NDArray[np.uint64]) -> Ints:
    """Return the bin column, as in `category_histogram_rows`, of each hash; 0 is missing."""
    return np.where(keys == 0, 0, keys % np.uint64(CATEGORIES) + np.uint64(1)).astype(np.int64)


def number_histogram_rows(kind: str, names: Sequence[str], counts: Floats) -> list[HistogramRow]:
    """Return rows of the counts of some columns, shape (columns, bins); empty bins are left out."""
    return [
        (names[column], kind, False, _number_label(bin_), float(counts[column, bin_]))
        for column, bin_ in zip(*(axis.tolist() for axis in np.nonzero(counts)), strict=True)
    ]


def category_histogram_rows(kind: str, names: Sequence[str], counts: Floats) -> list[HistogramRow]:
    """Return rows of the counts of some categories, shape (columns, CATEGORIES + 1)."""
    return [
        (names[column], kind, True, f"{bin_ - 1:02d}" if bin_ else MISSING, counts[column, bin_])
        for column, bin_ in zip(*(axis.tolist() for axis in np.nonzero(counts)), strict=True)
    ]


def count_numbers(
    kind: str, names: Sequence[str], values: npt.NDArray[np.floating]
) -> list[HistogramRow]:
    """Return the histograms of numbers, shape (rows, columns)."""
    return number_histogram_rows(kind, names, _count_bins(values, number_bin_columns, _NUMBER_BINS))


def count_categories(
    kind: str, names: Sequence[str], keys: npt.NDArray[np.uint64]
) -> list[HistogramRow]:
    """Return the histograms of hashed categories, shape (rows, columns)."""
    return category_histogram_rows(
        kind, names, _count_bins(keys, category_bin_columns, CATEGORIES + 1)
    )


def _number_label(bin_: int) -> str:
    return str(bin_ - _LARGEST_BIN - 1) if bin_ else MISSING


def _count_bins(
    values: npt.NDArray,
    to_columns: Callable[[npt.NDArray], Ints],
    width: int,
    weights: Floats | None = None,
) -> Floats:
    """Return how often each bin occurs in each column of `values`, shape (columns, width)."""
    counts = np.zeros((values.shape[1], width))
    for column in range(values.shape[1]):  # one by one: bins take more memory than values
        counts[column] = np.bincount(to_columns(values[:, column]), weights, width)
    return counts
