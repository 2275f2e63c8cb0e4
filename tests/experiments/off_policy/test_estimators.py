"""Estimators by hand, without bias on logs with known truth, intervals that cover it, and refusal
where the log cannot tell.
"""

import math
import re
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from tailorbird.errors import UsageError
from tailorbird.experiments.off_policy.bounds import IntervalExtension, interval_extension
from tailorbird.experiments.off_policy.estimators import ESTIMATORS, clipped, dros, switch_dr
from tailorbird.experiments.off_policy.evaluate import evaluate_policies, evaluate_policy
from tailorbird.experiments.off_policy.sample import (
    PolicySample,
    divide_probabilities,
    to_positions,
)
from tailorbird.experiments.off_policy.support import check_support, effective_sample_size
from tailorbird.ranking import Explore
from tailorbird.ranking.policy.exploration import draw_slate
from tailorbird.ranking.policy.slate_distribution import slate_distribution

# Two responses: weights 4 and 1/2, rewards 1 and 0, predictions 0.5, expected 0.25.
BY_HAND = PolicySample.of_actions(
    [1, 0], [0.2, 0.8], [0.8, 0.4], prediction=[0.5, 0.5], expected=[0.25, 0.25]
)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (ESTIMATORS["ips"], 4 / 2),
        (ESTIMATORS["snips"], 4 / 4.5),
        (partial(clipped, limit=2), 2 / 2),
        (ESTIMATORS["dm"], 0.25),
        (ESTIMATORS["dr"], 0.25 + (4 * 0.5 - 0.5 * 0.5) / 2),
        (partial(switch_dr, limit=2), 0.25 - 0.5 * 0.5 / 2),
        (partial(dros, shrinkage=1.0), 0.25 + (4 / 17 * 0.5 - 0.5 / 1.25 * 0.5) / 2),
    ],
    ids=["ips", "snips", "clipped", "dm", "dr", "switch_dr", "dros"],
)
def test_values_by_hand(estimator: Callable, expected: float) -> None:
    assert estimator(BY_HAND).value == pytest.approx(expected)


def test_default_limits_are_large_enough_to_change_nothing_at_small_weights() -> None:
    sample = draw_sample(np.random.default_rng(0), 4_000)
    assert sample.weight.max() < math.sqrt(sample.response_count)
    assert ESTIMATORS["clipped"](sample).value == ESTIMATORS["ips"](sample).value
    assert ESTIMATORS["switch_dr"](sample).value == ESTIMATORS["dr"](sample).value
    assert ESTIMATORS["dros"](sample).value == pytest.approx(ESTIMATORS["dr"](sample).value, 0.02)


ACTIONS = np.linspace(-1, 1, 5)


def probabilities(taste: np.ndarray, strength: float) -> np.ndarray:
    weights = np.exp(strength * ACTIONS * taste[:, None])
    return weights / weights.sum(axis=1, keepdims=True)


def click_rates(taste: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(1.5 - ACTIONS * taste[:, None]))


def true_value(strength: float = 1.0) -> float:
    taste = np.random.default_rng(99).normal(size=100_000)
    return float((click_rates(taste) * probabilities(taste, strength)).sum(axis=1).mean())


def draw_sample(rng: np.random.Generator, n: int, strength: float = 1.0) -> PolicySample:
    """Draw a log of people who come several times; the model knows tastes, but too little."""
    people = n // 3
    person = rng.integers(people, size=n)
    taste = rng.normal(size=people)[person]
    logged, target = probabilities(taste, -0.5), probabilities(taste, strength)
    action = np.minimum((rng.random(n)[:, None] > logged.cumsum(axis=1)).sum(axis=1), 4)
    row = np.arange(n)
    model = 0.2 + 0.05 * ACTIONS * taste[:, None]
    return PolicySample.of_actions(
        rng.random(n) < click_rates(taste)[row, action],
        logged[row, action],
        target[row, action],
        person=person,
        prediction=model[row, action],
        expected=(model * target).sum(axis=1),
    )


def test_estimators_are_unbiased_and_their_intervals_cover_the_truth() -> None:
    truth, runs = true_value(), 100
    drawn = [
        evaluate_policy(
            draw_sample(np.random.default_rng(seed), 1_500),
            replicates=150,
            seed=1_000_000 + seed,
            ess_min=0,
            unsupported_max=1,
        )
        for seed in range(runs)
    ]
    for name in ("ips", "snips", "clipped", "dr", "switch_dr"):
        values = np.array([value[name].value for value in drawn])
        error = values.std() / math.sqrt(runs)
        assert 0 < error < 0.006
        assert abs(values.mean() - truth) < 4 * error, name
    for name, covered in {
        name: np.mean([value[name].low <= truth <= value[name].high for value in drawn])
        for name in drawn[0].estimates
    }.items():
        assert 0.88 < covered < 0.99, (name, covered)


