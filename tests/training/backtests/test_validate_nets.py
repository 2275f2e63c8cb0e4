"""Validation of nets: all of it is of the model that training would train, whichever that is."""

import json
from dataclasses import replace

import pytest
from tests.support.commands import assert_refused, make_small_shop, must, must_json, tailorbird
from tests.support.training.shop import HOME, Shop

from tailorbird.errors import UsageError
from tailorbird.models.deep import fitting
from tailorbird.models.deep.layout import Bag, History, Layout
from tailorbird.models.gbdt import GbdtSettings
from tailorbird.training.backtests.page import write_validation
from tailorbird.training.backtests.report import ValidationReport
from tailorbird.training.backtests.run import MODEL_NAME, ValidateSettings, validate
from tailorbird.training.backtests.variants import (
    BOOSTED_TREES,
    ITEM_ID_COLUMNS,
    TRAINING_SHARES,
    group_columns,
    share_variant_name,
)
from tailorbird.training.settings import TrainSettings
from tailorbird.training.tuning.tuned import TunedSettings, write_tuned

pytestmark = pytest.mark.slow

SMALL = {"epochs": 2, "batch": 128, "rate": 0.01, "hidden": [16, 8], "threads": 1}
TREES = TrainSettings(quick=True, requests=1_500, gbdt=GbdtSettings(trees=25))
NET = replace(TREES, architecture="mlp", parameters=SMALL)
SETTINGS = ValidateSettings(train=NET, splits=1, judged=400)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Shop.open(tmp_path_factory.mktemp("shop"))


def validated(shop, settings, **more):
    return validate(
        shop.features, HOME, lake=shop.lake, clock=shop.clock, settings=settings, **more
    )


def alone(shop, **changes):
    """A validation of one origin without variants, of other settings of training."""
    return validated(shop, replace(SETTINGS, train=replace(NET, **changes), variants=False))


@pytest.fixture(scope="module")
def trees(shop):
    return validated(shop, replace(SETTINGS, train=TREES, variants=False))


@pytest.fixture(scope="module")
def stages():
    return {}


@pytest.fixture(scope="module")
def report(shop, stages):
    pytest.importorskip("torch", reason="needs the extra deep")
    settings = replace(SETTINGS, train=replace(NET, tuned="mlp as tuned"))
    signals = {"subset": {"keep": ["item_ctr_7d", "popularity"]}}
    return validated(
        shop,
        settings,
        signals=signals,
        progress=lambda stage, done, total: stages.update({stage: (done, total)}),
    )


def ours(report: ValidationReport):
    return report.evaluation.intervals[MODEL_NAME]


def test_all_metrics_are_of_the_net_and_trees_are_a_variant(
    report: ValidationReport, trees, tmp_path
):
    assert report.architecture == report.about["architecture"] == "mlp"
    assert report.about["settings"]["mlp"]["epochs"] == 2
    assert not report.substitution
    assert report.about["tuned"] == "mlp as tuned"
    assert ours(report) != ours(trees)
    # columns for nets change nothing of what trees learn, nor of how they are judged
    for name in ("ndcg_10", "recall_10", "mrr"):
        assert report.evaluation.intervals[BOOSTED_TREES][name] == ours(trees)[name]
    (test,) = (one for one in report.tests if one.competitor == BOOSTED_TREES)
    assert test.kind == "architecture"
    assert test.gain.value == pytest.approx(
        ours(report)["ndcg_10"].value - ours(trees)["ndcg_10"].value
    )
    assert test.p <= test.p_adjusted
    for one, other in zip(report.overfit_gaps, trees.overfit_gaps, strict=True):
        assert (one.origin, one.head) == (other.origin, other.head)
        assert one.log_loss != other.log_loss
        assert max(one.log_loss) < 2 * min(one.log_loss) or one.head != "click"
    assert {name: each.auc for name, each in report.evaluation.head_metrics.items()} != {
        name: each.auc for name, each in trees.evaluation.head_metrics.items()
    }
    page = write_validation(tmp_path, report)
    assert "Each origin's model (mlp)" in " ".join(page.read_text().split())
    assert json.loads(page.with_suffix(".json").read_text())["about"]["architecture"] == "mlp"


def test_a_net_is_compared_with_itself_in_all_the_ways_that_trees_are(report: ValidationReport):
    kinds = {one.competitor: one.kind for one in report.tests}
    assert kinds["unseen people"] == "people"
    assert kinds["default settings"] == "settings"
    assert (
        kinds["columns that rank keeps"]
        == kinds["without columns of item"]
        == kinds[f"without {ITEM_ID_COLUMNS}"]
        == "columns"
    )
    assert set(report.learning_curve) == {*TRAINING_SHARES, 1.0}
    assert report.learning_curve[1.0] == ours(report)["ndcg_10"]
    other_names = [one.competitor for one in report.tests if one.kind != "baseline"]
    different = {report.evaluation.intervals[name]["ndcg_10"].value for name in other_names}
    assert len(different) == len(other_names), "each was fitted in another way"
    for name in ("long-tail items", "new items", "new users", "known users"):
        count, figures = report.evaluation.slices[name]
        assert count > 0
        assert figures[MODEL_NAME].low <= figures[MODEL_NAME].value <= figures[MODEL_NAME].high
    assert not report.leaks
    assert not any("left out" in note for note in report.notes)


def test_progress_reports_what_is_fitted(report: ValidationReport, stages):
    assert {
        "mlp",
        BOOSTED_TREES,
        f"mlp, {share_variant_name(0.25)}",
        "mlp, unseen people",
        "mlp, without columns of item",
    } <= set(stages)
    assert stages["mlp"] == stages["mlp, unseen people"] == (1, 1)


