"""Reasons for leaving from forests: exact additive contributions in calibrated log-odds."""

import re

import numpy as np
import pytest

from tailorbird.features import FeatureSet, count, entity, gap_mean, time_since
from tailorbird.models.export import gbdt_to_onnx
from tailorbird.models.gbdt import GbdtSettings, Sample, fit_gbdt
from tailorbird.ranking.bundle import write_bundle
from tailorbird.ranking.calibration import Platt
from tailorbird.ranking.churn.bundle import CHURN_HEAD, ChurnBundle, to_log_odds
from tailorbird.ranking.churn.plan import ChurnPlan, Part
from tailorbird.ranking.churn.reasons import churn_reasons, format_column_value
from tailorbird.ranking.encode.encoder_fit import fit_encoder
from tailorbird.registry import ColumnNames
from tailorbird.training.fit.trees import export_trees

NAMES = ("views", "orders")


def counts():
    return [count(name, entity("user"), "view", window="7d") for name in NAMES]


def bundle_of(folder, *, trees=True, declared=counts) -> ChurnBundle:
    features = FeatureSet.from_declarations(declared())
    encoder = fit_encoder(ColumnNames(features.numeric), np.zeros((0, 0), np.uint64), computed=())
    rng = np.random.default_rng(1)
    matrix = rng.uniform(0, 10, size=(2_000, len(encoder.names))).astype(np.float32)
    stays = (rng.uniform(0, 10, 2_000) < matrix[:, encoder.names.index("orders")]).astype(float)
    settings = GbdtSettings(trees=30, patience=0, leaves=5, leaf_rows=20, threads=1)
    model = fit_gbdt(
        Sample(matrix, stays), Sample(matrix[:50], stays[:50]), encoder.names, settings
    )
    plan = ChurnPlan("churn", ("view",), 7, 0, 0, 1, 7, 0, (Part("trees", "direct"),))
    write_bundle(
        folder,
        created_at=1,
        features=features,
        encoder=encoder,
        models={"model/trees.onnx": gbdt_to_onnx(model)},
        heads=plan.heads("platt"),
        index=None,
        calibration={CHURN_HEAD: Platt(4.0, -2.0)},
        extra_files=plan.files(),
        golden=matrix,
        trees={"trees": export_trees(model)} if trees else None,
    )
    return ChurnBundle.load(folder, schema_hash=None)


def test_effects_of_forests_add_up_to_how_far_a_user_is_from_the_mean(tmp_path):
    bundle = bundle_of(tmp_path / "bundle")
    rows = [
        (
            np.random.default_rng(2).uniform(0, 10, size=(20, 2)).astype(np.float32),
            np.zeros((20, 0), np.uint64),
        )
    ]
    effects, probabilities = bundle.effects(rows), bundle.score(rows).churn_probability
    start = to_log_odds(probabilities) - effects.sum(axis=1)
    assert np.ptp(start) < 1e-4
    for row, reasons in zip(effects, churn_reasons(bundle, rows), strict=True):
        assert reasons[0].effect == pytest.approx(row[np.argmax(np.abs(row))])
    orders = bundle.encoder.names.index("orders")
    assert np.corrcoef(effects[:, orders], rows[0][0][:, orders])[0, 1] < -0.8


def test_without_trees_columns_are_made_as_usual(tmp_path):
    bundle = bundle_of(tmp_path / "bundle", trees=False)
    rows = [(np.array([[5.0, 0.0], [5.0, 10.0]], np.float32), np.zeros((2, 0), np.uint64))]
    first, second = churn_reasons(bundle, rows)
    assert (first[0].column, first[0].effect > 0, second[0].effect < 0) == ("orders", True, True)


@pytest.mark.parametrize("trees", [True, False])
def test_a_reason_reports_chances_and_not_odds(tmp_path, trees):
    """From where the chance would be without the column to where it is: twice the odds are not
    twice the chance.
    """
    bundle = bundle_of(tmp_path / "bundle", trees=trees)
    rows = [(np.array([[5.0, 0.0], [5.0, 10.0]], np.float32), np.zeros((2, 0), np.uint64))]
    effects, probabilities = bundle.effects(rows), bundle.score(rows).churn_probability
    orders = bundle.encoder.names.index("orders")
    for person, (reasons, moved) in enumerate(
        zip(churn_reasons(bundle, rows), ("raises", "lowers"), strict=True)
    ):
        match = re.fullmatch(
            r"orders is (?:0|10): (raises|lowers) the chance of leaving "
            r"from ([\d.]+)% to ([\d.]+)%",
            reasons[0].text,
        )
        assert match is not None
        assert match[1] == moved
        without, chance = float(match[2]) / 100, float(match[3]) / 100
        digits = 10.0 ** -(len(match[3].partition(".")[2]) + 2)
        assert chance == pytest.approx(probabilities[person], abs=digits)
        assert without == pytest.approx(
            1 / (1 + np.exp(effects[person, orders] - to_log_odds(probabilities)[person])),
            abs=digits,
        )
        assert 0 < without < 1
        assert 0 < chance < 1


def test_spans_of_time_are_reported_in_the_unit_that_suits_them(tmp_path):
    def spans():
        return [
            gap_mean("views", entity("user"), "view"),
            time_since("orders", entity("user"), "purchase"),
        ]

    bundle = bundle_of(tmp_path / "bundle", declared=spans)
    values = [[5.0, 8_100_000.0], [5.0, 10_800.0], [5.0, np.nan]]
    rows = [(np.array(values, np.float32), np.zeros((3, 0), np.uint64))]
    texts = [
        next(reason.text for reason in reasons if reason.column == "orders")
        for reasons in churn_reasons(bundle, rows)
    ]
    assert [text.partition(":")[0] for text in texts] == [
        "orders is 94 days",
        "orders is 3 h",
        "orders is missing",
    ]
    assert format_column_value(90.0, is_duration=True) == "90 s"
    assert format_column_value(216_000.0, is_duration=True) == "2.5 days"
    assert format_column_value(-300.0, is_duration=True) == "-5 min"
    assert format_column_value(12_345.0, is_duration=False) == "12,345"
