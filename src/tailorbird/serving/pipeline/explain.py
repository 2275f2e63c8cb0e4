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

    `value` is the value before them, `rule_effects` the change by each of them, and `placements`
    the rules that fixed its position.
    """

    value: float
    rule_effects: dict[str, float]
    placements: list[str]


def explain_slate(
    features: FeatureSet,
    bundle: Bundle | None,
    index: Index,
    *,
    index_rows: npt.NDArray[np.intp],
    item_keys: npt.NDArray[np.uint64],
    feature_rows: Rows | None,
    scores: Scores | None,
    objective: Mapping[str, float],
    context: Context,
    adjustments: Sequence[Adjustment],
    live_columns: npt.NDArray[np.float32] | None = None,
) -> list[Explanation]:
    """Return one explanation for each shown item.

    All arguments but the first two, the index and the context describe these items, in order.
    """
    attribution = (
        _attribute_value(
            bundle,
            index,
            item_keys[:ITEMS_MAX],
            feature_rows,
            objective,
            None if live_columns is None else live_columns[:ITEMS_MAX],
        )
        if bundle is not None and feature_rows is not None
        else None
    )
    explanations = []
    for position in range(item_keys.size):
        feature_values = (
            {}
            if feature_rows is None
            else _read_features(
                features, index, int(index_rows[position]), feature_rows, position, context
            )
        )
        heads = (
            {}
            if scores is None
            else {name: float(column[position]) for name, column in scores.heads.items()}
        )
        explanation = Explanation(feature_values, heads)
        adjustment = adjustments[position]
        if attribution is not None and bundle is not None and position < len(attribution.effects):
            largest_contributions = _largest_contributions(
                attribution.effects[position], bundle.encoder.names
            )
            other_contributions = (
                float(attribution.effects[position].sum() - sum(largest_contributions.values()))
                if attribution.base_value is not None
                else None
            )
            explanation = msgspec.structs.replace(
                explanation,
                contributions=largest_contributions,
                method=attribution.method,
                base=attribution.base_value,
                rest=other_contributions,
            )
        explanations.append(
            msgspec.structs.replace(
                explanation,
                value=adjustment.value,
                moved=adjustment.rule_effects,
                placed=adjustment.placements,
            )
        )
    return explanations


def select_feature_rows(rows: Rows, positions: npt.NDArray[np.intp]) -> Rows:
    """Return the rows at some positions; the request's own parts stay."""
    return replace(rows, numeric=rows.numeric[positions], categorical=rows.categorical[positions])


def _read_features(
    features: FeatureSet, index: Index, row: int, rows: Rows, position: int, context: Context
) -> dict[str, float | str | None]:
    feature_values: dict[str, float | str | None] = {}
    for name, value in zip(features.numeric, rows.numeric[position].tolist(), strict=True):
        feature_values[name] = None if value != value else value
    text_by_hash = _text_by_hash(index, row, context)
    for name, text_hash in zip(
        features.categorical, rows.categorical[position].tolist(), strict=True
    ):
        feature_values[name] = (
            None if text_hash == 0 else text_by_hash.get(text_hash, f"#{text_hash:016x}")
        )
    return feature_values


def _text_by_hash(index: Index, row: int, context: Context) -> dict[int, str]:
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

    effects: Floats
    method: str
    base_value: float | None = None


def _attribute_value(
    bundle: Bundle,
    index: Index,
    keys: npt.NDArray[np.uint64],
    rows: Rows,
    objective: Mapping[str, float],
    live_columns: npt.NDArray[np.float32] | None,
) -> _Attribution:
    space = bundle.with_index(index).space
    matrix = bundle.encoder.encode_request(
        select_feature_rows(rows, np.arange(keys.size)), keys, index, space, live=live_columns
    )
    heads = [head for head in objective if head in bundle.heads]
    if all(head in bundle.trees for head in heads):
        return _attribute_by_trees(bundle, matrix, {head: objective[head] for head in heads})
    return _Attribution(_attribute_by_occlusion(bundle, matrix, objective), "occlusion")


def _attribute_by_trees(
    bundle: Bundle, matrix: npt.NDArray[np.float32], weights: Mapping[str, float]
) -> _Attribution:
    effects = np.zeros(matrix.shape)
    base_value = 0.0
    for head, weight in weights.items():
        trees = bundle.trees[head]
        calibration = bundle.calibration.get(head, Identity())
        contributions, expected_score = trees.contributions(matrix)

        def weighted_value(raw_scores: Floats) -> Floats:
            return weight * calibration.apply(trees.apply_link(raw_scores))  # noqa: B023 - called at once

        effects += rescale_contributions(contributions, expected_score, weighted_value)
        base_value += float(weighted_value(np.full(1, expected_score))[0])
    return _Attribution(effects, "tree_shap", base_value)


def _attribute_by_occlusion(
    bundle: Bundle, matrix: npt.NDArray[np.float32], objective: Mapping[str, float]
) -> Floats:
    item_count, column_count = matrix.shape
    occluded_matrix = np.repeat(matrix[None], column_count, axis=0)
    for column in range(column_count):
        occluded_matrix[column, :, column] = bundle.encoder.missing_row[column]
    stacked_matrix = np.concatenate(
        [matrix, occluded_matrix.reshape(item_count * column_count, column_count)]
    )
    values = bundle.score_matrix(stacked_matrix, objective=objective).value
    return (values[:item_count] - values[item_count:].reshape(column_count, item_count)).T


def _largest_contributions(effects: Floats, names: Sequence[str]) -> dict[str, float]:
    largest_columns = np.argsort(-np.abs(effects), kind="stable")[:CONTRIBUTIONS_MAX]
    return {
        names[column]: float(effects[column])
        for column in largest_columns.tolist()
        if effects[column]
    }
