"""The head `dwell_s`: its label, that it is learned where a formula names it, exported as trained,
used, and told beside a constant.
"""

import re
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from tests.support.training.rows import Lake
from tests.support.training.shop import Shop

from tailorbird.events import DAY, HOUR, MINUTE
from tailorbird.features import count, entity
from tailorbird.features.featureset import FeatureSet
from tailorbird.models.deep.rows import Rows
from tailorbird.models.export import gbdt_to_onnx, largest_difference, score_onnx
from tailorbird.models.gbdt import GbdtSettings, Sample, fit_gbdt
from tailorbird.ranking import Slot
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.calibration import Calibration, Scale, fit_scale
from tailorbird.ranking.policy.targets import is_amount_head, item_heads, item_probability_heads
from tailorbird.registry import Registry
from tailorbird.training.dataset.chunks import sample_blocks
from tailorbird.training.dataset.codes import IdVocabulary, encode_interactions, seconds_viewed
from tailorbird.training.dataset.extra_labels import OutcomeIndex
from tailorbird.training.dataset.logged_answers import dataset_from_responses
from tailorbird.training.dataset.request_choice import RowSettings
from tailorbird.training.dataset.rows import load_training_data
from tailorbird.training.evaluation.amounts import compute_amount_metrics
from tailorbird.training.evaluation.bootstrap import Bootstrap
from tailorbird.training.evaluation.metrics import deviances
from tailorbird.training.fit import inputs
from tailorbird.training.fit.calibrate import choose_scale
from tailorbird.training.fit.trees import export_trees
from tailorbird.training.pipeline import train
from tailorbird.training.settings import TrainSettings

pytestmark = pytest.mark.slow

FORMULA = "1.0*click + 5.0*purchase + 0.002*dwell_s"
NOW = 1_000 * MINUTE


def test_it_is_an_amount_of_items_and_no_chance():
    heads = ["click", "dwell_s", "dwell_30s", "return_7d"]
    assert [head for head in heads if is_amount_head(head)] == ["dwell_s"]
    assert item_heads(heads) == ["click", "dwell_s", "dwell_30s"]
    assert item_probability_heads(heads) == ["click", "dwell_30s"]
    assert Slot("home", formula=FORMULA).objective == {
        "click": 1.0,
        "purchase": 5.0,
        "dwell_s": 0.002,
    }


def test_the_label_of_an_answer_is_the_sum_of_its_views(routed):
    a, e = routed.answer, routed.event
    events = routed.table(
        a(1 * MINUTE, "u1", ["x", "y", "z", "w"], "r1"),
        e("view", 2 * MINUTE, "u1", "x", "r1", dwell_ms=1_500.0),
        e(
            "view", 3 * MINUTE, "u1", "x", dwell_ms=2_250.0
        ),  # names no answer: of the last that showed it
        e("view", 3 * MINUTE, "u1", "y", "r1", dwell_ms=86_400_000.0),  # left open for a day
        e("view", 4 * MINUTE, "u1", "z", "r1"),
        e("click", 5 * MINUTE, "u1", "z", "r1", dwell_ms=90_000.0),  # no view
        e("view", 50 * MINUTE, "u1", "w", "r1", dwell_ms=9_000.0),  # after the window
    )
    made = {"ts_from": 0, "complete_until": NOW, "denominator": "answer"}
    data = dataset_from_responses(events, "home", ("click", "dwell_s"), **made)
    assert data.item_vocabulary.decode(data.item_codes) == ["x", "y", "z", "w"]
    assert data.labels["dwell_s"].tolist() == [3.75, 1_800.0, 0.0, 0.0]
    assert data.gain({"click": 1.0, "dwell_s": 0.002}).tolist() == pytest.approx(
        [0.0075, 3.6, 1.0, 0.0]
    )
    seen = dataset_from_responses(
        events, "home", ("dwell_s",), **(made | {"denominator": "impression"})
    )
    assert seen.item_vocabulary.decode(seen.item_codes) == ["x", "y"]  # who viewed has seen


