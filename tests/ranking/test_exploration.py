"""Propensities are the frequencies with which items are shown, and sum to one over what could be
shown at a position.
"""

import os
import time
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.errors import DeclarationError
from tailorbird.ranking import Boost, Cap, Diversity, Explore, Pin, Promotion, Quota, Slot
from tailorbird.ranking.policy.diversity import SlateConstraints, apply_constraints
from tailorbird.ranking.policy.exploration import draw_slate, draw_uniform_slate
from tailorbird.ranking.policy.slate_distribution import DRAWN_MAX, marginals, slate_distribution


def by_value(values):
    return np.argsort(-values, kind="stable")


def test_without_exploration_the_best_are_shown_for_sure():
    choice = draw_slate(by_value(np.array([0.1, 0.9, 0.5, 0.7])), 2, None, None)
    assert choice.items.tolist() == [1, 3]
    assert choice.propensities.tolist() == [1.0, 1.0]
    assert choice.explored_positions == ()


def frequencies(draw, n, size, draws):
    """Count each item at each position, and collect the propensity logged with it."""
    count, logged = np.zeros((size, n)), np.full((size, n), np.nan)
    for _ in range(draws):
        choice = draw()
        at = np.arange(choice.items.size)
        propensities = logged[at, choice.items]
        assert np.all(np.isnan(propensities) | (propensities == choice.propensities)), (
            "one event has two propensities"
        )
        logged[at, choice.items] = choice.propensities
        count[at, choice.items] += 1
    return count / draws, logged


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate", "pool", "first", "n"),
    [
        (0.2, 5, 2, 20),
        pytest.param(1.0, 3, 1, 7, marks=pytest.mark.nightly),
        pytest.param(0.5, 50, 4, 9, marks=pytest.mark.nightly),
        pytest.param(0.3, 10, 3, 6, marks=pytest.mark.nightly),
    ],
)
def test_frequencies_agree_with_logged_propensities(rate, pool, first, n):
    size, draws = 5, 200_000
    rng = np.random.default_rng(7)
    order = by_value(np.random.default_rng(1).random(n))
    explore = Explore(rate, pool, first)
    frequency, logged = frequencies(lambda: draw_slate(order, size, explore, rng), n, size, draws)

    p = np.nan_to_num(logged)
    tolerance = 5 * np.sqrt(p * (1 - p) / draws) + 1e-12  # five binomial standard deviations
    assert (np.abs(frequency - p) <= tolerance).all()
    np.testing.assert_allclose(
        p.sum(axis=1), 1.0
    )  # everything that can be shown was seen in so many draws


@pytest.mark.slow
def test_even_draws_have_the_propensity_that_is_logged():
    rng = np.random.default_rng(3)
    frequency, logged = frequencies(lambda: draw_uniform_slate(8, 3, rng), 8, 3, 100_000)
    assert (np.abs(frequency - 1 / 8) <= 5 * np.sqrt(1 / 8 * 7 / 8 / 100_000)).all()
    np.testing.assert_allclose(logged, 1 / 8)


