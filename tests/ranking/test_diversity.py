"""Diversity reorders and leaves nothing out."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.ranking.diversity import limit_groups, mmr


@given(st.lists(st.integers(-1, 4), max_size=40), st.integers(1, 12), st.integers(1, 4))
def test_the_limit_against_a_loop(groups, size, per_group):
    taken, left = [], []
    for place, group in enumerate(groups):
        crowded = group >= 0 and sum(groups[each] == group for each in range(place)) >= per_group
        (left if crowded or len(taken) == size else taken).append(place)
    assert limit_groups(np.array(groups, int), size, per_group).tolist() == taken + sorted(left)


def test_mmr_takes_the_second_best_if_it_is_unlike_the_best():
    similarity = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    values = np.array([1.0, 0.9, 0.5])
    assert mmr(values, similarity, 3, balance=0.5).tolist() == [0, 2, 1]
    assert mmr(values, similarity, 3, balance=1.0).tolist() == [0, 1, 2]


@given(st.lists(st.floats(0, 1), max_size=15), st.integers(1, 20))
def test_mmr_gives_every_item_once(values, size):
    n = len(values)
    similarity = np.random.default_rng(0).random((n, n))
    assert sorted(mmr(np.array(values), similarity, size).tolist()) == list(range(n))
