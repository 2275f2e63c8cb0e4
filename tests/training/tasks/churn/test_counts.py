"""The choice of the count model, and its equality with the bundle."""

from types import SimpleNamespace

import numpy as np
import pytest
from tests.support.churn_columns import declare_habits

from tailorbird.events import DAY
from tailorbird.features import FeatureSet, entity
from tailorbird.features.declare.checks import collect_features
from tailorbird.models.btyd import ColumnBgNbd, Purchases, fit_bg_nbd
from tailorbird.models.gbdt import GbdtSettings, Sample, fit_gbdt
from tailorbird.ranking import Churn
from tailorbird.ranking.bundle import write_bundle
from tailorbird.ranking.calibration import Identity
from tailorbird.ranking.churn.bundle import CHURN_HEAD, ChurnBundle
from tailorbird.ranking.churn.pareto_nbd import ParetoNbdColumns
from tailorbird.ranking.encode.encoder_fit import fit_encoder
from tailorbird.registry import ColumnNames
from tailorbird.training.tasks.churn.fit import COUNT_MODELS, PURCHASES, FittedModels
from tailorbird.training.tasks.churn.labels import Window
from tailorbird.training.tasks.churn.model_choice import (
    UNCALIBRATED,
    VALIDATION_CUTS,
    ModelChoice,
    choose_count_model,
)
from tailorbird.training.tasks.churn.pareto import fit_pareto_nbd
from tailorbird.training.tasks.churn.rows import FeatureTable
from tailorbird.training.tasks.churn.train import build_plan

WINDOW = Window(0, 0, 91 * DAY)
CHURN = Churn(window="91d", period="7d", recency="since", frequency="bought", age="age")


def cut(bought, **purchases):
    return SimpleNamespace(bought=bought, scores=SimpleNamespace(purchases=purchases))


def cuts(count=VALIDATION_CUTS):
    """`near` is right but for its level, `low` says far too little of everybody alike, `usual` is
    wrong about who buys.
    """
    rng, made = np.random.default_rng(3), []
    for _ in range(count):
        rate = rng.gamma(0.5, 0.8, 4_000)
        made.append(
            cut(
                rng.poisson(rate).astype(float),
                usual=rng.permutation(rate),
                near=rate * 1.4,
                low=np.full(4_000, 0.01),
            )
        )
    return made


def test_the_count_that_erred_least_is_taken_regardless_of_its_level():
    over = cuts()
    name, errors = choose_count_model(over, ("usual", "near", "low"), np.ones(VALIDATION_CUTS))
    absolute_errors = {
        each: np.mean([np.abs(one.scores.purchases[each] - one.bought).mean() for one in over])
        for each in errors
    }
    assert min(absolute_errors, key=lambda each: absolute_errors[each]) == "low", (
        "an absolute error alone prefers what says that hardly anybody buys"
    )
    assert name == "near" == min(errors, key=lambda each: errors[each])


def test_the_usual_count_is_taken_where_too_few_cuts_are_over():
    over = cuts(VALIDATION_CUTS - 1)
    assert choose_count_model(over, ("usual", "near"), np.ones(VALIDATION_CUTS - 1))[0] == "usual"
    assert choose_count_model(over, (), np.ones(VALIDATION_CUTS - 1)) == ("", {})


def test_a_count_that_was_not_there_at_every_cut_is_not_taken():
    over = cuts()
    del over[0].scores.purchases["near"]
    name, errors = choose_count_model(over, ("usual", "near"), np.ones(VALIDATION_CUTS))
    assert (name, set(errors)) == ("usual", {"usual"})


def test_the_description_names_the_count_model_and_why():
    choice = ModelChoice(
        "trees",
        UNCALIBRATED,
        {"trees": 0.5},
        1.1,
        VALIDATION_CUTS,
        "bg_nbd",
        {"bg_nbd": 0.4, "pareto_nbd": 0.5},
    )
    assert choice.description.endswith(
        "purchases of bg_nbd by mean absolute error, totals set right: bg_nbd 0.4000, "
        "pareto_nbd 0.5000, times 1.100"
    )
    assert ModelChoice("trees", UNCALIBRATED, {}, 1.0, 0).description.endswith(
        "no expected purchases"
    )


