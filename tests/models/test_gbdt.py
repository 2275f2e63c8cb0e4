"""The trees learn, stop early, repeat themselves, and their export says the same."""

import numpy as np
import onnx
import pytest

from tailorbird.errors import BundleError, UsageError
from tailorbird.models.export import (
    gbdt_to_onnx,
    largest_difference,
    refuse_external_tensors,
    score_onnx,
)
from tailorbird.models.gbdt import GbdtSettings, Sample, fit_gbdt
from tailorbird.training.evaluation import metrics

COLUMNS = ("price", "clicks 7d", "category", "noise")


def sample(rows, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(rows, 4)).astype(np.float32)
    matrix[:, 2] = rng.integers(0, 12, rows)
    matrix[rng.random(rows) < 0.2, 0] = np.nan
    push = np.nan_to_num(matrix[:, 0], nan=-0.5) + 0.8 * matrix[:, 1] + 2 * (matrix[:, 2] % 3 == 0)
    label = rng.random(rows) < 1 / (1 + np.exp(2 - push))
    return Sample(matrix, label, np.full(rows // 10, 10))


TRAIN, VALIDATION, TEST = sample(6_000, 1), sample(2_000, 2), sample(8_000, 3)
SMALL = GbdtSettings(trees=80, patience=10, threads=1)


@pytest.fixture(scope="module", params=["binary", "lambdarank"])
def model(request):
    settings = GbdtSettings(
        objective=request.param,
        trees=80,
        patience=10,
        threads=1,
        rate=0.1,
        leaves=15,
        set_split_positives=0,
    )
    return fit_gbdt(TRAIN, VALIDATION, COLUMNS, settings, categorical=["category"])


def test_it_learns_what_there_is_to_learn(model):
    assert metrics.auc(model.score(TEST.matrix), TEST.label) > 0.75
    assert next(iter(model.importance())) in COLUMNS[:3]
    assert sum(model.importance().values()) == pytest.approx(1)
    assert list(model.importance())[-1] == "noise"


def test_the_export_equals_the_model_on_thousands_of_rows_with_missing_values(model):
    exported = gbdt_to_onnx(model)
    assert np.isnan(TEST.matrix).any()
    assert largest_difference(model, exported, TEST.matrix) < 5e-6
    assert score_onnx(exported, TEST.matrix[:1]).shape == (1,)
    assert score_onnx(exported, TEST.matrix[:0]).shape == (0,)


def test_the_export_is_complete_and_repeats_itself(model):
    exported = gbdt_to_onnx(model)
    graph = onnx.load_model_from_string(exported)
    refuse_external_tensors(graph)
    assert [o.name for o in graph.graph.output] == ["probability"]
    assert exported == gbdt_to_onnx(model)


def test_a_model_that_points_outside_is_refused(model):
    graph = onnx.load_model_from_string(gbdt_to_onnx(model))
    tensor = graph.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(BundleError, match="outside the model"):
        refuse_external_tensors(graph)


def test_a_difference_is_noticed(model):
    other = fit_gbdt(
        TRAIN,
        VALIDATION,
        COLUMNS,
        GbdtSettings(trees=5, patience=0, threads=1, objective=model.settings.objective),
    )
    with pytest.raises(BundleError, match="differs from the trained one"):
        largest_difference(model, gbdt_to_onnx(other), TEST.matrix)


def test_the_same_seed_gives_the_same_model_regardless_of_the_threads():
    one = fit_gbdt(TRAIN, VALIDATION, COLUMNS, SMALL)
    two = fit_gbdt(TRAIN, VALIDATION, COLUMNS, GbdtSettings(trees=80, patience=10, threads=2))
    assert np.array_equal(one.score(TEST.matrix), two.score(TEST.matrix))


def test_it_stops_when_validation_stops_improving():
    settings = GbdtSettings(trees=1_000, patience=5, leaves=63, leaf_rows=20, rate=0.3, threads=1)
    model = fit_gbdt(TRAIN, VALIDATION, COLUMNS, settings)
    assert model.trees < 200
    assert int(np.argmin(model.curve["validation"])) + 1 == model.trees
    assert model.curve["train"][-1] < model.curve["validation"][-1]


def test_progress_is_reported():
    calls = []
    fit_gbdt(
        TRAIN,
        VALIDATION,
        COLUMNS,
        GbdtSettings(trees=3, threads=1),
        progress=lambda done, most: calls.append((done, most)),
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_one_class_is_refused_in_words():
    with pytest.raises(UsageError, match="0 positives of 10 rows"):
        fit_gbdt(Sample(TRAIN.matrix[:10], np.zeros(10)), VALIDATION, COLUMNS, SMALL)


def test_without_a_column_there_is_nothing_to_learn_from():
    with pytest.raises(UsageError, match="no column is left to learn from"):
        fit_gbdt(
            Sample(TRAIN.matrix[:, :0], TRAIN.label),
            Sample(VALIDATION.matrix[:, :0], VALIDATION.label),
            (),
            SMALL,
        )


def test_a_matrix_of_another_type_is_refused():
    with pytest.raises(UsageError, match="float32"):
        Sample(TRAIN.matrix.astype(np.float64), TRAIN.label)


def test_an_unknown_objective_is_refused():
    with pytest.raises(UsageError, match="lambdarank"):
        GbdtSettings(objective="magic")