@pytest.mark.nightly
def test_the_same_seed_gives_the_same_and_another_one_another(shop):
    pytest.importorskip("torch", reason="needs the extra deep")
    one, same = alone(shop), alone(shop)
    assert one.to_dict() == same.to_dict()
    other = validated(shop, replace(SETTINGS, variants=False, seed=8))
    assert ours(other) != ours(one)


@pytest.mark.nightly
def test_auto_uses_the_better_model_on_the_validation_part_and_reports_it(shop):
    pytest.importorskip("torch", reason="needs the extra deep")
    report = alone(shop, architecture="auto", parameters={**SMALL, "rate": 1e-9})
    assert report.architecture == "gbdt"
    assert report.about["architecture"] == "auto"
    assert "auto took, by what each origin watched: gbdt" in report.notes
    assert (
        ours(report)["ndcg_10"] == ours(alone(shop, architecture="gbdt", parameters={}))["ndcg_10"]
    )


def test_without_torch_a_net_is_refused_at_once_and_auto_uses_trees(shop, monkeypatch):
    monkeypatch.setattr(fitting, "find_spec", lambda name: None)
    progress_calls = []
    with pytest.raises(UsageError, match=r"dcn needs torch.*\n.*pip install 'tailorbird\[deep\]'"):
        validated(
            shop,
            replace(SETTINGS, train=replace(NET, architecture="dcn")),
            progress=lambda *each: progress_calls.append(each),
        )
    assert not progress_calls, "nothing was read"
    report = alone(shop, architecture="auto")
    assert report.architecture == "gbdt"
    assert any("torch is not installed" in note for note in report.notes)
    with pytest.raises(UsageError, match="no architecture 'forest'"):
        alone(shop, architecture="forest")


@pytest.mark.nightly
def test_a_net_that_diverges_is_reported(shop):
    pytest.importorskip("torch", reason="needs the extra deep")
    with pytest.raises(UsageError, match=r"the net diverged at a rate of 1e\+06"):
        alone(shop, architecture="shared", parameters={**SMALL, "rate": 1e6})


def test_columns_that_only_nets_see_have_groups_and_can_be_left_out(shop):
    columns = (
        "price",
        "device",
        "position",
        "item_code",
        "recent_item_1",
        "recent_gap_1",
        "title_word_1",
        "title_word_2",
    )
    layout = Layout(
        columns,
        (0, 2),
        {1: 5},
        (Bag("title", (6, 7), 50),),
        History(3, (4,), (5,), 9),
        2,
        {3: 9, 1: 5},
    )
    groups = group_columns(columns, shop.features, layout)
    assert groups[ITEM_ID_COLUMNS] == ("item_code", "recent_item_1", "recent_gap_1")
    assert set(groups["columns of item"]) == {"price", "title_word_1", "title_word_2"}
    assert layout.net_only_columns == columns[3:]
    without = layout.select_columns(
        [name for name in columns if name not in groups["columns of item"]]
    )
    assert without == Layout(
        columns[1:6], (1,), {0: 5}, (), History(2, (3,), (4,), 9), 1, {2: 9, 0: 5}
    )
    assert layout.select_columns(columns) == layout
    layout_of_three = layout.select_columns(columns[:3])
    assert (
        layout_of_three.history,
        layout_of_three.bags,
        layout_of_three.numeric_indexes,
        layout_of_three.code_cardinalities,
    ) == (None, (), (0, 2), {1: 5})


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_small_shop(tmp_path_factory.mktemp("cli") / "shop")


WORDS = ("validate", "--quick", "--splits", 1, "--no-variants", "--as-of", "latest")


@pytest.mark.nightly
def test_the_command_validates_what_train_would_train(project):
    pytest.importorskip("torch", reason="needs the extra deep")
    write_tuned(
        project / "tuned.toml",
        "home",
        TunedSettings("mlp", "2020-01-01T00:00:00Z", {"rate": 0.002, "epochs": 1, "threads": 1}),
    )
    try:
        tuned = must_json("-C", project, *WORDS)
        output = must("-C", project, *WORDS, "--architecture", "gbdt")
        given = must_json(
            "-C", project, *WORDS, "--architecture", "dcn", "--parameters", json.dumps(SMALL)
        )
    finally:
        (project / "tuned.toml").unlink()
    assert (
        tuned["about"]["architecture"],
        tuned["about"]["settings"]["mlp"]["rate"],
        tuned["instead"],
    ) == ("mlp", 0.002, "")
    assert tuned["about"]["tuned"].startswith("mlp as tuned")
    assert output.startswith(
        "All figures are of gbdt, which was asked for, not of mlp, which the slot is tuned to."
    )
    assert "NDCG@10 of gbdt over 1 origins" in output
    assert (given["about"]["architecture"], given["about"]["settings"]["dcn"]["hidden"]) == (
        "dcn",
        [16, 8],
    )
    assert "not of mlp" in given["instead"]
    wrong = (
        (("--architecture", "forest"), "forest"),
        (
            ("--parameters", '{"epochs": 1}'),
            "--parameters: these are parameters of nets, and trees were asked for",
        ),
        (("--architecture", "mlp", "--parameters", '{"epoch": 1}'), "mlp has no parameter 'epoch'"),
    )
    for words, message in wrong:
        assert_refused(tailorbird("-C", project, *WORDS, *words), message, status=2)
