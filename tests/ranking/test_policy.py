"""Propensities are the frequencies with which items are shown, and sum to one over what could be shown at a position."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.ranking import Explore
from tailorbird.ranking.policy import baseline_values, choose, choose_evenly, ranked


def test_without_exploration_the_best_are_shown_for_sure():
    choice = choose(ranked(np.array([0.1, 0.9, 0.5, 0.7]), 2), 2, None, None)
    assert choice.items.tolist() == [1, 3]
    assert choice.propensities.tolist() == [1.0, 1.0]
    assert choice.explored == 0


def frequencies(draw, n, size, draws):
    """How often each item stood at each position, and the propensity that was logged when it did."""
    count, logged = np.zeros((size, n)), np.full((size, n), np.nan)
    for _ in range(draws):
        choice = draw()
        at = np.arange(choice.items.size)
        told = logged[at, choice.items]
        assert np.all(np.isnan(told) | (told == choice.propensities)), "one event has two propensities"
        logged[at, choice.items] = choice.propensities
        count[at, choice.items] += 1
    return count / draws, logged


@pytest.mark.parametrize(("rate", "pool", "first", "n"), [(0.2, 5, 2, 20), (1.0, 3, 1, 7), (0.5, 50, 4, 9), (0.3, 10, 3, 6)])
def test_frequencies_agree_with_logged_propensities(rate, pool, first, n):
    size, draws = 5, 200_000
    rng = np.random.default_rng(7)
    order = ranked(np.random.default_rng(1).random(n), size)
    explore = Explore(rate, pool, first)
    frequency, logged = frequencies(lambda: choose(order, size, explore, rng), n, size, draws)

    p = np.nan_to_num(logged)
    tolerance = 5 * np.sqrt(p * (1 - p) / draws) + 1e-12  # five binomial standard deviations
    assert (np.abs(frequency - p) <= tolerance).all()
    np.testing.assert_allclose(p.sum(axis=1), 1.0)  # everything that can be shown was seen in so many draws


def test_even_draws_have_the_propensity_that_is_logged():
    rng = np.random.default_rng(3)
    frequency, logged = frequencies(lambda: choose_evenly(8, 3, rng), 8, 3, 100_000)
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
    """By the two values that an answer can log at a position: that of the ranked item, and that of each of the pool."""
    rng = np.random.default_rng(seed)
    order = ranked(rng.random(n), size)
    choice = choose(order, size, Explore(rate, pool, first), rng)

    assert len(set(choice.items.tolist())) == choice.items.size == min(n, size)
    assert ((choice.propensities > 0) | (rate == 1)).all()
    m, reachable = choice.items.size - first + 1, min(pool, max(n - size, 0))
    can_explore = m >= 1 and reachable > 0 and rate > 0
    for place, (item, p) in enumerate(zip(choice.items.tolist(), choice.propensities.tolist(), strict=True), start=1):
        if place == choice.explored:
            assert item in order[size : size + pool]
            assert np.isclose(p * reachable + (1 - rate / m), 1.0)
        else:
            assert item == order[place - 1]
            assert np.isclose(p + (rate / m if can_explore and place >= first else 0.0), 1.0)


def test_the_same_seed_gives_the_same_answer():
    order, explore = ranked(np.arange(50.0), 10), Explore(0.5, 20, 1)
    first = [choose(order, 10, explore, np.random.default_rng(s)).items.tolist() for s in range(20)]
    again = [choose(order, 10, explore, np.random.default_rng(s)).items.tolist() for s in range(20)]
    assert first == again
    assert len({tuple(each) for each in first}) > 1


def test_a_category_fills_at_most_its_share_of_the_answer():
    values = np.arange(10, 0, -1.0)
    groups = np.array([0, 0, 0, 0, 1, 0, 1, -1, -1, -1])
    assert ranked(values, 5, groups=groups, per_group=2)[:5].tolist() == [0, 1, 4, 6, 7]
    assert sorted(ranked(values, 5, groups=groups, per_group=2).tolist()) == list(range(10))


def test_a_limit_gives_way_before_an_answer_is_short():
    assert ranked(np.array([3.0, 2.0, 1.0]), 3, groups=np.zeros(3, int), per_group=1).tolist() == [0, 1, 2]


def test_baselines_order_by_popularity_and_by_age(index):
    rows = np.arange(len(index))
    popular = ranked(baseline_values("popular", index, rows), 5)[:5]
    assert (np.diff(index.counts["7d"][popular]) <= 0).all()
    recent = ranked(baseline_values("recent", index, rows), 5)[0]
    assert index.first_seen[recent] == index.first_seen.max()


def test_without_a_model_what_goes_with_the_recent_items_comes_before_what_is_popular(index):
    rows = np.arange(len(index))
    recent = index.keys[:1]
    near = index.item_to_item(recent, 3)
    assert near.rows.size, "the world's people leave pairs"
    related = ranked(baseline_values("related", index, rows, recent), 3)
    assert related[0] == near.rows[0]
    stranger = baseline_values("related", index, rows, None)
    assert ranked(stranger, len(index)).tolist() == ranked(baseline_values("popular", index, rows), len(index)).tolist()
