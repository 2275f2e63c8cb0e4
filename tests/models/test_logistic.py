"""A logistic regression over logarithms: what scikit-learn finds, and the same from ONNX."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tailorbird.errors import UsageError
from tailorbird.models.export import score_onnx
from tailorbird.models.logistic import fit_logistic, logistic_to_onnx


def sample(n=5_000, seed=0):
    rng = np.random.default_rng(seed)
    matrix = rng.lognormal(0, 2, (n, 3)).astype(np.float32)
    matrix[:, 2] *= rng.choice([-1, 1], n)
    label = rng.random(n) < 1 / (1 + np.exp(-(np.log1p(matrix[:, 0]) - np.log1p(matrix[:, 1]))))
    return matrix, label


def test_it_is_scikit_learns_over_standardised_logarithms():
    matrix, label = sample()
    ours = fit_logistic(matrix, label, ("a", "b", "c"))
    logs = np.sign(matrix) * np.log1p(np.abs(matrix))
    z = (logs - logs.mean(axis=0)) / logs.std(axis=0)
    reference = LogisticRegression(C=1.0, max_iter=1_000).fit(z, label).predict_proba(z)[:, 1]
    assert np.abs(ours.score(matrix) - reference).max() < 2e-3
    assert list(ours.importance())[-1] == "c"


def test_missing_values_are_informative_and_onnx_agrees():
    matrix, label = sample()
    matrix[label, 2] = np.where(
        np.random.default_rng(1).random(label.sum()) < 0.5, np.nan, matrix[label, 2]
    )
    ours = fit_logistic(matrix, label, ("a", "b", "c"))
    gaps = np.isnan(matrix[:, 2])
    assert ours.score(matrix)[gaps].mean() > 0.9 > ours.score(matrix)[~gaps].mean()
    matrix[0] = np.nan
    matrix[1] = 1e9
    np.testing.assert_allclose(
        score_onnx(logistic_to_onnx(ours), matrix), ours.score(matrix), atol=1e-5
    )


def test_columns_that_are_ignored_do_not_matter():
    matrix, label = sample()
    ours = fit_logistic(matrix, label, ("a", "b", "c"), ignored_columns=["a", "c"])
    changed = matrix.copy()
    changed[:, [0, 2]] = 5.0
    np.testing.assert_array_equal(ours.score(matrix), ours.score(changed))


def test_one_class_teaches_nothing():
    matrix, _ = sample(50)
    with pytest.raises(UsageError, match="nothing to tell apart"):
        fit_logistic(matrix, np.ones(50), ("a", "b", "c"))
