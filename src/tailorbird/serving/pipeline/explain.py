"""Explanations of a score, for `explain`: the features as read, each head's probability, and
contributions.

`tree_shap`, where all heads of the formula are forests: exact Shapley values of each head's raw
score (`ranking.tree_shap`), carried through calibration and weight to the value. `base` + all
contributions = the value, and `rest` sums those that are not listed.

`occlusion`, for neural networks: the value of the item minus its value with that column missing, by
the bundle itself in one batch. Each is exact by this definition, but they do not add up to the
value.

The effects of the search and of a slot's rules on the value come after that, see `Adjustment`:
value + all adjustments = the score.
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
from tailorbird.ranking.tree_shap import rescale_contributions
from tailorbird.retrieval import Index, TextColumn
from tailorbird.serving.messages import Explanation

CONTRIBUTIONS_MAX = 8
ITEMS_MAX = 50  # items per answer explained by occlusion

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Adjustment:
    """The effects of the search and of the slot's rules on one item.

    `value` is the value before them, `moved` the change by each of them, and `placed` the rules
    that fixed its position.
    """

    value: float
    moved: dict[str, float]
    placed: list[str]


def explain_slate(
    features: FeatureSet,
    bundle: Bundle | None,
    index: Index,
    item_rows: npt.NDArray[np.intp],
    keys: npt.NDArray[np.uint64],
    rows: Rows | None,
    scores: Scores | None,
    objective: Mapping[str, float],
    context: Context,
    adjustments: Sequence[Adjustment],
    live: npt.NDArray[np.float32] | None = None,
) -> list[Explanation]:
    """Return one explanation for each shown item.

    All arguments but the first two, the index and the context describe these items, in order.
    """
    live_columns = None if live is None else live[:ITEMS_MAX]
    attribution = (
        _attribute_of_item(bundle, index, keys[:ITEMS_MAX], rows, objective, live_columns)
        if bundle is not None and rows is not None
        else None
    )
    explanations = []
    for position in range(keys.size):
        feature_values = (
            {}
            if rows is None
            else _read_features(features, index, int(item_rows[position]), rows, position, context)
        )
        heads = (
            {}
            if scores is None
            else {name: float(column[position]) for name, column in scores.heads.items()}
        )
        explanation, adjustment = Explanation(feature_values, heads), adjustments[position]
        if attribution is not None and bundle is not None and position < len(attribution.columns):
            largest_contributions = _largest_contributions(
                attribution.columns[position], bundle.encoder.names
            )
            other_contributions = (
                float(attribution.columns[position].sum() - sum(largest_contributions.values()))
                if attribution.base is not None
                else None
            )
            explanation = Explanation(
                feature_values,
                heads,
                largest_contributions,
                attribution.method,
                attribution.base,
                other_contributions,
            )
        explanations.append(
            msgspec.structs.replace(
                explanation,
                value=adjustment.value,
                moved=adjustment.moved,
                placed=adjustment.placed,
            )
        )
    return explanations


def select_rows(rows: Rows, positions: npt.NDArray[np.intp]) -> Rows:
    """Return the rows at some positions; the request's own parts stay."""
    return replace(rows, numeric=rows.numeric[positions], categorical=rows.categorical[positions])


def _read_features(
    features: FeatureSet, index: Index, row: int, rows: Rows, position: int, context: Context
) -> dict[str, float | str | None]:
    feature_values: dict[str, float | str | None] = {}
    for name, value in zip(features.numeric, rows.numeric[position].tolist(), strict=True):
        feature_values[name] = None if value != value else value
    texts = _text_of_hash(index, row, context)
    for name, key in zip(features.categorical, rows.categorical[position].tolist(), strict=True):
        feature_values[name] = None if key == 0 else texts.get(key, f"#{key:016x}")
    return feature_values


def _text_of_hash(index: Index, row: int, context: Context) -> dict[int, str]:
    """Map hashes to the texts that a categorical column of this row may stand for, because columns
    hold hashes only.
    """
    texts = [text for text in (context.device, context.country) if text]
    if row >= 0:
        texts += [
            column.text(row)
            for column in index.attributes.values()
            if isinstance(column, TextColumn)
        ]
    texts += index.category.values if len(index.category.values) <= 200 else ()
    return {hash64(text): text for text in texts if text}


@dataclass(frozen=True)
class _Attribution:
    """The effect of each column on the value of each item, (n, columns), the method, and the base
    value.
    """

    columns: Floats
    method: str
    base: float | None = None


def _attribute_of_item(
    bundle: Bundle,
    index: Index,
    keys: npt.NDArray[np.uint64],
    rows: Rows,
    objective: Mapping[str, float],
    live: npt.NDArray[np.float32] | None,
) -> _Attribution:
    space = bundle.with_index(index).space
    matrix = bundle.encoder.encode_request(
        select_rows(rows, np.arange(keys.size)), keys, index, space, live=live
    )
    heads = [head for head in objective if head in bundle.heads]
    if all(head in bundle.trees for head in heads):
        return _attribute_by_trees(bundle, matrix, {head: objective[head] for head in heads})
    return _Attribution(_attribute_by_occlusion(bundle, matrix, objective), "occlusion")


def _attribute_by_trees(
    bundle: Bundle, matrix: npt.NDArray[np.float32], weights: Mapping[str, float]
) -> _Attribution:
    columns, base = np.zeros(matrix.shape), 0.0
    for head, weight in weights.items():
        trees, calibration = bundle.trees[head], bundle.calibration.get(head, Identity())
        contributions, expected = trees.contributions(matrix)

        def weighted_value(raw: Floats) -> Floats:
            return weight * calibration.apply(trees.apply_link(raw))  # noqa: B023 - called at once

        columns += rescale_contributions(contributions, expected, weighted_value)
        base += float(weighted_value(np.full(1, expected))[0])
    return _Attribution(columns, "tree_shap", base)


def _attribute_by_occlusion(
    bundle: Bundle, matrix: npt.NDArray[np.float32], objective: Mapping[str, float]
) -> Floats:
    count, width = matrix.shape
    occluded_matrix = np.repeat(matrix[None], width, axis=0)
    for column in range(width):
        occluded_matrix[column, :, column] = bundle.encoder.missing_row[column]
    stacked = np.concatenate([matrix, occluded_matrix.reshape(count * width, width)])
    value = bundle.score_matrix(stacked, objective=objective).value
    return (value[:count] - value[count:].reshape(width, count)).T


def _largest_contributions(effects: Floats, names: Sequence[str]) -> dict[str, float]:
    order = np.argsort(-np.abs(effects), kind="stable")[:CONTRIBUTIONS_MAX]
    return {names[column]: float(effects[column]) for column in order.tolist() if effects[column]}
