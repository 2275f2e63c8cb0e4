"""What stood behind a score, for `explain`: the features as read, each head's probability, and what
each column did.

`tree_shap`, where all heads of the formula are forests: exact Shapley values of each head's raw
score (`ranking.tree_shap`), each shared out over its way through calibration and weight to the
value. `base` + all contributions = the value; `rest` sums those that are not told. `occlusion`, for
nets: the value of the item less its value with that column missing, by the bundle itself in one
batch. Exact for what it says, but these do not add up to the value. What the search and a slot's
wishes make of the value comes after, see `Wished`: value + all that moved it = the score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.events import Context, hash64
from tailorbird.features import FeatureSet, Rows
from tailorbird.ranking.bundle import Bundle, Scores
from tailorbird.ranking.calibration import Identity
from tailorbird.ranking.tree_shap import share_out
from tailorbird.retrieval import Index, TextColumn
from tailorbird.serving.messages import Explanation

CONTRIBUTIONS_MAX = 8
ITEMS_MAX = 50  # of an answer, whose columns are taken out one by one

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Wished:
    """What the search and the slot's wishes made of one item: its `value` before them, by how much
    each moved it, and what put it there.
    """

    value: float
    moved: dict[str, float]
    placed: list[str]


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
    wished: Sequence[Wished],
    live: npt.NDArray[np.float32] | None = None,
) -> list[Explanation]:
    """One explanation for each shown item; all but the first two, the index and the context are of
    these, in order.
    """
    some = None if live is None else live[:ITEMS_MAX]
    moved = (
        _moved(bundle, index, keys[:ITEMS_MAX], rows, objective, some)
        if bundle is not None and rows is not None
        else None
    )
    told = []
    for place in range(keys.size):
        read = (
            {}
            if rows is None
            else _read(features, index, int(item_rows[place]), rows, place, context)
        )
        heads = (
            {}
            if scores is None
            else {name: float(column[place]) for name, column in scores.heads.items()}
        )
        one, wish = Explanation(read, heads), wished[place]
        if moved is not None and bundle is not None and place < len(moved.columns):
            named = _largest(moved.columns[place], bundle.encoder.names)
            rest = (
                float(moved.columns[place].sum() - sum(named.values()))
                if moved.base is not None
                else None
            )
            one = Explanation(read, heads, named, moved.method, moved.base, rest)
        told.append(
            msgspec.structs.replace(one, value=wish.value, moved=wish.moved, placed=wish.placed)
        )
    return told


def take(rows: Rows, kept: npt.NDArray[np.intp]) -> Rows:
    """Some of the rows; what is the request's own stays."""
    return replace(rows, numeric=rows.numeric[kept], categorical=rows.categorical[kept])


def _read(
    features: FeatureSet, index: Index, row: int, rows: Rows, place: int, context: Context
) -> dict[str, float | str | None]:
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
        known += [
            column.text(row)
            for column in index.attributes.values()
            if isinstance(column, TextColumn)
        ]
    known += index.category.values if len(index.category.values) <= 200 else ()
    return {hash64(text): text for text in known if text}


@dataclass(frozen=True)
class _Moved:
    """What each column did to the value of each item, (n, columns), by which method, and the value
    that they start from.
    """

    columns: Floats
    method: str
    base: float | None = None


def _moved(
    bundle: Bundle,
    index: Index,
    keys: npt.NDArray[np.uint64],
    rows: Rows,
    objective: Mapping[str, float],
    live: npt.NDArray[np.float32] | None,
) -> _Moved:
    space = bundle.with_index(index).space
    matrix = bundle.encoder.encode_request(
        take(rows, np.arange(keys.size)), keys, index, space, live=live
    )
    heads = [head for head in objective if head in bundle.heads]
    if all(head in bundle.trees for head in heads):
        return _by_trees(bundle, matrix, {head: objective[head] for head in heads})
    return _Moved(_by_occlusion(bundle, matrix, objective), "occlusion")


def _by_trees(
    bundle: Bundle, matrix: npt.NDArray[np.float32], weights: Mapping[str, float]
) -> _Moved:
    columns, base = np.zeros(matrix.shape), 0.0
    for head, weight in weights.items():
        trees, calibration = bundle.trees[head], bundle.calibration.get(head, Identity())
        told, expected = trees.contributions(matrix)

        def worth(raw: Floats) -> Floats:
            return weight * calibration.apply(trees.linked(raw))  # noqa: B023 - called within this turn

        columns += share_out(told, expected, worth)
        base += float(worth(np.full(1, expected))[0])
    return _Moved(columns, "tree_shap", base)


def _by_occlusion(
    bundle: Bundle, matrix: npt.NDArray[np.float32], objective: Mapping[str, float]
) -> Floats:
    n, width = matrix.shape
    without = np.repeat(matrix[None], width, axis=0)
    for column in range(width):
        without[column, :, column] = bundle.encoder.absent[column]
    everything = np.concatenate([matrix, without.reshape(n * width, width)])
    value = bundle.score_matrix(everything, objective=objective).value
    return (value[:n] - value[n:].reshape(width, n)).T


def _largest(moved: Floats, names: Sequence[str]) -> dict[str, float]:
    order = np.argsort(-np.abs(moved), kind="stable")[:CONTRIBUTIONS_MAX]
    return {names[column]: float(moved[column]) for column in order.tolist() if moved[column]}
