"""Contributions to a forest's score: equal to LightGBM's own, to the definition by all sets of
columns, and they add up.
"""

from itertools import combinations
from math import factorial

import numpy as np
import pytest

from tailorbird.errors import BundleError
from tailorbird.models.gbdt import GbdtSettings, Sample, fit_gbdt
from tailorbird.ranking.tree_shap import Trees, decode_trees, encode_trees
from tailorbird.training.fit.trees import export_trees

NAMES = [f"f{n}" for n in range(6)] + ["code"]


def _sample(rng, n, objective="binary"):
    matrix = rng.normal(size=(n, 7)).astype(np.float32)
    matrix[:, 1] = np.where(rng.random(n) < 0.4, 0.0, matrix[:, 1])
    matrix[:, 6] = rng.integers(0, 40, n)
    matrix[rng.random(matrix.shape) < 0.1] = np.nan
    x = np.nan_to_num(matrix)
    score = x[:, 0] * x[:, 2] + np.abs(x[:, 1]) + np.isin(x[:, 6], [3, 7, 11, 20]) - 1
    label = (
        rng.poisson(np.exp(np.clip(score, -3, 1)))
        if objective == "poisson"
        else rng.random(n) < 1 / (1 + np.exp(-score))
    )
    return Sample(matrix, label.astype(np.float64), np.full(n // 10, 10))


def _fitted(objective, *, leaves=31, trees=60, sets=True):
    rng = np.random.default_rng(5)
    settings = GbdtSettings(
        objective=objective,
        trees=trees,
        patience=0,
        leaves=leaves,
        leaf_rows=3,
        rate=0.1,
        l2=1,
        set_split_positives=1,
        column_share=1.0,
        threads=1,
    )
    return fit_gbdt(
        _sample(rng, 3_000, objective),
        _sample(rng, 300, objective),
        NAMES,
        settings,
        categorical=["code"] if sets else [],
    )


def _probe(rows=60):
    """Rows with everything that decides differently: missing values, zeros, unknown and negative
    codes.
    """
    matrix = _sample(np.random.default_rng(9), rows).matrix.copy()
    matrix[:4] = np.nan
    matrix[4:8] = 0.0
    matrix[8:12, 6] = [-1, 99, 1e9, 3.0]
    return matrix


@pytest.mark.parametrize("objective", ["binary", "lambdarank", "poisson"])
def test_they_are_those_of_lightgbm_and_add_up_to_its_score(objective):
    model, matrix = _fitted(objective), _probe()
    trees = decode_trees(encode_trees(export_trees(model)), where="a test")
    contributions, base = trees.contributions(matrix)
    expected = np.asarray(
        model.booster.predict(matrix, pred_contrib=True, num_iteration=model.trees)
    )
    assert trees.sets
    assert np.abs(contributions - expected[:, :-1]).max() < 1e-6
    assert abs(base - expected[0, -1]) < 1e-6
    raw = np.asarray(model.booster.predict(matrix, raw_score=True, num_iteration=model.trees))
    assert np.allclose(contributions.sum(axis=1) + base, raw, atol=1e-9)
    assert np.allclose(trees.raw_scores(matrix), raw, atol=1e-9)
    assert np.allclose(trees.apply_link(raw), model.score(matrix), rtol=1e-9)


def test_they_are_shapley_values_by_definition():
    model, matrix = _fitted("binary", leaves=12, trees=3), _probe(12)
    trees = export_trees(model)
    contributions, base = trees.contributions(matrix)
    for row in range(len(matrix)):
        for column in range(7):
            other_columns = [each for each in range(7) if each != column]
            expected = 0.0
            for size in range(7):
                weight = factorial(size) * factorial(6 - size) / factorial(7)
                for chosen in combinations(other_columns, size):
                    subset = set(chosen)
                    expected += weight * (
                        _expectation(trees, matrix[row], subset | {column})
                        - _expectation(trees, matrix[row], subset)
                    )
            assert contributions[row, column] == pytest.approx(expected, abs=1e-9)
        assert base == pytest.approx(_expectation(trees, matrix[row], set()), abs=1e-9)


def _expectation(trees, row, subset):
    """Return the mean over training rows that reach a node whose column is not in `subset`."""

    def below(at):
        if trees.feature[at] < 0:
            return trees.value[at]
        left, right = trees.left[at], trees.right[at]
        if trees.feature[at] not in subset:
            return (
                trees.cover[left] * below(left) + trees.cover[right] * below(right)
            ) / trees.cover[at]
        x, kind = float(row[trees.feature[at]]), trees.kind[at]
        if kind & 1:
            return below(
                left
                if x == x and x >= 0 and int(x) in trees.sets[int(trees.threshold[at])]
                else right
            )
        if (kind & 4 and x != x) or (kind & 8 and (x != x or abs(x) <= 1e-35)):
            return below(left if kind & 2 else right)
        return below(left if (0.0 if x != x else x) <= trees.threshold[at] else right)

    return sum(below(root) for root in trees.roots)


def test_a_tree_of_one_leaf_is_its_value():
    trees = Trees(
        2, "identity", [0, 1], [-1, -1], [0, 0], [0, 0], [0, 0], [0, 0], [0, 5], [0.25, 0.5]
    )
    contributions, base = trees.contributions(np.zeros((3, 2)))
    assert (contributions.tolist(), base, trees.raw_scores(np.zeros((3, 2))).tolist()) == (
        [[0.0, 0.0]] * 3,
        0.75,
        [0.75] * 3,
    )


@pytest.mark.parametrize(
    "change",
    [
        {"left": [0, 0, 0]},
        {"right": [9, 0, 0]},
        {"feature": [2, -1, -1]},
        {"cover": [0, 1, 1]},
        {"kind": [1, 0, 0]},
        {"roots": [3]},
    ],
)
def test_what_are_no_trees_is_refused(change):
    sound = {
        "columns": 2,
        "link": "logit",
        "roots": [0],
        "feature": [0, -1, -1],
        "threshold": [0.0] * 3,
        "left": [1, 0, 0],
        "right": [2, 0, 0],
        "kind": [0] * 3,
        "cover": [4, 1, 3],
        "value": [0.0, 1.0, 2.0],
    }
    assert Trees(**sound).contributions(np.zeros((1, 2)))[1] == 1.75
    with pytest.raises(BundleError, match="no trees"):
        Trees(**(sound | change))