def test_the_model_alone_is_biased_and_the_log_corrects_it() -> None:
    sample = draw_sample(np.random.default_rng(3), 30_000)
    truth = true_value()
    assert abs(ESTIMATORS["dm"](sample).value - truth) > 0.03
    assert abs(ESTIMATORS["dr"](sample).value - truth) < 0.03


def test_a_difference_is_paired() -> None:
    rng = np.random.default_rng(1)
    new, old = draw_sample(rng, 4_000, 0.5), draw_sample(np.random.default_rng(1), 4_000, 0.4)
    evaluation = evaluate_policies(new, old)
    difference = evaluation.difference["dr"]
    gap = true_value(0.5) - true_value(0.4)
    assert difference.low < gap < difference.high
    assert difference.error < 0.5 * evaluation.new["dr"].error
    same = evaluate_policies(new, new).difference["ips"]
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert "one-step reward over logged contexts" in str(evaluation)


def test_people_are_resampled_whole() -> None:
    """Responses repeated by the same person add nothing; as other people's they would."""
    single = draw_sample(np.random.default_rng(2), 1_000)
    columns = {
        name: np.repeat(getattr(single, name), 4, axis=0)
        for name in ("reward", "weight", "person", "shown", "prediction", "expected")
    }
    repeated = PolicySample(**columns)
    others = PolicySample(**{**columns, "person": np.arange(4_000)})
    errors = [evaluate_policy(each)["ips"].error for each in (single, repeated, others)]
    assert errors[1] == pytest.approx(errors[0], rel=0.1)
    assert errors[2] < 0.7 * errors[0]


CANDIDATES = np.array([0.9, 0.2, 0.8, 0.5])
APPEAL = np.array([0.30, 0.50, 0.10, 0.40])
EXAMINED = np.array([1.0, 0.6])
EXPLORE = Explore(method="plackett_luce", first=1, pool=10, temperature=1.0, share=0.5)


def draw_slates(rng: np.random.Generator, n: int, *, joint: bool) -> tuple[PolicySample, float]:
    """Log slates by the code that serves, and weigh them for the order by appeal."""
    order, target_order = np.argsort(-CANDIDATES), np.argsort(-APPEAL)
    target = slate_distribution(target_order, 2, None)
    slates = [draw_slate(order, 2, EXPLORE, rng, CANDIDATES) for _ in range(n)]
    items = np.array([slate.items for slate in slates])
    logged = np.array(
        [slate.joint_propensities if joint else slate.propensities for slate in slates]
    )
    chosen = np.array([target.propensities(slate.items)[int(joint)] for slate in slates])
    rate = APPEAL[items] * EXAMINED
    predicted = 0.5 * EXAMINED * np.ones(items.shape)
    sample = PolicySample(
        (rng.random(items.shape) < rate).astype(float),
        chosen / logged,
        np.arange(n),
        np.ones(items.shape, bool),
        predicted,
        predicted,
    )
    return sample, float(np.sum(APPEAL[target_order[:2]] * EXAMINED))


@pytest.mark.parametrize("joint", [False, True], ids=["item-position", "cascade"])
def test_slates_logged_by_the_slot_give_the_value_of_another_order(joint: bool) -> None:
    sample, truth = draw_slates(np.random.default_rng(4), 2_500, joint=joint)
    value = evaluate_policy(sample, ess_min=0)
    for name in ("ips", "snips", "dr"):
        estimate = value[name]
        assert estimate.low - estimate.error < truth < estimate.high + estimate.error, name
    assert abs(value.logged - truth) > 0.1
    item_position, _ = draw_slates(np.random.default_rng(4), 2_500, joint=False)
    assert check_support(sample).effective <= check_support(item_position).effective


def test_positions_that_a_response_lacks_count_nothing() -> None:
    offsets = np.array([0, 2, 3])
    reward, shown = to_positions(np.array([1.0, 0.0, 1.0]), offsets, 2, fill=0.0)
    target, _ = to_positions(np.array([0.5, 0.5, 0.2]), offsets, 2, fill=1.0)
    weight = divide_probabilities(target, np.full(target.shape, 0.25), shown)
    assert reward.tolist() == [[1, 0], [1, 0]]
    assert weight.tolist() == [[2, 2], [0.8, 1]]
    sample = PolicySample(reward, weight, np.arange(2), shown)
    assert ESTIMATORS["ips"](sample).value == pytest.approx((2 + 0.8) / 2)