@given(
    n=st.integers(0, 30),
    size=st.integers(1, 12),
    rate=st.floats(0, 1),
    pool=st.integers(0, 20),
    first=st.integers(1, 14),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_could_be_shown_at_a_position_sums_to_one(n, size, rate, pool, first, seed):
    """By the two values that an answer can log at a position: that of the ranked item, and that of
    each of the pool.
    """
    rng = np.random.default_rng(seed)
    order = by_value(rng.random(n))
    choice = draw_slate(order, size, Explore(rate, pool, first), rng)

    assert len(set(choice.items.tolist())) == choice.items.size == min(n, size)
    assert ((choice.propensities > 0) | (rate == 1)).all()
    m, reachable = choice.items.size - first + 1, min(pool, max(n - size, 0))
    can_explore = m >= 1 and reachable > 0 and rate > 0
    for index, (item, p) in enumerate(
        zip(choice.items.tolist(), choice.propensities.tolist(), strict=True), start=1
    ):
        if index in choice.explored_positions:
            assert item in order[size : size + pool]
            assert np.isclose(p * reachable + (1 - rate / m), 1.0)
        else:
            assert item == order[index - 1]
            assert np.isclose(p + (rate / m if can_explore and index >= first else 0.0), 1.0)


def test_the_same_seed_gives_the_same_answer():
    order, explore = by_value(np.arange(50.0)), Explore(0.5, 20, 1)
    first = [
        draw_slate(order, 10, explore, np.random.default_rng(s)).items.tolist() for s in range(20)
    ]
    redrawn = [
        draw_slate(order, 10, explore, np.random.default_rng(s)).items.tolist() for s in range(20)
    ]
    assert first == redrawn
    assert len({tuple(each) for each in first}) > 1


DRAWS = 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize("n", [4, *(pytest.param(n, marks=pytest.mark.nightly) for n in (5, 9))])
def test_a_million_swaps_agree_with_their_propensities(n):
    order, explore, size = (
        by_value(np.random.default_rng(1).random(n)),
        Explore(0.3, method="swap", first=2),
        4,
    )
    rng = np.random.default_rng(5)
    frequency, logged = frequencies(
        lambda: draw_slate(order, size, explore, rng), n, size, DRAWS // 20
    )
    p = np.nan_to_num(logged)
    assert (np.abs(frequency - p) <= 5 * np.sqrt(p * (1 - p) / (DRAWS // 20)) + 1e-12).all()
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    moved = np.abs(np.argmax(logged > 0, axis=0)[order[:size]] - np.arange(size))
    assert moved.max() <= 1


def by_enumeration(strengths, items):
    """The marginals from their definition: over all orders."""
    probabilities = np.zeros(len(items))
    for order in permutations(range(len(strengths))):
        p = 1.0
        for at, item in enumerate(order):
            p *= strengths[item] / strengths[list(order[at:])].sum()
        probabilities += p * (np.array(order)[: len(items)] == items)
    return probabilities


@given(st.lists(st.floats(-30, 0), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_marginals_are_those_of_the_definition(logs, draw):
    strengths = np.exp(np.array(logs))
    items = np.array(draw.sample(range(len(logs)), draw.randint(1, len(logs))))
    np.testing.assert_allclose(
        marginals(strengths, items), by_enumeration(strengths, items), rtol=1e-5, atol=1e-11
    )


@pytest.mark.slow
def test_a_million_draws_agree_with_their_propensities():
    """By Gumbel noise in blocks, as `choose` draws one by one."""
    values, explore, size = (
        np.array([0.9, 0.1, 0.8, 0.5, 0.45, 0.0, 0.3]),
        Explore(method="plackett_luce", temperature=0.3, first=2, pool=2),
        4,
    )
    order = by_value(values)
    rng = np.random.default_rng(3)
    count, logged = np.zeros((size, values.size)), np.full((size, values.size), np.nan)
    for _ in range(20_000):
        choice = draw_slate(order, size, explore, rng, values)
        at = np.arange(size)
        propensities = logged[at, choice.items]
        assert (np.isnan(propensities) | (np.abs(propensities - choice.propensities) < 1e-9)).all()
        logged[at, choice.items] = choice.propensities
        count[at, choice.items] += 1
        assert set(choice.explored_positions) == {
            place + 1
            for place, item in enumerate(choice.items.tolist())
            if item not in order[:size]
        }
    p = np.nan_to_num(logged)
    assert (np.abs(count / 20_000 - p) <= 5 * np.sqrt(p * (1 - p) / 20_000) + 1e-12).all()
    np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-6)

    pool = order[1 : size + explore.pool]
    scaled = (values[pool] - values[pool].min()) / np.ptp(values[pool])
    noisy = (scaled / explore.temperature)[None, :] + rng.gumbel(size=(DRAWS, pool.size))
    drawn = np.argsort(-noisy, axis=1)[:, : size - 1]
    for index in range(size - 1):
        often = np.bincount(drawn[:, index], minlength=pool.size) / DRAWS
        expected = p[index + 1, pool]
        assert (
            np.abs(often - expected) <= 5 * np.sqrt(expected * (1 - expected) / DRAWS) + 1e-9
        ).all()


def shaped(n, seed=0):
    """Candidates with a brand each, some promoted, one pinned; quotas of the first positions and of
    windows.
    """
    rng = np.random.default_rng(seed)
    brands, promoted = rng.integers(0, 4, n).astype(np.int64), rng.random(n) < 0.4
    quotas, promotions = (
        (Quota("brand", 2, first=4), Quota("brand", 2, window=3)),
        (Promotion("item.sale", 0.25),),
    )
    order = by_value(rng.random(n))
    order_ = apply_constraints(
        [brands[order]] * 2,
        quotas,
        6,
        pins={2: n - 1},
        promotions=promotions,
        promoted=[promoted[order]],
    )
    return order[order_], SlateConstraints(
        quotas, (brands, brands), promotions, (promoted,), frozenset({2})
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["item", "swap"])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.nightly)])
def test_with_quotas_promotions_and_a_pin_frequencies_agree_and_all_of_them_hold(method, seed):
    size, draws = 6, int(os.environ.get("PROPENSITY_DRAWS", "20000"))
    order, bounds = shaped(24, seed)
    explore, rng = Explore(0.4, pool=8, first=1, method=method), np.random.default_rng(11)
    answers = []

    def draw():
        choice = draw_slate(order, size, explore, rng, None, bounds)
        answers.append(tuple(choice.items.tolist()))
        return choice

    frequency, logged = frequencies(draw, 24, size, draws)
    p = np.nan_to_num(logged)
    assert (np.abs(frequency - p) <= 5 * np.sqrt(p * (1 - p) / draws) + 1e-12).all()
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    assert len(set(answers)) > 3, "something is drawn"
    assert {answer[2] for answer in answers} == {int(order[2])}, "the pin stays"
    ranked = bounds.count_violations(order[:size])
    assert max(bounds.count_violations(np.array(answer)) for answer in set(answers)) <= ranked


@given(st.integers(0, 2**32 - 1), st.sampled_from(["item", "swap"]))
def test_no_draw_breaks_what_the_ranked_answer_keeps(seed, method):
    order, bounds = shaped(12, seed)
    rng = np.random.default_rng(seed)
    for _ in range(5):
        choice = draw_slate(
            order, 6, Explore(1.0, pool=4, first=1, method=method), rng, None, bounds
        )
        assert len(set(choice.items.tolist())) == 6
        assert bounds.count_violations(choice.items) <= bounds.count_violations(order[:6])


@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_incremental_violations_equal_a_full_count(seed, at):
    order, bounds = shaped(14, seed)
    answer, items = order[:6], order[6:]
    after = [
        bounds.count_violations(np.concatenate([answer[:at], [item], answer[at + 1 :]]))
        for item in items
    ]
    assert (
        bounds.count_violations(answer) + bounds.added_violations(answer, at, items)
    ).tolist() == after


@pytest.mark.parametrize(
    "explore",
    [
        Explore(0.4, pool=2, first=1),
        Explore(0.3, pool=2, first=2, method="swap"),
        Explore(pool=2, first=1, method="plackett_luce", temperature=0.5),
        Explore(pool=1, first=2, method="plackett_luce", temperature=0.5, share=0.25),
    ],
    ids=["item", "swap", "plackett_luce", "share"],
)
def test_probabilities_of_all_slates_sum_to_one_and_to_those_of_each_position(explore):
    values = np.array([0.2, 0.9, 0.4, 0.7, 0.1, 0.5])
    distribution, size = slate_distribution(by_value(values), 3, explore, values), 3
    slates = np.array(list(permutations(range(values.size), size)))
    pairs = [distribution.propensities(slate) for slate in slates]
    marginal, joint = (np.array(part) for part in zip(*pairs, strict=True))
    assert joint[:, -1].sum() == pytest.approx(1.0)
    assert len(set(joint[:, -1].tolist())) > 2
    for position in range(size):
        for item in range(values.size):
            has = slates[:, position] == item
            assert joint[has, -1].sum() == pytest.approx(marginal[has, position][0], abs=2e-6)
        for prefix in {tuple(slate[: position + 1]) for slate in slates.tolist()}:
            has = (slates[:, : position + 1] == prefix).all(axis=1)
            np.testing.assert_allclose(joint[has, position], joint[has, -1].sum(), atol=1e-12)
    rng = np.random.default_rng(5)
    for _ in range(20):
        choice = draw_slate(by_value(values), size, explore, rng, values)
        index = np.flatnonzero((slates == choice.items).all(axis=1))[0]
        assert choice.joint_propensities.tolist() == joint[index].tolist()
        assert choice.propensities.tolist() == marginal[index].tolist()


def test_a_share_of_slates_is_drawn_and_the_rest_are_ranked():
    values = np.linspace(1, 0, 12)
    order, rng = by_value(values), np.random.default_rng(2)
    explore = Explore(method="plackett_luce", first=1, temperature=100, share=0.1)
    drawn = [draw_slate(order, 4, explore, rng, values) for _ in range(3_000)]
    ranked = np.mean([choice.items.tolist() == order[:4].tolist() for choice in drawn])
    assert abs(ranked - 0.9) < 0.03
    assert {choice.propensities[0] > 0.9 for choice in drawn} == {True, False}


def test_an_item_that_is_no_candidate_has_no_probability():
    values = np.array([0.2, 0.9, 0.4, 0.7])
    for explore in (None, Explore(), Explore(method="swap"), Explore(method="plackett_luce")):
        distribution = slate_distribution(by_value(values), 2, explore, values)
        marginal, joint = distribution.propensities(np.array([1, -1, 0]))
        assert (marginal[1:] == 0).all()
        assert (joint[1:] == 0).all()


def test_a_long_slate_draws_a_bounded_number_of_positions():
    values, rng = np.random.default_rng(0).random(1_000), np.random.default_rng(1)
    order = by_value(values)
    explore = Explore(method="plackett_luce", temperature=0.5, first=2, pool=50)
    started_at = time.process_time()
    choices = [draw_slate(order, order.size, explore, rng, values) for _ in range(20)]
    assert time.process_time() - started_at < 5, (
        "of all positions it would be minutes, and gigabytes"
    )
    for choice in choices:
        assert sorted(choice.items.tolist()) == list(range(1_000))
        drawn, rest = slice(1, 1 + DRAWN_MAX), slice(1 + DRAWN_MAX, None)
        assert choice.items[rest].tolist() == order[rest].tolist()
        assert (choice.propensities[rest] == 1).all()
        assert (choice.propensities[drawn] < 1).all()
        assert choice.explored_positions == ()
    assert len({tuple(choice.items[drawn].tolist()) for choice in choices}) == 20


def test_a_low_temperature_is_nearly_the_order_by_value():
    values = np.linspace(1, 0, 30)
    choice = draw_slate(
        by_value(values),
        10,
        Explore(method="plackett_luce", temperature=0.01, first=1),
        np.random.default_rng(0),
        values,
    )
    assert np.abs(choice.items - np.arange(10)).max() <= 2
    assert (choice.propensities > 0).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Explore(method="softmax"), "item, swap, plackett_luce"),
        (lambda: Explore(rate=1.5), "a share from 0 to 1"),
        (lambda: Explore(first=0), "a position"),
        (lambda: Explore(temperature=0), "0.01 to 100"),
        (lambda: Explore(method="plackett_luce", share=0), "a share above 0"),
        (lambda: Explore(share=0.1), "only plackett_luce"),
        (lambda: Quota("brand", 0), "at least 1 item"),
        (lambda: Quota("brand", 1, first=3, window=3), "not both"),
        (lambda: Diversity(by="brand"), "expected attributes"),
        (lambda: Diversity(method="max"), "mmr, dpp"),
        (lambda: Boost("item.sale", 0), "a factor above 0"),
        (lambda: Promotion("item.sale", 1.5), "a share above 0"),
        (lambda: Pin("i1", 0), "a position from 1 on"),
        (lambda: Cap("shown", 3, within="7 days"), "at least 1 and a time"),
        (lambda: Slot("home", pins=[Pin("i1", 2), Pin("i2", 2)]), "the same position"),
        (
            lambda: Slot("home", pins=[Pin("i1")], explore=Explore(method="plackett_luce")),
            "no quota",
        ),
        (lambda: Slot("home", per_category=2, explore=Explore(method="plackett_luce")), "no quota"),
        (
            lambda: Slot("home", diversity=Diversity(), explore=Explore(method="plackett_luce")),
            "no quota",
        ),
    ],
)
def test_invalid_declarations_raise(wrong, message):
    with pytest.raises(DeclarationError, match=message):
        wrong()
