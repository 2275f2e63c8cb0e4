"""The gate promotes on proof only."""

from tailorbird.training.bootstrap import Interval
from tailorbird.training.gate import Evidence, decide

CLEAR, UNCLEAR, WORSE = Interval(0.02, 0.01, 0.03), Interval(0.02, -0.01, 0.05), Interval(-0.02, -0.03, -0.01)
UNKNOWN = Interval(0.02, float("nan"), float("nan"))


def decision(**more):
    return decide(Evidence(**({"metric": "ndcg_10", "over_baselines": {"popular": CLEAR, "random": CLEAR}, "people": 500} | more)))


def test_a_clear_gain_over_every_baseline_goes_live():
    assert decision().promote
    assert decision(over_incumbent=CLEAR, incumbent="v0003").reason == "ndcg_10 +0.0200 [+0.0100, +0.0300] over the incumbent v0003"


def test_a_gain_that_could_be_chance_does_not():
    result = decision(over_baselines={"random": CLEAR, "popular": Interval(0.01, -0.01, 0.03)})
    assert not result.promote
    assert "no gain that could not be chance" in result.reason
    assert "popular" in result.reason
    assert not decision(over_incumbent=UNCLEAR, incumbent="v0003").promote
    assert not decision(over_incumbent=WORSE, incumbent="v0003").promote
    alone = decision(over_baselines={"popular": UNKNOWN})
    assert not alone.promote
    assert "+0.0200 (too few people for an interval) over" in alone.reason


def test_each_baseline_must_be_beaten_outside_the_noise_not_the_best_alone():
    result = decision(over_baselines={"popular": Interval(0.01, 0.005, 0.015), "own_history": Interval(0.012, -0.002, 0.026)})
    assert not result.promote
    assert result.reason == "no gain that could not be chance: ndcg_10 +0.0120 [-0.0020, +0.0260] over the baseline own_history"


def test_beating_a_weak_incumbent_is_not_enough():
    assert not decision(over_incumbent=CLEAR, incumbent="v0003", over_baselines={"popular": WORSE}).promote


def test_a_leaking_column_is_named():
    result = decision(leaks={"session_size": "alone it reaches an AUC of 0.999"})
    assert not result.promote
    assert "session_size" in result.reason


def test_too_few_people_say_nothing():
    assert "7 people" in decision(people=7).reason


def test_an_incumbent_of_another_schema_is_said_so():
    result = decision(incumbent="v0003")
    assert result.promote
    assert any("another schema" in reason for reason in result.reasons)
    result = decision(incumbent="v0003", unjudged="predicts view")
    assert any("v0003 could not be judged on this test part: it predicts view" in reason for reason in result.reasons)


def test_nothing_to_compare_with_is_refused():
    assert not decision(over_baselines={}).promote