def test_effective_sample_size() -> None:
    assert effective_sample_size(np.ones(7)) == 7
    assert effective_sample_size(np.array([1.0, 0, 0, 0])) == 1
    assert effective_sample_size(np.zeros(3)) == 0


def test_a_log_that_never_shows_the_choice_is_refused() -> None:
    rng = np.random.default_rng(0)
    weight = np.where(rng.random((3_000, 1)) < 0.5, 1.2, 0.0)  # mean .6: the rest cannot be seen
    sample = PolicySample(np.ones((3_000, 1)), weight, np.arange(3_000), np.ones((3_000, 1), bool))
    evaluation = evaluate_policies(sample, sample)
    assert re.search("could never have shown (39|40|41)% of", evaluation.refusal)
    assert 'Explore(method="plackett_luce"' in evaluation.refusal
    assert math.isnan(evaluation.new["ips"].value)
    assert evaluation.to_dict()["difference"]["ips"]["value"] is None
    assert "refused" in str(evaluation)
    assert evaluate_policy(sample, unsupported_max=0.5)["ips"].value == pytest.approx(0.6, abs=0.05)


def draw_rare(rng: np.random.Generator) -> PolicySample:
    """Draw a log that has one response, on average, of 4 % of the evaluated policy's choices.

    They earn nothing, and the others four of five.
    """
    n = 1_000
    is_odd = rng.random(n) < 0.04
    is_target = rng.random(n) < np.where(is_odd, 0.025, 0.975)
    logged = np.where(is_odd == is_target, 0.025, 0.975)
    return PolicySample.of_actions(
        is_target & ~is_odd & (rng.random(n) < 0.8),
        logged,
        is_target.astype(float),
        prediction=np.full(n, 0.8),
        expected=np.full(n, 0.8),
    )


def test_intervals_reach_for_choices_that_the_log_lacks_by_chance() -> None:
    truth, runs = 0.96 * 0.8, 100
    samples = [draw_rare(np.random.default_rng(seed)) for seed in range(runs)]
    values = [evaluate_policy(sample, replicates=150, ess_min=0) for sample in samples]
    lacks = np.array([sample.weight.max() < 10 for sample in samples])
    assert 0.2 < lacks.mean() < 0.6
    for name in ("ips", "snips", "dr"):
        covered = [value[name].low <= truth <= value[name].high for value in values]
        assert np.mean(covered) >= 0.9, name
    full = draw_sample(np.random.default_rng(0), 4_000)
    assert interval_extension(full, ESTIMATORS["dr"](full)) == IntervalExtension(0.0, 0.0)


def test_a_few_heavy_weights_are_refused() -> None:
    weight = np.full((2_000, 1), 0.5)
    weight[:10] = 100.0
    sample = PolicySample(
        np.ones(weight.shape), weight, np.arange(2_000), np.ones(weight.shape, bool)
    )
    support = check_support(sample)
    assert support.effective < 50
    assert "effective sample size is 4" in support.refusal
    assert check_support(sample, ess_min=10).is_enough


def test_known_missing_support_needs_no_inference() -> None:
    n = 500
    sample = PolicySample.of_actions(
        np.ones(n), np.full(n, 0.5), np.full(n, 0.5), unsupported=np.full(n, 0.2)
    )
    assert check_support(sample).unsupported == pytest.approx(0.2)
    assert not check_support(sample).is_enough


def test_what_cannot_be_estimated_says_so() -> None:
    sample = PolicySample.of_actions([1, 0], [0.5, 0.5], [0.5, 0.5])
    with pytest.raises(UsageError, match="needs predicted rewards"):
        evaluate_policy(sample, ["dr"])
    with pytest.raises(UsageError, match="no estimator 'magic'"):
        evaluate_policy(sample, ["magic"])
    with pytest.raises(ValueError, match="weight: expected shape"):
        PolicySample(np.zeros((2, 1)), np.zeros((3, 1)), np.arange(2), np.ones((2, 1), bool))


@pytest.mark.parametrize(
    ("logged", "match"),
    [([0.0, 0.5], "above 0, got 0 in row 0"), ([0.5, 1.2], "1.2 in row 1"), ([0.5], "1 prob")],
)
def test_what_cannot_have_been_logged_is_refused(logged: list[float], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        PolicySample.of_actions([1, 0], logged, [0.5, 0.5])