def test_the_label_of_a_drawn_row_is_the_sum_within_the_window(routed):
    e = routed.event
    events = routed.table(
        e("view", 10 * HOUR - 1, "b", "x", dwell_ms=9_000.0),  # before
        e("view", 10 * HOUR + 5, "b", "x", dwell_ms=1_000.0),
        e("view", 10 * HOUR + 6, "b", "x", dwell_ms=2_000.0),
        e("view", 10 * HOUR + 6, "c", "x", dwell_ms=5_000.0),  # somebody else
        e("view", 11 * HOUR + 5, "b", "x", dwell_ms=7_000.0),  # too late
        e("click", 10 * HOUR, "b", "x"),
    )
    people, items = IdVocabulary.of(events["person"]), IdVocabulary.of(events["item_id"])
    made = encode_interactions(events, people, items, ("dwell_s",))
    assert len(made.ts) == 5
    happened = OutcomeIndex(made, seconds_viewed(events.slice(0, 5)))  # all but the click
    answers = routed.table(
        routed.answer(10 * HOUR, "b", ["x"], "r"), routed.answer(10 * HOUR, "d", ["x"], "s")
    )
    dataset = dataset_from_responses(
        answers,
        "home",
        ("click",),
        ts_from=0,
        complete_until=NOW,
        denominator="answer",
        person_vocabulary=people,
        item_vocabulary=items,
    )
    assert happened.total_amount(dataset, HOUR).tolist() == [3.0, 0.0]


def test_requests_are_drawn_from_views_for_a_dwell_formula(routed):
    features = FeatureSet.from_declarations([count("clicks", entity("item"), "click", window="7d")])
    rows = [
        routed.event("view", n * MINUTE, f"u{n % 50}", f"i{n % 7}", dwell_ms=1_000.0)
        for n in range(900)
    ]
    slot = Slot("home", formula="dwell_s", denominator="answer")
    training_data = load_training_data(
        Lake(routed.table(*rows)), features, slot, RowSettings(0, 20 * DAY)
    )
    assert training_data.sampling_scheme.type == "view"
    assert training_data.heads == ("dwell_s",)


def sample(rng, rows):
    """Mostly nothing, and where something is, more with the first column."""
    matrix = rng.normal(size=(rows, 3)).astype(np.float32)
    matrix[rng.random(matrix.shape) < 0.05] = np.nan
    mean = np.exp(1 + np.nan_to_num(matrix[:, 0]))
    label = np.where(rng.random(rows) < 0.2, rng.gamma(2, mean * 5 / 2), 0.0)
    return Sample(matrix, label.astype(np.float32), None, None), mean


def test_trees_learn_the_mean_of_what_is_mostly_nothing_and_export_it():
    rng = np.random.default_rng(1)
    (learn, _), (watch, _), (test, mean) = (sample(rng, 20_000) for _ in range(3))
    model = fit_gbdt(
        learn, watch, ["a", "b", "c"], GbdtSettings("tweedie", trees=150, rate=0.1, threads=1)
    )
    predicted = model.score(test.matrix)
    assert (predicted >= 0).all()
    assert predicted.mean() == pytest.approx(
        mean.mean(), rel=0.15
    )  # l2 holds it back, for which there is the scale
    assert np.corrcoef(predicted, mean)[0, 1] > 0.9
    assert largest_difference(model, gbdt_to_onnx(model), test.matrix) < 1e-5
    trees = export_trees(model)
    assert np.allclose(
        trees.apply_link(trees.raw_scores(test.matrix[:100])), predicted[:100], rtol=1e-5
    )


def test_a_scale_corrects_later_means_and_is_used_only_if_better():
    rng = np.random.default_rng(2)
    day, mean = np.repeat(np.arange(5), 4_000), rng.gamma(2, 3, 20_000)
    amount = np.where(rng.random(mean.size) < 0.3, mean / 0.3, 0.0)
    chosen = choose_scale(mean / 2, amount, day)
    assert chosen.calibration == Scale(pytest.approx(2.0, rel=0.05))
    assert "by Poisson deviance on the next of 4 periods: scale" in chosen.summary
    jumps = np.where(day % 2, 1.6, 0.4)  # what fits yesterday does not fit today
    assert choose_scale(mean, amount * jumps, day).calibration.name == "none"
    few = choose_scale(mean[:30], np.arange(30.0), day[:30])
    assert few.mean_losses == {}
    assert few.summary == "none, as there is too little to choose by"
    assert fit_scale(np.zeros(3), np.ones(3)) == Scale(1.0)
    assert (
        msgspec.json.decode(msgspec.json.encode(chosen.calibration), type=Calibration)
        == chosen.calibration
    )
    assert Scale(2.0).apply(np.array([-0.1, 0.0, 3.0])).tolist() == [0.0, 0.0, 6.0]