@pytest.fixture(scope="module")
def learned():
    """Fit models to the three columns of some people, and return them with a table."""
    with collect_features() as declared:
        declare_habits(entity("user"))
    features = FeatureSet.from_declarations(declared)
    encoder = fit_encoder(ColumnNames(features.numeric), np.zeros((0, 0), np.uint64), computed=())
    rng = np.random.default_rng(4)
    age = rng.uniform(30, 300, 1_500)
    repeats = rng.poisson(rng.gamma(0.6, 3.0, 1_500)).astype(float)
    recency = np.where(repeats > 0, age * rng.beta(3, 1, 1_500), 0.0)
    column_values = {"since": (age - recency) * 86_400, "age": age * 86_400, "bought": repeats + 1}
    matrix = np.column_stack([column_values[name] for name in encoder.names]).astype(np.float32)
    bought, settings = (
        rng.poisson(repeats / 3).astype(float),
        GbdtSettings(trees=10, patience=0, threads=1, objective="poisson"),
    )
    trees = fit_gbdt(
        Sample(matrix, bought), Sample(matrix[:50], bought[:50]), encoder.names, settings
    )
    customers, places = (
        Purchases(repeats, recency, age),
        [encoder.names.index(name) for name in ("since", "bought", "age")],
    )
    bg_nbd = ColumnBgNbd(
        fit_bg_nbd(customers), encoder.names, places[0], places[1], places[2], 91.0, 0.01
    )
    other = fit_pareto_nbd(customers)
    pareto_nbd = ParetoNbdColumns(other.r, other.alpha, other.s, other.beta, *places)
    fitted = FittedModels(encoder, {"bg_nbd": bg_nbd, PURCHASES: trees}, {}, pareto_nbd)
    return (
        features,
        fitted,
        FeatureTable(encoder.columns, matrix, np.zeros((1_500, 0), np.uint64)),
        customers,
    )


@pytest.mark.parametrize("name", COUNT_MODELS)
def test_a_bundle_expects_the_purchases_that_were_chosen(learned, tmp_path, name):
    features, fitted, table, _ = learned
    assert fitted.count_models == COUNT_MODELS
    expected = fitted.expected_purchases(table, WINDOW)
    plan = build_plan(CHURN, fitted, ModelChoice("bg_nbd", UNCALIBRATED, {}, 1.25, 0, name), 0)
    heads = plan.heads("none")
    write_bundle(
        tmp_path / "bundle",
        created_at=1,
        features=features,
        encoder=fitted.encoder,
        models={head.file: fitted.export(head.name) for head in heads},
        heads=heads,
        index=None,
        calibration={CHURN_HEAD: Identity()},
        extra_files=plan.files(),
        golden=table.numeric,
    )
    bundle = ChurnBundle.load(tmp_path / "bundle", schema_hash=None)
    scores = bundle.score([(table.numeric, table.categorical)])
    np.testing.assert_allclose(scores.purchases, expected[name] * 1.25, rtol=1e-4, atol=1e-5)
    assert bundle.effects([(table.numeric[:3], table.categorical[:3])]).shape == (3, 3), (
        "who leaves is not told by a count"
    )


def test_counts_are_what_each_model_expects(learned):
    _, fitted, table, customers = learned
    expected = fitted.expected_purchases(table, WINDOW)
    np.testing.assert_allclose(
        expected["pareto_nbd"],
        fit_pareto_nbd(customers).expected_purchases(customers, 91.0),
        rtol=1e-4,
    )
    np.testing.assert_allclose(
        expected["trees_bg_nbd"] * 2,
        expected["bg_nbd"] + fitted.models[PURCHASES].score(fitted.matrix(table)),
    )


def test_without_named_columns_trees_alone_count(learned):
    _, fitted, table, _ = learned
    alone = FittedModels(fitted.encoder, {PURCHASES: fitted.models[PURCHASES]}, {})
    assert alone.count_models == tuple(alone.expected_purchases(table, WINDOW)) == ("trees",)
    assert FittedModels(fitted.encoder, {}, {}).expected_purchases(table, WINDOW) == {}
