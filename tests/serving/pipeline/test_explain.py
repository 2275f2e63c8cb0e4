"""What stood behind an answer of trees: contributions that add up to the value, through calibration
and formula.
"""

import numpy as np
import pytest
from tests.support.shops import serving_shop

from tailorbird.errors import BundleError
from tailorbird.events import SimulatedClock
from tailorbird.models.export import gbdt_to_onnx
from tailorbird.models.gbdt import GbdtSettings, Sample, fit_gbdt
from tailorbird.ranking import Slot
from tailorbird.ranking.bundle import Bundle, write_bundle
from tailorbird.ranking.calibration import Isotonic
from tailorbird.ranking.encode.encoder_fit import fit_encoder
from tailorbird.registry import ColumnNames, Head
from tailorbird.serving.messages import RankQuery, RecommendQuery
from tailorbird.serving.models.schemas import SingleSchema
from tailorbird.serving.pipeline.pipeline import Pipeline
from tailorbird.serving.pipeline.protocols import FixedBundle
from tailorbird.training.fit.trees import export_trees

FORMULA = {"click": 1.0, "purchase": 8.0}


@pytest.fixture(scope="module")
def fitted(features, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trees")
    index = serving_shop.build_shop_index(folder / "index")
    encoder = fit_encoder(
        ColumnNames(features.numeric, features.categorical, features.sequences),
        np.zeros((0, 2), np.uint64),
    )
    rng = np.random.default_rng(0)
    matrix = rng.uniform(0, 40, size=(2_000, len(encoder.names))).astype(np.float32)
    settings = GbdtSettings(trees=20, patience=0, leaves=7, leaf_rows=20, rate=0.1, threads=1)
    models = {}
    for head, column in (("click", "price"), ("purchase", "age_days")):
        label = (rng.uniform(0, 40, 2_000) < matrix[:, encoder.names.index(column)]).astype(float)
        models[head] = fit_gbdt(
            Sample(matrix, label), Sample(matrix[:100], label[:100]), encoder.names, settings
        )
    return folder, index, encoder, matrix, models


def written(fitted, features, name, **changes):
    folder, _, encoder, matrix, models = fitted
    settings = {
        "created_at": serving_shop.NOW,
        "features": features,
        "encoder": encoder,
        "models": {f"model/{head}.onnx": gbdt_to_onnx(model) for head, model in models.items()},
        "heads": [Head(head, f"model/{head}.onnx") for head in models],
        "index": folder / "index",
        "golden": matrix,
        "calibration": {"click": Isotonic([0.0, 0.4, 1.0], [0.0, 0.1, 0.5])},
        "trees": {head: export_trees(model) for head, model in models.items()},
    }
    write_bundle(folder / name, **(settings | changes))
    return folder / name


def explained(folder, features):
    pipeline = Pipeline(
        slots={"home": Slot("home", objective=FORMULA, hide_seen=())},
        bundle_selector=FixedBundle(Bundle.load(folder, schema_hash=features.schema_hash)),
        feature_provider=SingleSchema(features, serving_shop.FakeReader(features)),
        response_log=None,
        clock=SimulatedClock(serving_shop.NOW),
        rng=np.random.default_rng(0),
    )
    answer = pipeline.rank(
        RankQuery(slot="home", items=[f"i{n}" for n in range(10, 30)], explain=True)
    )
    assert pipeline.answer(RecommendQuery(slot="home")).items[0].explanation is None
    return answer.items


def test_contributions_of_trees_add_up_to_the_value(fitted, features):
    for item in explained(written(fitted, features, "bundle"), features):
        explanation = item.explanation
        assert explanation.method == "tree_shap"
        assert explanation.base + sum(
            explanation.contributions.values()
        ) + explanation.rest == pytest.approx(item.score, abs=1e-6)
        assert item.score == pytest.approx(
            sum(FORMULA[head] * p for head, p in explanation.heads.items())
        )
        assert len(explanation.contributions) <= 8


def test_where_a_head_is_no_forest_columns_are_taken_out(fitted, features):
    trees = {"click": export_trees(fitted[4]["click"])}
    for item in explained(written(fitted, features, "half", trees=trees), features):
        assert (item.explanation.method, item.explanation.base) == ("occlusion", None)


def test_trees_of_another_model_are_refused(fitted, features):
    swapped = {"click": export_trees(fitted[4]["purchase"])}
    with pytest.raises(BundleError, match="the trees of head click are not those of its model"):
        Bundle.load(
            written(fitted, features, "swapped", trees=swapped), schema_hash=features.schema_hash
        )
