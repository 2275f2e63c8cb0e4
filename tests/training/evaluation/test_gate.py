"""The gate: a fresher model may lose a little, another one must win, and neither may fall behind
what stands fixed.
"""

import pytest

from tailorbird.training.evaluation.bootstrap import Interval
from tailorbird.training.evaluation.gate import (
    NON_INFERIORITY,
    SUPERIORITY,
    Decision,
    Evidence,
    Rival,
    decide,
    describe_unevaluated,
)

VALUE = 0.5  # of each rival: with a margin of 1 %, 0.005 may be lost
CLEAR, UNCLEAR, WORSE = (
    Interval(0.02, 0.01, 0.03),
    Interval(0.02, -0.01, 0.05),
    Interval(-0.02, -0.03, -0.01),
)
AS_GOOD, SLIGHTLY_WORSE = Interval(0.0, -0.004, 0.004), Interval(-0.001, -0.0045, 0.0025)
UNKNOWN = Interval(0.02, float("nan"), float("nan"))


def rival(gain: Interval, name: str = "popular:24h", value: float = VALUE) -> Rival:
    return Rival(name, gain, value)


def champion(gain: Interval) -> Rival:
    return rival(gain, "v0003")


def decision(**more: object) -> Decision:
    return decide(
        Evidence(**({"metric": "ndcg_10", "baselines": (rival(CLEAR),), "user_count": 500} | more))
    )


def fresher(gain: Interval, **more: object) -> Decision:
    return decision(**({"champion": champion(gain), "has_same_recipe": True} | more))


def test_a_clear_gain_is_promoted() -> None:
    assert decision().is_accepted
    assert (
        decision().reason
        == "ndcg_10 +0.0200 [+0.0100, +0.0300] over the best baseline, popular:24h"
    )
    verdict = decision(champion=champion(CLEAR))
    assert (verdict.is_accepted, verdict.rule) == (True, SUPERIORITY)
    assert verdict.reason == "ndcg_10 +0.0200 [+0.0100, +0.0300] over the champion, v0003"


@pytest.mark.parametrize("gain", [UNCLEAR, WORSE, AS_GOOD, UNKNOWN])
def test_another_recipe_without_significant_gain_is_rejected(gain: Interval) -> None:
    verdict = decision(champion=champion(gain))
    assert not verdict.is_accepted
    assert (
        "falls too far behind" if gain is WORSE else "no gain that could not be chance"
    ) in verdict.reason
    assert "the champion, v0003" in verdict.reason
    assert not decision(baselines=(rival(gain),)).is_accepted


def test_too_few_users_for_an_interval_are_reported() -> None:
    assert (
        "+0.0200 (too few people for an interval) over"
        in decision(baselines=(rival(UNKNOWN),)).reason
    )


@pytest.mark.parametrize(
    ("gain", "promoted"),
    [(CLEAR, True), (AS_GOOD, True), (SLIGHTLY_WORSE, True), (UNCLEAR, False), (WORSE, False)],
)
def test_a_fresher_model_of_the_same_recipe_may_lose_the_margin_and_no_more(
    gain: Interval, promoted: bool
) -> None:
    verdict = fresher(gain)
    assert (verdict.is_accepted, verdict.rule) == (promoted, NON_INFERIORITY)
    assert "where it may lose 1% (0.0050)" in verdict.reason
    assert ("falls too far behind" in verdict.reason) == (not promoted)


def test_the_margin_is_a_share_of_what_the_rival_reaches() -> None:
    assert fresher(
        Interval(-0.001, -0.0015, 0.0), champion=rival(Interval(-0.001, -0.0015, 0.0), "v0003", 0.2)
    ).is_accepted
    assert not fresher(
        Interval(-0.001, -0.0015, 0.0), champion=rival(Interval(-0.001, -0.0015, 0.0), "v0003", 0.1)
    ).is_accepted
    assert fresher(UNCLEAR, margin=0.05).is_accepted


def test_small_losses_do_not_add_up() -> None:
    """A fresher model is held against the last one that won by superiority, and against the best
    baseline, whoever serves now.
    """
    assert fresher(AS_GOOD, anchor=rival(SLIGHTLY_WORSE, "v0001")).is_accepted
    verdict = fresher(AS_GOOD, anchor=rival(WORSE, "v0001"))
    assert not verdict.is_accepted
    assert "the last model that won by superiority, v0001" in verdict.reason
    assert fresher(AS_GOOD, baselines=(rival(SLIGHTLY_WORSE),)).is_accepted
    assert "the best baseline" in fresher(AS_GOOD, baselines=(rival(WORSE),)).reason


def test_it_is_the_best_baseline_that_must_be_beaten() -> None:
    """By its own figure; and beating a weak champion is not enough."""
    better, weaker = (
        rival(Interval(0.001, -0.001, 0.003), "repeat+popular:7d", 0.6),
        rival(CLEAR, "popular:1h", 0.4),
    )
    verdict = decision(baselines=(weaker, better))
    assert not verdict.is_accepted
    assert "repeat+popular:7d" in verdict.reason
    assert decision(
        baselines=(rival(CLEAR, value=0.6), rival(UNCLEAR, "popular:1h", 0.4))
    ).is_accepted
    assert not decision(champion=champion(CLEAR), baselines=(rival(WORSE),)).is_accepted


def test_the_first_model_must_win_by_superiority() -> None:
    """There is no champion to be fresher than."""
    verdict = decision(has_same_recipe=True, baselines=(rival(AS_GOOD),))
    assert (verdict.is_accepted, verdict.rule) == (False, SUPERIORITY)


@pytest.mark.parametrize("same", [True, False])
def test_guardrails_apply_despite_a_gain(same: bool) -> None:
    def reason(**more: object) -> str:
        verdict = decision(champion=champion(CLEAR), has_same_recipe=same, **more)
        assert verdict.is_accepted == (not more)
        return verdict.reason

    reason()
    assert "session_size" in reason(
        leak_reasons={"session_size": "alone it reaches an AUC of 0.999"}
    )
    assert "7 people" in reason(user_count=7)
    assert (
        reason(calibration_ratios={"click": 1.1, "purchase": 2.5})
        == "its probabilities of purchase are off: on average 2.5 times what happened"
    )
    assert "0.4 times" in reason(calibration_ratios={"click": 0.4})
    assert "4.0% of the items that people chose, less than half of the 10.0%" in reason(
        coverage=0.04, coverage_reference=0.1
    )


def test_probabilities_and_lists_within_bounds_are_no_matter() -> None:
    assert decision(
        calibration_ratios={"click": 1.9, "purchase": 0.55}, coverage=0.06, coverage_reference=0.1
    ).is_accepted


def test_a_champion_that_could_not_be_evaluated_is_reported() -> None:
    verdict = decision(champion_note=describe_unevaluated("v0003", "predicts view"))
    assert verdict.is_accepted
    assert any(
        "v0003 could not be judged on this test part: it predicts view" in reason
        for reason in verdict.reasons
    )


def test_nothing_to_compare_with_is_refused() -> None:
    assert not decision(baselines=()).is_accepted
    assert "nothing to compare with" in decision(baselines=()).reason
    assert decision(baselines=(), champion=champion(CLEAR)).is_accepted


def test_a_model_that_the_log_finds_worse_is_rejected() -> None:
    text = "clicks per answer: 0.10 against 0.20"
    worse = decision(champion=champion(CLEAR), estimate=text, is_estimated_worse=True)
    assert not worse.is_accepted
    assert worse.reason == f"earns less than the champion: {text}"
    told = decision(champion=champion(CLEAR), estimate=text)
    assert told.is_accepted
    assert text in told.reasons
