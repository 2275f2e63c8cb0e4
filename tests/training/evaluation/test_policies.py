"""A log of drawn slates tells the value of versions, formulas, settings of slots, and arms."""

import numpy as np
import pytest
from tests.support.commands import must, must_json
from tests.support.shops import serving_shop
from tests.support.shops.drawn_shop import APPEAL_BY_ITEM, EXAMINED_SHARE_BY_PLACE, make_drawn_shop

from tailorbird import Project
from tailorbird.errors import UsageError
from tailorbird.events import SystemClock
from tailorbird.ranking.bundle import write_bundle
from tailorbird.ranking.encode.encoder_fit import fit_encoder
from tailorbird.registry import ColumnNames, Head, Registry
from tailorbird.training.evaluation.off_policy import OffPolicyReport

SLOTS = """
from tailorbird.ranking import Slot

home = Slot("home", size=2, sources={"popular": 50, "new_items": 50}, hide_seen=(),
            formula="click")
cheap = Slot("cheap", size=2, sources={"popular": 50, "new_items": 50}, hide_seen=(),
             objective={"click": 1.0}, rules=["item.price < 4"])
one = Slot("one", size=1, sources={"popular": 50, "new_items": 50}, hide_seen=(),
           objective={"click": 1.0})
"""
EXPERIMENTS = """
from tailorbird.experiments import Experiment, Metric

rules = Experiment("rules", arms={"model": 0.5, "low": 0.25, "even": 0.25}, slot="home",
                   slots={"low": "cheap"}, policies={"even": "random"}, duration="7d",
                   metric=Metric("clicks", "count"))
"""
pytestmark = pytest.mark.slow  # several estimates, and a plan

BEST, CHEAP = (
    float(APPEAL_BY_ITEM[items] @ EXAMINED_SHARE_BY_PLACE) for items in ([-1, -2], [3, 2])
)
WORST, EVEN = (
    float(APPEAL_BY_ITEM[[0, 1]] @ EXAMINED_SHARE_BY_PLACE),
    float(APPEAL_BY_ITEM.mean() * EXAMINED_SHARE_BY_PLACE.sum()),
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a shop whose champion predicts clicks from the price, and purchases against it."""
    shop = make_drawn_shop(tmp_path_factory.mktemp("policies"))
    (shop.root / "slots.py").write_text(SLOTS)
    (shop.root / "experiments.py").write_text(EXPERIMENTS)
    project = shop.declarations
    features, index = project.features, shop.root / "index"
    serving_shop.build_shop_index(index)
    columns = ColumnNames(features.numeric, features.categorical, features.sequences)
    encoder = fit_encoder(columns, np.zeros((0, len(columns.categorical)), np.uint64))
    slopes = {"click": 0.2, "purchase": -0.2}
    write_bundle(
        shop.root / "bundle",
        created_at=0,
        features=features,
        encoder=encoder,
        models={
            f"model/{head}.onnx": serving_shop.make_linear_model(encoder.names, {"price": slope})
            for head, slope in slopes.items()
        },
        heads=[Head(head, f"model/{head}.onnx") for head in slopes],
        index=index,
        golden=np.zeros((4, len(encoder.names)), np.float32),
        formula={"click": 1.0},
    )
    registry = Registry(project.paths.registry, clock=SystemClock())
    registry.promote(registry.add(shop.root / "bundle", by="test"), by="test", why="the first")
    return shop


def test_a_formula_and_the_settings_of_another_slot_have_their_true_value(shop: Project) -> None:
    by_formula = shop.experiments.estimate(formula="purchase")
    assert (by_formula.new, by_formula.old) == ("v0001 by purchase", "v0001")
    _require_truth(by_formula, WORST, BEST)
    _require_truth(shop.experiments.estimate(settings_of="cheap"), CHEAP, BEST)


def test_an_arm_is_compared_with_the_control_of_its_experiment(shop: Project) -> None:
    report = shop.experiments.estimate(arm="rules:even")
    assert (report.new, report.old) == ("rules:even", "rules:model")
    _require_truth(report, EVEN, BEST)
    against = shop.experiments.estimate(arm="rules:even", against="rules:low")
    _require_truth(against, EVEN, CHEAP)
    told = must_json("-C", shop.root, "experiment", "estimate", "--arm", "rules:low")
    assert told["policies"] == {"new": "rules:low", "old": "rules:model"}
    assert told["new"]["estimates"]["dr"]["value"] == pytest.approx(CHEAP, abs=0.05)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({}, "nothing to estimate is named"),
        ({"bundle": "champion"}, "the same: v0001 with the settings of slot home"),
        ({"arm": "rules:lo"}, "experiment rules has no arm 'lo'"),
        ({"arm": "rule:low"}, "there is no experiment 'rule'"),
        ({"arm": "rules:low", "formula": "click"}, "an arm names its version"),
        ({"arm": "rules:model"}, "rules:model is the control of its experiment"),
        ({"arm": "rules:low", "slot": "cheap"}, "runs in slot home, and answers of slot cheap"),
        ({"settings_of": "one"}, "differ in nothing that is replayed: .*size 1"),
    ],
)
def test_what_is_no_policy_is_refused(shop: Project, named: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        shop.experiments.estimate(**named)


def test_a_plan_tells_which_interval_a_share_of_drawn_slates_buys(shop: Project) -> None:
    plan = shop.experiments.plan("rules", drawn_shares=True)
    by_arm = {row.arm: row for row in plan.drawn_shares if row.share == 0.1}
    low, even = by_arm["rules:low"], by_arm["rules:even"]
    assert low.half_width > even.half_width > 0
    assert even.effective > 4 * low.effective  # any item may be shown, cheap or not
    assert low.cost > 0 == low.unsupported
    text = must("-C", shop.root, "experiment", "plan", "rules", "--drawn-shares")
    assert "Estimates from the log alone, after 7 days" in text


def _require_truth(report: OffPolicyReport, new: float, old: float) -> None:
    for value, truth in ((report.evaluation.new, new), (report.evaluation.old, old)):
        estimate = value[report.headline]
        assert estimate.low - estimate.error < truth < estimate.high + estimate.error
