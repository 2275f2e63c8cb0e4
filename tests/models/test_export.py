"""Exports equal the trained models on every row, even with thresholds between floats."""

import numpy as np
import pytest

from tailorbird.models.export import gbdt_to_onnx, largest_difference
from tailorbird.models.gbdt import GbdtSettings, Sample, fit_gbdt

NAMES = [f"f{n}" for n in range(4)]


def _sample(rng: np.random.Generator, rows: int, column: np.ndarray) -> Sample:
    matrix = np.column_stack([column, rng.normal(size=(rows, 3))]).astype(np.float32)
    matrix[rng.random(matrix.shape) < 0.05] = np.nan
    chance = 1 / (1 + np.exp(-np.nan_to_num(matrix[:, 0] - np.nanmedian(matrix[:, 0])) * 1e3))
    return Sample(
        matrix, rng.random(rows) < 0.2 + 0.6 * chance, np.full(rows // 10, 10), np.ones(rows)
    )


@pytest.mark.parametrize("objective", ["binary", "lambdarank"])
def test_equal_where_thresholds_lie_between_neighbouring_floats(objective: str) -> None:
    rng = np.random.default_rng(3)
    # Values one float32 step apart: LightGBM's thresholds, doubles, lie between them and cannot be
    # rounded either way.
    ladder = np.float32(1.0) + np.arange(64, dtype=np.float32) * np.spacing(np.float32(1.0))
    train, watch = (_sample(rng, 4_000, rng.choice(ladder, 4_000)) for _ in range(2))
    settings = GbdtSettings(
        objective=objective, trees=20, patience=0, leaf_rows=5, leaves=31, rate=0.2
    )
    model = fit_gbdt(train, watch, NAMES, settings)
    assert (
        largest_difference(model, gbdt_to_onnx(model), np.concatenate([train.matrix, watch.matrix]))
        < 1e-5
    )