def test_figures_by_hand():
    expected, amount = np.array([1.0, 1.0, 2.0, 0.0]), np.array([0.0, 0.0, 6.0, 0.0])
    figures = compute_amount_metrics(
        expected, amount, np.array([0, 0, 1, 1]), Bootstrap(np.array([0, 1]), replicates=50)
    )
    assert (figures.mae.value, figures.mae_mean, figures.mae_median) == (1.5, 2.25, 1.5)
    assert (figures.expected, figures.happened, figures.positive_count, figures.row_count) == (
        1.0,
        1.5,
        1,
        4,
    )
    assert deviances(np.array([2.0, 3.0]), np.array([0.0, 3.0])).tolist() == [4.0, 0.0]
    assert deviances(np.array([1.0]), np.array([np.e]))[0] == pytest.approx(2.0)  # 2 (e − (e − 1))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Shop.open(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def report(shop):
    return shop.train("dwell", Slot("home", formula=FORMULA), page=True)


def bundle_of(shop, name, version):
    return Bundle.load(
        Registry(shop.folder / name, clock=shop.clock).info(version).path,
        schema_hash=shop.features.schema_hash,
    )


def test_a_formula_that_names_it_has_it_trained_and_used(shop, report):
    bundle = bundle_of(shop, "dwell", report.version)
    assert bundle.heads == ("click", "purchase", "dwell_s")
    assert bundle.manifest.formula == Slot("home", formula=FORMULA).objective
    assert bundle.manifest.metrics["parity"] < 1e-5
    assert bundle.calibration["dwell_s"].name in ("scale", "none")
    golden = np.load(bundle_path(shop, report) / "golden_input.npy")
    seconds = bundle.calibration["dwell_s"].apply(
        score_onnx(bundle_path(shop, report) / "model/dwell_s.onnx", golden)
    )
    scores = bundle.score_matrix(golden)
    assert scores.heads["dwell_s"] == pytest.approx(seconds, rel=1e-6)
    assert (scores.heads["dwell_s"] >= 0).all()
    without = bundle.score_matrix(golden, objective={"click": 1.0, "purchase": 5.0})
    assert scores.value - without.value == pytest.approx(0.002 * seconds, abs=1e-9)
    assert np.ptp(seconds) > 0


def bundle_path(shop, report):
    return Registry(shop.folder / "dwell", clock=shop.clock).info(report.version).path


def test_reports_compare_its_error_with_a_constant(shop, report):
    amounts = report.to_dict()["amounts"]["dwell_s"]
    assert amounts["mae_low"] <= amounts["mae"] <= amounts["mae_high"]
    assert amounts["deviance"] < amounts["deviance_mean"]  # it knows more than a constant
    assert amounts["expected"] == pytest.approx(amounts["happened"], rel=0.25)
    assert "dwell_s" not in report.to_dict()["heads"]
    card = bundle_of(shop, "dwell", report.version).manifest.card
    assert "0.002 · E(dwell_s)" in card
    line = next(
        line for line in card.splitlines() if line.startswith("- dwell_s: mean absolute error")
    )
    assert re.search(
        rf"of always the mean {amounts['mae_mean']:.4f}, the median {amounts['mae_median']:.4f}",
        line,
    )
    assert "of always the median" in report.page_path.read_text()
    again = shop.evaluate("dwell", Slot("home", formula=FORMULA), report.version)
    assert again.amount_metrics["dwell_s"].row_count == amounts["rows"]


