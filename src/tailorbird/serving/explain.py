"""What stood behind a score, for `explain`: the features as read, each head's probability, and what each column did.

A column's contribution is the value of the item less its value with that column missing (occlusion), computed by the
bundle itself in one batch. It is exact for what it says, but contributions do not add up to the score.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tailorbird.events import Context, hash64
from tailorbird.features import FeatureSet, Rows
from tailorbird.ranking.bundle import Bundle, Scores
from tailorbird.retrieval import Index, TextColumn
from tailorbird.serving.messages import Explanation

CONTRIBUTIONS_MAX = 8
ITEMS_MAX = 50  # of an answer, whose columns are taken out one by one

Floats = npt.NDArray[np.float64]


def explanations(
    features: FeatureSet,
    bundle: Bundle | None,
    index: Index,
    item_rows: npt.NDArray[np.intp],
    keys: npt.NDArray[np.uint64],
    rows: Rows | None,
    scores: Scores | None,
    objective: Mapping[str, float],
    context: Context,
) -> list[Explanation]:
    """One explanation for each shown item; `rows`, `scores`, `item_rows` and `keys` are of the shown items, in order."""
    contributions = _contributions(bundle, index, keys, rows, objective) if bundle is not None and rows is not None else []
    told = []
    for place in range(keys.size):
        read = {} if rows is None else _read(features, index, int(item_rows[place]), rows, place, context)
        heads = {} if scores is None else {name: float(column[place]) for name, column in scores.heads.items()}
        told.append(Explanation(read, heads, contributions[place] if place < len(contributions) else {}))
    return told


def take(rows: Rows, kept: npt.NDArray[np.intp]) -> Rows:
    """Some of the rows; what is the request's own stays."""
    return Rows(
        rows.numeric[kept], rows.categorical[kept], rows.sequences, rows.t, rows.commit, rows.p, person=rows.person, stale=rows.stale
    )


def _read(features: FeatureSet, index: Index, row: int, rows: Rows, place: int, context: Context) -> dict[str, float | str | None]:
    read: dict[str, float | str | None] = {}
    for name, value in zip(features.numeric, rows.numeric[place].tolist(), strict=True):
        read[name] = None if value != value else value
    texts = _texts(index, row, context)
    for name, key in zip(features.categorical, rows.categorical[place].tolist(), strict=True):
        read[name] = None if key == 0 else texts.get(key, f"#{key:016x}")
    return read


def _texts(index: Index, row: int, context: Context) -> dict[int, str]:
    """Texts that a categorical column of this row may stand for: columns hold their hashes only."""
    known = [text for text in (context.device, context.country) if text]
    if row >= 0:
        known += [column.text(row) for column in index.attributes.values() if isinstance(column, TextColumn)]
    known += index.category.values if len(index.category.values) <= 200 else ()
    return {hash64(text): text for text in known if text}


def _contributions(
    bundle: Bundle, index: Index, keys: npt.NDArray[np.uint64], rows: Rows, objective: Mapping[str, float]
) -> list[dict[str, float]]:
    keys = keys[:ITEMS_MAX]
    shown = take(rows, np.arange(keys.size))
    encoder = bundle.encoder
    matrix = encoder.encode_request(shown, keys, index)
    n, width = matrix.shape
    without = np.repeat(matrix[None], width, axis=0)
    for column in range(width):
        without[column, :, column] = encoder.absent[column]
    everything = np.concatenate([matrix, without.reshape(n * width, width)])
    value = bundle.score_matrix(everything, objective=objective).value
    moved = value[:n] - value[n:].reshape(width, n)
    return [_largest(moved[:, place], encoder.names) for place in range(n)]


def _largest(moved: Floats, names: Sequence[str]) -> dict[str, float]:
    order = np.argsort(-np.abs(moved), kind="stable")[:CONTRIBUTIONS_MAX]
    return {names[column]: float(moved[column]) for column in order.tolist() if moved[column]}