def test_delayed_dwell_is_scaled_by_available_labels(shop):
    """Of three days of validation, only the third has one before it whose seconds were known when
    it began.
    """
    borders = {
        "validation_from": shop.clock.now() - 139 * HOUR,
        "test_from": shop.clock.now() - 65 * HOUR,
    }
    choices = {}
    for attribution in ("30m", "1d"):
        slot = Slot("home", formula="1.0*click + 0.002*dwell_s", attribution=attribution)
        choices[attribution] = shop.train(f"known-{attribution}", slot, **borders).about[
            "calibration"
        ]["dwell_s"]
    assert "on the next of 3 periods" in choices["30m"]
    assert "on the next of 1 periods" in choices["1d"]


def test_without_it_no_head_is_trained(shop):
    report = shop.train("plain", Slot("home", formula="1.0*click + 5.0*purchase"))
    assert bundle_of(shop, "plain", report.version).heads == ("click", "purchase")
    assert report.to_dict()["amounts"] == {}


def test_rows_in_files_are_sampled_evenly_up_to_the_limit():
    number = np.arange(1_000, dtype=np.float32)
    rows = Rows(number[:, None], {"dwell_s": number}, number / 2, block_rows=100)
    some = sample_blocks(rows, 350)
    assert len(some) == 300
    assert np.unique(some.matrix[:, 0] // 100).tolist() == [0, 4, 9]
    assert np.array_equal(some.labels["dwell_s"], some.matrix[:, 0])
    assert np.array_equal(some.weight, some.matrix[:, 0] / 2)


@pytest.mark.nightly
def test_amount_trees_next_to_a_net_use_rows_that_fit_into_memory(shop, monkeypatch):
    pytest.importorskip("torch", reason="needs the extra deep")
    monkeypatch.setattr(inputs, "CHUNK_ROWS", 2_000)
    settings = TrainSettings(
        quick=True, architecture="shared", requests=900, test_requests=600, rows_in_memory=4_000
    )
    folders = {
        "lake": shop.lake,
        "registry": shop.folder / "files",
        "reports_folder": shop.folder / "files-reports",
    }
    made = train(
        shop.features,
        Slot("home", formula="click + 0.002*dwell_s"),
        **folders,
        clock=shop.clock,
        settings=settings,
    )
    bundle = bundle_of(shop, "files", made.version)
    assert {head.name: head.file for head in bundle.manifest.heads} == {
        "click": "model/shared.onnx",
        "dwell_s": "model/dwell_s.onnx",
    }
    (message,) = [note for note in made.notes if "dwell_s was learned by trees" in note]
    some, every = (
        int(number.replace(",", ""))
        for number in re.search(r"from ([\d,]+) of the ([\d,]+) rows in files", message).groups()
    )
    assert 0 < some <= every == made.row_counts["train"] > 4_000
    past = bundle.encoder.history.names
    assert not {
        bundle.encoder.names[place] for place in bundle.trees["dwell_s"].feature if place >= 0
    } & set(past)
    alone = train(
        shop.features,
        Slot("home", formula="dwell_s"),
        **folders,
        clock=shop.clock,
        settings=settings,
    )
    assert bundle_of(shop, "files", alone.version).heads == ("dwell_s",)


@pytest.mark.nightly
def test_amount_trees_next_to_a_net_ignore_net_columns(shop):
    pytest.importorskip("torch", reason="needs the extra deep")
    settings = replace(
        TrainSettings(quick=True), architecture="shared", requests=600, test_requests=600
    )
    folders = {
        "lake": shop.lake,
        "registry": shop.folder / "net",
        "reports_folder": shop.folder / "net-reports",
    }
    made = train(
        shop.features,
        Slot("home", formula="click + 0.002*dwell_s"),
        **folders,
        clock=shop.clock,
        settings=settings,
    )
    bundle = bundle_of(shop, "net", made.version)
    assert bundle.encoder.history is not None
    assert {head.name: head.file for head in bundle.manifest.heads} == {
        "click": "model/shared.onnx",
        "dwell_s": "model/dwell_s.onnx",
    }
    used = {bundle.encoder.names[place] for place in bundle.trees["dwell_s"].feature if place >= 0}
    past = bundle.encoder.history.names
    assert used
    assert not used & {*past, *(name for one in bundle.encoder.words for name in one.names)}
